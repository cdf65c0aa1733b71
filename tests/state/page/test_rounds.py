"""Rounds: which cycles a log is made of, which of them are alike, and what is the matter with one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from state.page.limits import Limits
from state.page.rounds import Kind, Notes, Rounds
from state.page.scanning import scan
from state.recording import Recording
from state.records import Records
from state.stores import MemoryStore

Writes = dict[str, object]
Place = tuple[int | None, str | None, int | None, int | None]


def rounds_of(*segments: tuple[Place, Writes]) -> tuple[Rounds, Records]:
    """The rounds of a log of these segments; a name that begins with "external" is of that actor."""
    store = MemoryStore()
    recording = Recording(store)
    for place, writes in segments:
        recording.cut()
        recording.position = place
        for name, value in writes.items():
            actor = "external" if name.startswith("external") else "stage"
            recording.actor(actor, "stage", "")
            recording.field(name, "run", "Any", "")
            is_exit = name == "exit"
            slot = recording.slot(actor, "exit" if is_exit else "write", None if is_exit else name, "write")
            assert slot is not None
            (recording.mark if is_exit else recording.write)(slot, value)
    recording.flush()
    records = Records(store)
    return scan(records, Limits()).rounds, records


def batch(number: int, writes: Writes, phase: str = "fit") -> tuple[Place, Writes]:
    return (0, phase, number, number), writes


def deviating(rounds: Rounds) -> list[int | None]:
    regular = rounds.regular()
    return [made.place[2] for made in rounds.made if made.shape not in regular]


def test_the_most_frequent_shape_of_a_phase_is_regular_and_another_deviates() -> None:
    extra: Writes = {"loss": 1.0, "lr": 0.5}
    rounds, _ = rounds_of(*[batch(n, extra if n == 4 else {"loss": 1.0}) for n in range(9)])
    assert deviating(rounds) == [4]


def test_each_phase_has_a_typical_cycle_of_its_own() -> None:
    fit = [batch(n, {"loss": 1.0, "updates": n}) for n in range(6)]
    rounds, _ = rounds_of(*fit, *[batch(n, {"loss": 1.0}, "validate") for n in range(2)])
    assert deviating(rounds) == []
    assert {shape.kind for shape in rounds.shapes} == {Kind("batch", "fit"), Kind("batch", "validate")}


def test_rounds_that_alternate_are_both_regular() -> None:
    step: Writes = {"loss": 1.0, "updates": 1}
    rounds, _ = rounds_of(*[batch(n, step if n % 4 == 3 else {"loss": 1.0}) for n in range(12)])
    assert deviating(rounds) == []


def test_a_round_that_was_timed_is_no_deviation() -> None:
    timed: Writes = {"loss": 1.0, "exit": ["ok", 5, None]}
    rounds, _ = rounds_of(*[batch(n, timed if n == 0 else {"loss": 1.0}) for n in range(5)])
    assert len(rounds.shapes) == 1


def test_a_change_that_nobody_declared_deviates_however_frequent_it_is() -> None:
    rounds, _ = rounds_of(*[batch(n, {"loss": 1.0, "external lr": 1.0}) for n in range(5)])
    assert deviating(rounds) == [0, 1, 2, 3, 4]
    assert {note for made in rounds.made for note in made.notes} == {"violation"}


@pytest.mark.parametrize(
    ("writes", "notes"),
    [
        ({"loss": float("nan")}, {"not finite"}),
        ({"loss": float("-inf")}, {"not finite"}),
        ({"loss": 1e308, "text": "nan", "count": 2**70, "flag": True, "none": None}, set()),
        ({"exit": ["failed", None, "ValueError: no"]}, {"ended"}),
        ({"exit": ["cancelled", 5, "user (run): enough"]}, {"ended"}),
        ({"exit": ["exhausted", None, None]}, set()),
    ],
    ids=str,
)
def test_a_round_says_what_is_the_matter_with_it(writes: Writes, notes: set[str]) -> None:
    rounds, _ = rounds_of(batch(0, writes))
    assert rounds.made[0].notes == notes


def test_a_summary_with_a_norm_that_is_not_finite_is_found() -> None:
    _, records = rounds_of(batch(0, {"outputs": 1.0}))
    notes = Notes(records)
    summary = [0, -1.0, 1.0, 0.0, float("inf"), None, None]
    assert notes.of((0, 0, (0, "fit", 0, 0), 0, [summary])) == [(0, "not finite")]
    assert notes.of((0, 0, (0, "fit", 0, 0), 0, [[*summary[:4], 2.0, None, None]])) == []


def test_what_stands_around_the_batches_of_an_epoch_is_one_round() -> None:
    pieces = [((e, None, None, e), {"epoch": e}) for e in range(2)]
    ends = [((e, "fit", None, e), {"train_loss": 0.5}) for e in range(2)]
    batches = [((e, "fit", 0, e), {"loss": 1.0}) for e in range(2)]
    rounds, _ = rounds_of(*[part for three in zip(pieces, batches, ends, strict=True) for part in three])
    frames = [made for made in rounds.made if made.place[2] is None]
    assert [len(made.segments) for made in frames] == [2, 2]
    assert deviating(rounds) == []


def test_rounds_stand_in_the_order_of_their_first_records(train: Callable[..., Recording], tmp_path: Path) -> None:
    store = MemoryStore()
    train(store).flush()
    rounds = scan(Records(store), Limits()).rounds
    assert [made.segments[0] for made in rounds.made] == sorted(made.segments[0] for made in rounds.made)
    assert sum(len(made.segments) for made in rounds.made) == len(list(store.segments()))
