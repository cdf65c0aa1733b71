"""What a write replaced, read from hand-made records: a few letters stand for what was written."""

from typing import Any

import pytest

from state import ABSENT, ChangeLog
from state.position import Place
from state.recording import Recording
from state.stores import MemoryStore

NO_PLACE: Place = (None, None, None, None)
SCOPES = {"r": "run", "e": "epoch", "p": "phase", "b": "batch", "t": "turn"}
DEFAULTS = {"t": 0}

Step = tuple[Any, ...]
"""A field and a value; "open" or "close" and a scope, perhaps with "kept"; "at" and a place."""


def log_of(*steps: Step, rounds: int = 10_000) -> ChangeLog:
    store = MemoryStore(rounds)
    recording = Recording(store)
    recording.actor("a", "stage", "")
    for name, scope in SCOPES.items():
        recording.field(name, scope, "int", "", **({"default": DEFAULTS[name]} if name in DEFAULTS else {}))
    for what, value, *rest in steps:
        if what == "at":
            recording.cut()
            recording.position = (*value, *(None,) * (4 - len(value)))
            continue
        is_write = what in SCOPES
        slot = recording.slot("a", "write" if is_write else what, what if is_write else None, "" if is_write else value)
        assert slot is not None
        recording.mark(slot, value if is_write else rest[0] if rest else None)
    recording.flush()
    return ChangeLog(store)


def befores(log: ChangeLog) -> list[object]:
    """The values before, in one pass; looking back from each has to find the same."""
    changes = [change for change in log.changes() if change.kind == "write"]
    assert list(log.tail(len(log))) == changes
    return [change.before for change in changes]


IN_BATCH = ("at", (0, "fit", 3))
IN_VALIDATION = ("at", (0, "validate", 0))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([IN_BATCH, ("b", 1), ("b", 2)], [ABSENT, 1], id="same place"),
        pytest.param([IN_BATCH, ("b", 1), ("at", (0, "fit", 4)), ("b", 2)], [ABSENT, ABSENT], id="another batch"),
        pytest.param([IN_BATCH, ("p", 1), ("at", (0, "fit", 4)), ("p", 2)], [ABSENT, 1], id="phase goes on"),
        pytest.param(
            [
                IN_BATCH,
                ("b", 1),
                ("e", 2),
                ("r", 3),
                ("at", ()),
                ("open", "run"),
                IN_BATCH,
                ("b", 4),
                ("e", 5),
                ("r", 6),
            ],
            [ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, 3],
            id="another run",
        ),
        pytest.param(
            [IN_BATCH, ("t", 1), ("open", "turn"), ("t", 2), ("t", 3), ("close", "turn"), ("open", "turn"), ("t", 4)],
            [0, 0, 2, 0],
            id="turns at one place",
        ),
        pytest.param(
            [IN_BATCH, ("open", "turn"), ("b", 1), ("close", "turn"), ("b", 2), ("open", "turn"), ("b", 3)],
            [ABSENT, 1, 2],
            id="batch goes on through turns",
        ),
        pytest.param(
            [("at", (0, "fit", 1)), ("open", "turn"), ("t", 1), ("at", (0, "fit", 2)), ("t", 2)],
            [0, 1],
            id="turn goes on through batches",
        ),
        pytest.param(
            [IN_BATCH, ("b", 1), ("open", "phase"), ("at", (0, "validate")), ("b", 2), ("open", "batch"), IN_VALIDATION]
            + [("b", 3), ("at", (0, "validate")), ("close", "batch"), ("b", 4), IN_BATCH, ("close", "phase"), ("b", 5)],
            [ABSENT, 1, ABSENT, 2, 4],
            id="validation in a batch",
        ),
        pytest.param(
            [("at", (0, "fit", 2)), ("b", 1), IN_BATCH, ("open", "phase"), ("at", (0, "validate")), ("b", 2)],
            [ABSENT, ABSENT],
            id="hook of a validation in the next batch",
        ),
        pytest.param(
            [IN_BATCH, ("b", 1), ("open", "batch"), ("b", 2), ("close", "batch", "kept"), ("b", 3), ("b", 4)],
            [ABSENT, ABSENT, 2, 3],
            id="kept",
        ),
        pytest.param(
            [IN_BATCH, ("b", 1), ("open", "batch"), ("close", "batch", "kept"), ("b", 3)],
            [ABSENT, ABSENT],
            id="kept without a value",
        ),
    ],
)
def test_value_before(steps: list[Step], expected: list[object]) -> None:
    assert befores(log_of(*steps)) == expected


def test_closing_whose_opening_is_no_longer_in_the_log_ends_what_was_read() -> None:
    steps = [("at", (0, "fit", 1)), ("open", "turn"), ("t", 1), ("at", (0, "fit", 2)), ("t", 2)]
    steps += [("close", "turn"), ("t", 3)]
    assert [change.before for change in log_of(*steps).changes() if change.field] == [0, 1, 0]
    assert [change.before for change in log_of(*steps, rounds=1).changes() if change.field] == [0, 0]


def test_scope_that_was_never_closed_ends_with_the_one_round_it() -> None:
    log = log_of(IN_BATCH, ("t", 1), ("open", "batch"), ("open", "turn"), ("t", 2), ("close", "batch"), ("t", 3))
    assert [change.before for change in log.history("t")] == [0, 0, 1]


def test_state_at_a_round_has_what_was_given_back_and_not_what_was_hidden() -> None:
    log = log_of(
        *[IN_BATCH, ("e", 1), ("p", 2), ("b", 3), ("t", 4), ("open", "phase"), ("at", (0, "validate"))],
        *[("open", "batch"), IN_VALIDATION, ("p", 5), ("b", 6), ("open", "turn"), ("t", 7), ("close", "turn")],
        *[("at", (0, "validate")), ("close", "batch"), IN_BATCH, ("close", "phase"), ("r", 8)],
    )
    assert log.at(epoch=0, phase="validate", batch=0) == {"b": 6, "e": 1, "p": 5, "t": 4}
    assert log.at(epoch=0, phase="fit", batch=3) == {"b": 3, "e": 1, "p": 2, "r": 8, "t": 4}
    assert log.at(epoch=0, phase="fit") == {"e": 1, "p": 2, "r": 8, "t": 4}
