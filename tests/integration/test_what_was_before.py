"""The value before a write is the one that the write replaced: the log against what stages find in State."""

from contextlib import suppress
from typing import Any

import pytest
import torch

from learner import Composite, Learner, TrainState, field, stage, supervised
from learner.recipes import validate
from learner.testing import toy_learner
from state import ABSENT, ChangeLog

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


class Notes(TrainState):
    of_epoch: int = field(scope="epoch")
    of_phase: int = field(scope="phase")
    of_batch: int = field(scope="batch")
    of_update: int = field(scope="update")
    of_inner: int = field(scope="inner", default=0)


def noting(*names: str) -> tuple[Any, list[tuple[str, Any]]]:
    """A stage that writes these fields, twice each, and the list of (name, the value it found before the write)."""
    seen: list[tuple[str, Any]] = []

    @stage(state=Notes, reads=tuple(f"{name}?" for name in names), writes=names)
    def note(state: Any) -> None:
        for name in names * 2:
            seen.append((name, getattr(state, name)))
            setattr(state, name, len(seen))

    return note, seen


def told(log: ChangeLog, names: Any) -> list[tuple[str, Any]]:
    """The same by the log, which finds it in one pass as it does by looking back from each change."""
    kinds = ("write", "enter", "exit")
    changes = [change for change in log.changes() if change.kind in kinds and change.actor != "guard"]
    assert list(log.tail(len(log))) == changes
    return [(str(c.field), None if c.before is ABSENT else c.before) for c in changes if c.field in names]


def check(learner: Learner, seen: list[tuple[str, Any]]) -> None:
    """The log tells what was there."""
    assert seen
    assert told(learner.log, {name for name, _ in seen}) == seen


@pytest.mark.parametrize("names", [("of_batch",), ("of_phase", "of_batch"), ("of_epoch",)], ids=str)
def test_two_lone_batches_in_a_row_are_two(names: tuple[str, ...]) -> None:
    note, seen = noting(*names)
    learner = toy_learner(stages=supervised().insert(note, before="gradient"))
    learner.fit_batch(BATCH)
    learner.fit_batch(BATCH)
    check(learner, seen)
    first_of_second = seen[2 * len(names) : 3 * len(names)]
    assert [before for _, before in first_of_second] == [None] * len(names)


@pytest.mark.parametrize("run", [lambda learner: learner.validate(), lambda learner: learner.run("epoch/validate")])
def test_two_lone_validations_in_a_row_are_two(run: Any) -> None:
    note, seen = noting("of_phase", "of_batch", "of_epoch")
    learner = toy_learner(stages=supervised().insert(note, before="validate_loss"))
    for _ in range(2):
        run(learner)
    learner.fit(epochs=1)
    check(learner, seen)


def test_two_lone_phases_and_a_fit_between_are_three() -> None:
    note, seen = noting("of_epoch", "of_phase", "of_batch")
    learner = toy_learner(stages=supervised().insert(note, before="gradient"))
    learner.run("epoch/fit")
    learner.fit(batches=3)
    learner.run("epoch/fit")
    learner.run("epoch/fit/batch/note")
    learner.run("epoch/fit/batch/note")
    check(learner, seen)


def test_value_that_a_person_sets_between_two_runs_replaces_none_of_the_run() -> None:
    note, seen = noting("of_epoch", "of_batch")
    learner = toy_learner(stages=supervised().insert(note, before="gradient"))
    learner.fit_batch(BATCH)
    learner.state.of_batch = 7
    seen.append(("of_batch", None))
    learner.fit_batch(BATCH)
    check(learner, seen)


class Sometimes(Composite):
    """Runs its stages in every third batch."""

    runs = "0-1"
    reads = ("batch_index",)

    def run(self, state: Any) -> None:
        if state.batch_index % 3 == 1:
            super().run(state)


def test_validation_inside_a_batch_hides_the_values_of_the_batch_and_gives_them_back() -> None:
    note, seen = noting("of_epoch", "of_phase", "of_batch")
    inside = validate().insert(note, before="validate_loss")
    tree = supervised(valid=False)
    tree = tree.insert(note, before="gradient").insert(note, after="update", slot="last")
    tree = tree.insert(Sometimes(inside), after="gradient")
    learner = toy_learner(stages=tree)
    slots = [(learner.before, "validate"), (learner.after, "validate"), (learner.after, "sometimes")]
    for side, slot in [*slots, (learner.after, "validate/checkpoint")]:
        side(slot, state=Notes, reads=("of_batch",), writes=("of_batch",))(lambda of_batch: found(seen, of_batch))
    learner.fit(epochs=2)
    check(learner, seen)
    points = learner.log.where(actor="*checkpoint*", field="of_batch", epoch=0)
    assert [change.position.batch for change in points] == [0, 1] * 3
    last = learner.log.blame("of_batch", at="1:fit:4")
    assert learner.log.at(epoch=1, phase="fit", batch=4)["of_batch"] == last.after


def found(seen: list[tuple[str, Any]], of_batch: int) -> int:
    """Note what a hook found; its value from then on."""
    seen.append(("of_batch", of_batch))
    return len(seen) * 100


class Turns(Composite):
    """Runs its stages three times, each in a round of its own scope."""

    each = "inner"
    runs = "1+"

    def run(self, state: Any) -> None:
        for _ in range(3):
            with state.round():
                super().run(state)


def test_rounds_of_a_scope_of_ones_own_are_told_apart_within_a_batch() -> None:
    note, seen = noting("of_inner", "of_batch")
    learner = toy_learner(stages=supervised().insert(Turns(note, turns=Turns(note)), before="gradient"))
    learner.fit(batches=2)
    check(learner, seen)


def test_updates_of_several_batches_are_told_apart_and_their_batches_by_their_numbers() -> None:
    note, seen = noting("of_update", "of_batch")
    learner = toy_learner(stages=supervised(accumulate=3, valid=False).insert(note, before="gradient"))
    learner.fit(epochs=2)
    check(learner, seen)
    kinds = [(change.kind, change.evidence) for change in learner.log.changes() if change.kind in ("open", "close")]
    assert set(kinds) == {("open", "run"), ("open", "update"), ("close", "update")}
    updated = learner.log.history("model.params")
    assert {change.position.batch for change in updated} == {None}, "an update stands behind its batches"


def test_field_of_an_update_that_nobody_opens_lives_as_long_as_the_batch() -> None:
    note, seen = noting("of_update")
    learner = toy_learner(stages=supervised().insert(note, before="gradient"))
    learner.fit(batches=3)
    check(learner, seen)
    assert [before for _, before in seen] == [None, 1, None, 3, None, 5]


class Twice(Composite):
    """Runs its stages two times."""

    runs = "1+"

    def run(self, state: Any) -> None:
        super().run(state)
        super().run(state)


def test_phase_that_runs_twice_in_an_epoch_is_two() -> None:
    note, seen = noting("of_epoch", "of_phase", "of_batch")
    tree = supervised(valid=False).insert(note, before="gradient")
    learner = toy_learner(stages=type(tree)(epoch=Twice(fit=tree.stages["epoch"].stages["fit"])))
    learner.fit(epochs=2)
    check(learner, seen)


def test_regular_fit_is_told_of_no_scope_but_the_run() -> None:
    learner = toy_learner()
    learner.fit(epochs=2)
    learner.fit(epochs=1)
    told = [(c.actor, c.evidence, c.position.epoch) for c in learner.log.changes() if c.kind in ("open", "close")]
    assert told == [("user", "run", None)] * 2


def test_values_of_a_failed_part_that_somebody_caught_are_what_is_replaced_next() -> None:
    note, seen = noting("of_batch")

    class Trying(Composite):
        """Runs its stages, and goes on if they fail."""

        runs = "0-1"

        def run(self, state: Any) -> None:
            with suppress(ZeroDivisionError):
                super().run(state)

    tree = supervised(valid=False).insert(note, before="gradient").insert(note, after="update", slot="last")
    inside = Trying(validate().insert(note, before="validate_loss"))
    learner = toy_learner(stages=tree.insert(inside, after="gradient"))
    learner.after("validate_loss")(lambda state: 1 / 0)
    learner.fit(batches=2)
    assert seen[4][1] == 4, "the value of the failed validation stays"
    check(learner, seen)


def test_single_field_on_record_is_told_as_well() -> None:
    note, seen = noting("of_batch")
    learner = toy_learner(stages=supervised().insert(note, before="gradient"), audit={"*": "off", "of_batch": "writes"})
    learner.fit_batch(BATCH)
    learner.fit_batch(BATCH)
    assert [change.before for change in learner.log.history("of_batch")] == [ABSENT, None, ABSENT, None]


def test_value_before_the_first_write_is_what_the_scope_began_with() -> None:
    class Begun(TrainState):
        made: Any = field(scope="batch", factory=lambda state: object())
        listed: list[int] = field(scope="batch", default=[1, 2])
        plain: int = field(scope="batch", default=3)
        late: int = field(scope="batch")

    @stage(state=Begun, writes=("made", "listed", "plain", "late"))
    def begin() -> Any:
        return 1, [3], 4, 5

    learner = toy_learner(stages=supervised(valid=False).insert(begin, before="gradient"), valid=None)
    learner.fit(batches=2)
    before = [[c.before for c in learner.log.history(name)] for name in ("made", "listed", "plain", "late")]
    assert before == [["made by its factory"] * 2, ["list[2]"] * 2, [3] * 2, [ABSENT] * 2]


def test_prediction_is_on_record_as_what_ends_the_values_of_scopes() -> None:
    learner = toy_learner()
    learner.state.targets = 1
    learner.predict([BATCH])
    assert not learner.state.ready("targets")
    learner.state.targets = 2
    learner.state.targets = 3
    assert [c.before for c in learner.log.history("targets")] == [ABSENT, ABSENT, 2]
    assert [c.actor for c in learner.log.where(kind="open", evidence="run")] == ["user"]
