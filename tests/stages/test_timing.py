"""What hooks and the guard take is on record in rounds that are timed, and in no others."""

from typing import Any

import pytest

from learner import Cancel
from learner.testing import toy_learner
from stages.guard import FIRST

UPDATE = "train/epoch/fit/batch/update"


def timed(learner: Any, actor: str) -> list[tuple[int | None, int | None]]:
    """Where an actor was left."""
    return [(one.position.epoch, one.position.batch) for one in learner.log.where(kind="exit", actor=actor)]


@pytest.mark.parametrize("side", ["before", "after", "around"])
def test_hook_is_timed_in_the_rounds_in_which_stages_are(side: str) -> None:
    learner = toy_learner()

    def look(state: Any) -> None: ...

    def pair(state: Any) -> Any:
        yield

    getattr(learner, side)("update")(pair if side == "around" else look)
    learner.fit(epochs=1)
    name = "pair" if side == "around" else "look"
    assert timed(learner, f"{UPDATE}:{side}:{name}") == timed(learner, UPDATE) == [(0, n) for n in range(FIRST)]


def test_time_of_both_halves_of_a_pair_is_one() -> None:
    learner = toy_learner()

    @learner.around("update")
    def pair(state: Any) -> Any:
        sum(range(20_000))
        yield
        sum(range(20_000))

    learner.fit(batches=1)
    rows = {row.actor: row for row in learner.log.profile()}
    assert rows[f"{UPDATE}:around:pair"].calls == 1
    assert rows[f"{UPDATE}:around:pair"].mean_ms <= rows[UPDATE].mean_ms


def test_hook_that_ends_by_a_signal_has_no_time() -> None:
    learner = toy_learner()

    @learner.before("update")
    def cancel(state: Any) -> None:
        raise Cancel("batch", "no")

    learner.fit(batches=2)
    assert timed(learner, f"{UPDATE}:before:cancel") == []


def test_what_the_guard_takes_is_no_part_of_any_stage_in_the_profile() -> None:
    learner = toy_learner()
    learner.fit(epochs=2)
    rows = {row.actor: row for row in learner.log.profile() if row.sort == "stage"}
    left = learner.log.where(kind="exit", actor="train/epoch/fit/batch")
    assert len(left) == rows["train/epoch/fit/batch"].calls
    guards = [row for row in learner.log.profile() if row.sort == "guard"]
    assert {row.actor for row in guards} == {"train/epoch/fit", "train/epoch/validate", "train"}
    assert sum(row.calls for row in guards) == len(timed(learner, "guard"))


def test_without_a_guard_nothing_is_told_of_one() -> None:
    learner = toy_learner(guard="off")
    learner.fit(epochs=1)
    assert not timed(learner, "guard")
    assert {row.sort for row in learner.log.profile()} == {"stage", "hook", "tree"}


def test_digest_does_not_tell_how_long_anything_took() -> None:
    digests = set()
    for guard in ("off", "parts", "contents"):
        learner = toy_learner(guard=guard)
        learner.fit(epochs=1)
        digests.add(learner.log.digest())
    assert len(digests) == 1


def test_last_records_leave_out_the_time_of_the_guard() -> None:
    learner = toy_learner()
    learner.fit(batches=2)
    assert "guard" not in {change.actor for change in learner.log.tail(200)}
