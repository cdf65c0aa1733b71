"""Profile: the time of each stage, and of what is inside it."""

import pytest

from state.profile import Spent, profile
from state.recording import Recording
from state.records import Records
from state.stores import MemoryStore


def recorded(*exits: tuple[str, float | None]) -> list[Spent]:
    """The profile of stages that were left after so many milliseconds."""
    store = MemoryStore()
    recording = Recording(store)
    for actor, milliseconds in exits:
        recording.actor(actor, "stage", "")
        slot = recording.slot(actor, "exit", None, "")
        assert slot is not None
        recording.mark(slot, ["ok", None if milliseconds is None else int(milliseconds * 1e6), None])
    recording.flush()
    return profile(Records(store))


def test_own_time_is_what_the_stages_inside_leave() -> None:
    rows = recorded(("a/b", 2.0), ("a/c", 5.0), ("a", 10.0))
    assert [row.actor for row in rows] == ["a", "a/c", "a/b"], "the longest first"
    assert rows[0] == Spent("a", 1, 10.0, pytest.approx(3.0), None)
    assert [row.share for row in rows[1:]] == [pytest.approx(0.5), pytest.approx(0.2)]


def test_of_a_loop_only_the_shares_within_its_timed_rounds_are_known() -> None:
    rows = recorded(("a/b", 2.0), ("a/c", 6.0), ("a/b", 2.0), ("a/c", 6.0), ("a", 100.0))
    assert rows[0].own_ms is None
    assert [(row.calls, row.mean_ms, row.share) for row in rows[1:]] == [(2, 6.0, 0.75), (2, 2.0, 0.25)]


def test_what_was_not_timed_does_not_count() -> None:
    assert recorded(("a/b", None), ("a", 1.0), ("a", None)) == [Spent("a", 1, 1.0, 1.0, None)]
