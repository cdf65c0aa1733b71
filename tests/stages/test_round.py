"""One turn of a loop: its scope, its number, its totals, its Cancel, and the checkpoint point at its end."""

from typing import Any

import pytest
import torch
from torch import Tensor

from learner import Cancel, Composite, Learner, Outcome, Skip, Stage, State, TrainState, field, stage, supervised
from learner.testing import run_stage, toy_learner
from stages import (
    Backward,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Misuse,
    Train,
    Unpack,
    Update,
)

TOTALS = ("epochs_done", "batches_seen", "samples_seen")


def totals(state: Any) -> tuple[int, ...]:
    return tuple(getattr(state, name) for name in TOTALS)


def cancel(learner: Learner, scope: str, slot: str = "update", batch: int = 1, side: str = "before") -> None:
    """Cancel a scope in one batch of the first epoch."""

    @getattr(learner, side)(slot, within="fit")
    def act(state: Any) -> None:
        if (state.epoch, state.batch_index) == (0, batch):
            raise Cancel(scope)


@pytest.mark.parametrize("audit", ["off", "summary"])
def test_totals_are_raised_before_the_after_hooks_of_the_body(audit: Any) -> None:
    learner, seen = toy_learner(valid=None, audit=audit), []
    learner.before("batch")(lambda state: seen.append(("before batch", state.batch_index, totals(state))))
    learner.after("update")(lambda state: seen.append(("after update", state.batch_index, totals(state))))
    learner.after("batch")(lambda state: seen.append(("after batch", state.batch_index, totals(state))))
    learner.after("fit/checkpoint")(lambda state: seen.append(("checkpoint", state.batch_index, totals(state))))
    learner.after("epoch")(lambda state: seen.append(("after epoch", state.epoch, totals(state))))
    learner.fit(epochs=2)
    assert seen[:4] == [
        ("before batch", 0, (0, 0, 0)),
        ("after update", 0, (0, 0, 0)),
        ("after batch", 0, (0, 1, 8)),
        ("checkpoint", 0, (0, 1, 8)),
    ]
    epochs = [row for row in seen if row[0] == "after epoch"]
    assert epochs == [("after epoch", 0, (1, 8, 64)), ("after epoch", 1, (2, 16, 128))]
    assert seen[33] == ("before batch", 0, (1, 8, 64)), "batch_index counts from 0 in each phase"


@pytest.mark.parametrize(
    ("scope", "after_it", "at_end"),
    [
        ("batch", (0, 2, 16), (1, 8, 64)),
        ("phase", (0, 1, 8), (1, 1, 8)),
        ("epoch", (0, 1, 8), (1, 1, 8)),
        ("run", (0, 1, 8), (0, 1, 8)),
    ],
)
def test_cancelled_round_counts_only_when_the_cancel_is_of_its_own_scope(
    scope: str, after_it: tuple[int, ...], at_end: tuple[int, ...]
) -> None:
    learner, seen = toy_learner(valid=None), []
    cancel(learner, scope)

    @learner.after("batch")
    def look(state: Any, outcome: Outcome) -> None:
        if not outcome.ok:
            seen.append(totals(state))

    learner.fit(epochs=1)
    assert seen == [after_it]
    assert totals(learner.state) == at_end


def test_cancel_by_an_after_hook_of_the_body_counts_the_batch_once() -> None:
    learner = toy_learner(valid=None)
    cancel(learner, "batch", slot="batch", side="after")
    learner.fit(epochs=1)
    assert totals(learner.state) == (1, 8, 64)


def test_samples_are_counted_by_the_size_of_each_batch() -> None:
    sizes = [4, 4, 1]
    learner = toy_learner(train=[(torch.ones(n, 1), torch.ones(n, 1)) for n in sizes], valid=None)
    learner.fit(epochs=2)
    assert totals(learner.state) == (2, 6, 18)


def test_evaluation_raises_no_totals() -> None:
    learner = toy_learner()
    learner.validate()
    assert totals(learner.state) == (0, 0, 0)


def test_checkpoint_point_runs_after_the_scope_is_closed_and_after_a_cancel_but_not_after_a_failure() -> None:
    learner, seen = toy_learner(valid=None), []
    cancel(learner, "batch")
    learner.after("fit/checkpoint")(lambda state: seen.append((state.batch_index, state.ready("loss"))))
    learner.after("train/checkpoint")(lambda state: seen.append((state.epochs_done, state.ready("train_loss"))))
    learner.fit(epochs=1)
    assert seen == [*((index, False) for index in range(8)), (1, False)]

    learner, seen = toy_learner(valid=None), []
    learner.after("fit/checkpoint")(lambda state: seen.append(state.batch_index))
    learner.before("update")(lambda state: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner.fit(epochs=1)
    assert not seen


def test_hook_of_the_checkpoint_may_cancel_the_phase() -> None:
    learner = toy_learner(valid=None)

    @learner.after("fit/checkpoint")
    def enough(state: Any) -> None:
        if state.batch_index == 2:
            raise Cancel("phase")

    learner.fit(epochs=1)
    assert learner.outcome.ok and totals(learner.state) == (1, 3, 24)


class AttemptState(TrainState):
    tries: int = field(scope="attempt", default=0, description="from 0 in each attempt")
    tried: int = field(scope="batch", default=0)


class Attempts(Composite):
    """Runs its stages three times, each in a scope of its own."""

    each = "attempt"
    runs = "1+"

    def run(self, state: Any) -> None:
        for _ in range(3):
            with state.round():
                super().run(state)


@stage(state=AttemptState, writes=("tries", "tried"))
def attempt(tries: int, tried: int) -> tuple[int, int]:
    return tries + 1, tried + 1


def test_loop_over_a_scope_of_ones_own_gives_defaults_each_round_and_takes_its_cancel() -> None:
    learner, seen = toy_learner(valid=None), []
    learner.insert(Attempts(attempt), before="gradient")
    learner.after("attempt", reads=("tries", "tried"))(lambda state: seen.append((state.tries, state.tried)))

    @learner.after("attempts/attempt", reads=("tried",))
    def stop(state: Any) -> None:
        if state.tried == 2:
            raise Cancel("attempt")

    learner.fit(batches=1)
    assert seen == [(1, 1), (1, 2), (1, 3)]
    assert learner.outcome.ok


def test_slot_called_checkpoint_in_a_loop_of_ones_own_is_a_stage_as_any_other() -> None:
    ran: list[int] = []

    @stage()
    def checkpoint(updates: int) -> None:
        ran.append(updates)

    learner = toy_learner(valid=None)
    learner.insert(Attempts(checkpoint), before="gradient")
    learner.after("attempts/checkpoint")(lambda state: None)
    learner.fit(batches=2)
    assert ran == [0, 0, 0, 1, 1, 1]


def test_round_of_a_stage_that_is_no_loop_is_refused() -> None:
    class NoLoop(Composite):
        def run(self, state: Any) -> None:
            with state.round():
                super().run(state)

    @stage(writes=("inputs",))
    def same(inputs: Tensor) -> Tensor:
        return inputs

    learner = toy_learner(stages=supervised().insert(NoLoop(same), before="fit/batch/gradient"))
    with pytest.raises(Misuse, match="no_loop calls round.. but has no `each`"):
        learner.fit(epochs=1)


@pytest.mark.parametrize("audit", ["off", "summary"])
def test_numbers_of_rounds_thin_a_hook_out_by_rounds_of_the_run(audit: Any) -> None:
    learner, seen = toy_learner(valid=None, audit=audit), []
    learner.after("update", every="3 batches")(lambda state: seen.append(("batches", state.batches_seen + 1)))
    learner.after("update", every="3 updates")(lambda state: seen.append(("updates", state.updates)))
    learner.after("epoch", every="2 epochs")(lambda state: seen.append(("epochs", state.epochs_done)))
    learner.before("update", first="2 batches")(lambda state: seen.append(("first", state.batches_seen + 1)))
    learner.fit(epochs=3)
    thirds = list(range(3, 25, 3))
    for kind, expected in (("batches", thirds), ("updates", thirds), ("epochs", [2]), ("first", [1, 2])):
        assert [number for name, number in seen if name == kind] == expected, kind


def test_loop_inside_a_phase_lets_the_end_of_the_loader_end_the_phase() -> None:
    batch = FitBatch(Unpack(), ClearGradients(), Gradient(Forward(), Loss(), Backward()), Update())
    learner = toy_learner(valid=None, stages=Train(Epoch(Fit(Attempts(Fetch(), batch)))))

    @learner.before("attempts", first="20 batches")
    def guard(state: Any) -> None:
        assert state.batch_index < 10, "the phase never ends"

    learner.fit(epochs=1)
    assert learner.outcome.ok and (learner.state.updates, learner.state.epochs_done) == (8, 1)


def test_limit_in_minutes_ends_a_loop_that_counts_nothing() -> None:
    class Bare(State):
        train_loader: Any = field(saved="volatile", because="made anew")
        turns: int = 0

    @stage(writes=("turns",))
    def turn(turns: int) -> int:
        if turns > 100_000:
            raise RuntimeError("endless")
        return turns + 1

    learner = Learner.from_state(Bare(), Train(Epoch(turn)), train=[1])
    learner.fit(minutes=1e-9)
    assert learner.outcome.ok and learner.state.turns == 1 and len(learner.history) == 1


class AsksForMinutes(Stage):
    """Asks for the number of a round that nothing counts."""

    def run(self, state: Any) -> None:
        state.round_number("minutes")


class Ends(Stage):
    """Lets the loop that it stands in end with this round."""

    def run(self, state: Any) -> None:
        state.end_after_round()


def test_unknown_unit_of_rounds_is_refused() -> None:
    learner = toy_learner(stages=supervised().insert(AsksForMinutes(), after="fit/batch/update"))
    with pytest.raises(Misuse, match=r"calls round_number\('minutes'\). There are \['batches', 'epochs', 'updates'\]"):
        learner.fit(epochs=1)


def test_stage_may_let_its_loop_end_with_the_round() -> None:
    learner = toy_learner(stages=supervised().insert(Ends(), before="fit/batch/update"))
    learner.fit(epochs=2)
    assert totals(learner.state) == (2, 2, 16) and learner.state.updates == 2


def test_loop_is_ended_only_from_within() -> None:
    with pytest.raises(Misuse, match=r"ends calls end_after_round\(\) outside of any loop. Put it into one"):
        run_stage(Ends())


def test_skip_that_leaves_a_round_keeps_nothing_of_it() -> None:
    class Skips(Composite):
        each = "inner"

        def run(self, state: Any) -> None:
            with state.round():
                super().run(state)
                raise Skip("enough")

    class Kept(TrainState):
        kept: int = field(scope="inner")

    @stage(state=Kept, writes=("kept",))
    def keep() -> int:
        return 1

    learner = toy_learner(valid=None, stages=supervised(valid=False).insert(Skips(keep), before="fit/batch/update"))
    seen: list[bool] = []
    learner.after("update")(lambda state: seen.append(state.ready("kept")))
    learner.fit(epochs=1)
    assert seen == [False] * 8


@pytest.mark.parametrize("off", ["batches_seen", "samples_seen"])
def test_of_two_counts_of_one_round_each_is_recorded_or_not_by_its_own_level(off: str) -> None:
    learner = toy_learner(audit={off: "off"})
    learner.fit(epochs=1)
    other = {"batches_seen": "samples_seen", "samples_seen": "batches_seen"}[off]
    assert not [one for one in learner.log.where(field=off) if one.actor != "setup"]
    told = [one.after for one in learner.log.where(field=other) if one.actor != "setup"]
    assert len(told) == 8 and told[-1] == getattr(learner.state, other)
