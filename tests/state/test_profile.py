"""Profile: the time of each stage, and of what is inside it."""

import pytest

from state.profile import Spent, profile
from state.recording import Recording
from state.records import Records
from state.stores import MemoryStore


def recorded(*exits: tuple[str, float | None]) -> list[Spent]:
    """The profile of stages that were left after so many milliseconds, or entered (-1)."""
    store = MemoryStore()
    recording = Recording(store)
    for actor, milliseconds in exits:
        recording.actor(actor, "stage", "")
        slot = recording.slot(actor, "enter" if milliseconds == -1 else "exit", None, "")
        assert slot is not None
        value = ["ok", None if milliseconds is None else int(milliseconds * 1e6), None]
        recording.mark(slot, None if milliseconds == -1 else value)
    recording.flush()
    return profile(Records(store))


def test_own_time_is_what_the_stages_inside_leave() -> None:
    rows = recorded(("a/b", 2.0), ("a/c", 5.0), ("a", 10.0))
    assert [row.actor for row in rows] == ["a", "a/c", "a/b", "a"], "the longest first"
    assert rows[0] == Spent("a", "stage", 1, 10.0, pytest.approx(3.0), None)
    assert [row.share for row in rows[1:3]] == [pytest.approx(0.5), pytest.approx(0.2)]


def test_of_a_loop_only_the_shares_within_its_timed_rounds_are_known() -> None:
    rows = recorded(("a/b", 2.0), ("a/c", 6.0), ("a/b", 2.0), ("a/c", 6.0), ("a", 100.0))
    assert rows[0].own_ms is None
    assert [(row.calls, row.mean_ms, row.share) for row in rows[1:]] == [(2, 6.0, 0.75), (2, 2.0, 0.25)]


def test_what_was_not_timed_does_not_count() -> None:
    assert recorded(("a/b", None), ("a", 1.0), ("a", None)) == [Spent("a", "stage", 1, 1.0, 1.0, None)]


def test_hook_has_a_row_and_is_no_part_of_the_own_time_of_its_stage() -> None:
    rows = recorded(("a", -1), ("a:before:x", 4.0), ("a", 10.0))
    assert rows == [
        Spent("a", "stage", 1, 10.0, 6.0, None),
        Spent("a:before:x", "hook", 1, 4.0, 4.0, 0.4),
        Spent("a", "tree", 1, 6.0, 6.0, 0.6),
    ]


def test_hook_that_is_thinned_out_makes_no_loop_of_its_stage() -> None:
    rows = recorded(*[("a", -1), ("a", 10.0)] * 3, ("a", -1), ("a:before:x", 4.0), ("a", 10.0))
    assert (rows[0].calls, rows[0].own_ms) == (4, 9.0)


def test_what_the_guard_takes_is_left_out_of_all_others_and_has_a_row() -> None:
    rows = recorded(("a", -1), ("a/b", -1), ("guard", 3.0), ("a/b", 5.0), ("guard", 1.0), ("a", 10.0))
    assert [(row.actor, row.sort, row.calls, row.mean_ms, row.share) for row in rows] == [
        ("a", "stage", 1, 6.0, None),
        ("a/b", "stage", 1, 2.0, pytest.approx(1 / 3)),
        ("a", "guard", 2, 2.0, 0.4),
        ("a", "tree", 1, 4.0, pytest.approx(2 / 3)),
    ]


def test_own_time_of_a_stage_that_declares_something_is_not_ours() -> None:
    store = MemoryStore()
    recording = Recording(store)
    recording.field("loss", "batch", "Tensor", "")
    for actor in ("a/b", "a"):
        recording.actor(actor, "stage", "")
        recording.reads(actor, ["loss"])
        recording.mark(recording.slot(actor, "exit", None, "") or 0, ["ok", 1_000_000, None])
    recording.flush()
    assert {row.sort for row in profile(Records(store))} == {"stage"}


def test_loop_is_known_by_its_rounds_also_where_as_many_of_them_were_timed_as_it_ran() -> None:
    store = MemoryStore()
    recording = Recording(store)
    for place, actor, value in (
        ((0, None, None, 0), "a", None),
        ((0, None, 0, 0), "a/b", None),
        ((0, None, 0, 0), "a/b", ["ok", 1_000_000, None]),
        ((0, None, None, 0), "a", ["ok", 9_000_000, None]),
    ):
        recording.actor(actor, "stage", "")
        recording.cut()
        recording.position = place  # type: ignore[assignment]
        slot = recording.slot(actor, "enter" if value is None else "exit", None, "")
        assert slot is not None
        recording.mark(slot, value)
    recording.flush()
    assert profile(Records(store))[0].own_ms is None
