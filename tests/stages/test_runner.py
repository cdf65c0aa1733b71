"""The runner: scopes and modes round what runs, parts of a tree, loops of the user's own, limits and going on."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learner import Cancel, Composite, Learner, Outcome, supervised
from learner.recipes import validate
from learner.testing import events, toy_learner
from stages import EvaluationPhase, Misuse
from state import FieldNotReady

BATCH = (torch.ones(4, 1), 3 * torch.ones(4, 1))


def counts(learner: Learner) -> tuple[int, int, int]:
    state = learner.state
    return state.epochs_done, state.batches_seen, state.updates


# Scopes


def test_values_are_gone_after_their_scope() -> None:
    learner = toy_learner()
    learner.fit(epochs=1)
    kept = {name for name in learner.state.specs if learner.state.ready(name)}
    assert not kept & {"batch", "inputs", "loss", "scratch", "batches", "batch_index", "epoch", "train_loss"}
    with pytest.raises(FieldNotReady, match="learner.history.*keeps it") as caught:
        assert learner.state.train_loss
    assert caught.value.field == "train_loss"


@pytest.mark.parametrize("run", [lambda one: one.fit(epochs=1), lambda one: one.run("epoch/fit")], ids=["fit", "run"])
def test_values_stay_for_the_debugger_when_a_stage_failed(run: Any) -> None:
    learner = toy_learner()
    learner.before("update")(lambda state: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(learner)
    state = learner.state
    assert (state.epoch, state.batch_index, state.loss.dim(), len(state.inputs)) == (0, 0, 0, 8)


def test_values_of_a_failed_fit_batch_stay_too() -> None:
    learner = toy_learner()
    learner.before("update")(lambda state: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner.fit_batch(BATCH)
    assert (learner.state.batch_index, len(learner.state.inputs)) == (0, 4)


class CheckNow(Composite):
    """Validates after every third batch, in the middle of training."""

    runs = "0-1"
    reads = ("batch_index",)

    def run(self, state: Any) -> None:
        if state.batch_index % 3 == 2:
            super().run(state)


def test_validation_nested_in_a_batch_gives_the_outer_values_back() -> None:
    tree = supervised(valid=False).insert(CheckNow(validate()), after="fit/batch/update", slot="check")
    learner, seen = toy_learner(stages=tree), []
    inside: list[tuple[Any, ...]] = []

    def values(state: Any) -> tuple[Any, ...]:
        names = ("batch_index", "batches", "batch", "inputs", "loss", "loss_sums", "model")
        return (*(id(getattr(state, name)) for name in names), state.model.training, torch.is_grad_enabled())

    learner.before("check")(lambda state: seen.append(values(state)))
    learner.after("check")(lambda state: seen.append(values(state)))
    learner.before("check/validate/batch")(
        lambda state: inside.append(
            (state.batch_index, state.ready("inputs"), state.model.training, torch.is_grad_enabled())
        )
    )
    learner.fit(epochs=1)
    assert learner.outcome.ok and counts(learner) == (1, 8, 8)
    assert seen[0::2] == seen[1::2] and len(seen) == 16
    assert inside == [(0, False, False, False), (1, False, False, False)] * 2, "empty inside"


def test_a_nested_validation_changes_no_weight() -> None:
    plain, nested = (
        toy_learner(valid=None),
        toy_learner(
            stages=supervised(valid=False).insert(CheckNow(validate()), after="fit/batch/update", slot="check")
        ),
    )
    plain.fit(epochs=2)
    nested.fit(epochs=2)
    assert torch.equal(plain.state.model.weight, nested.state.model.weight)


# Limits


@pytest.mark.parametrize(
    ("limit", "first", "second"),
    [
        ({"epochs": 1}, (1, 8, 8), (2, 16, 16)),
        ({"batches": 3}, (0, 3, 3), (0, 6, 6)),
        ({"batches": 10}, (1, 10, 10), (2, 20, 20)),
        ({"updates": 5}, (0, 5, 5), (0, 10, 10)),
    ],
)
@pytest.mark.parametrize("audit", ["off", "summary"])
def test_fit_ends_at_its_limit_and_a_second_call_goes_on(
    limit: dict[str, int], first: tuple[int, ...], second: tuple[int, ...], audit: Any
) -> None:
    learner = toy_learner(audit=audit)
    learner.fit(**limit)
    ((unit, number),) = limit.items()
    assert counts(learner) == first
    assert (learner.outcome.kind, learner.outcome.reason) == ("ok", f"fit({unit}={number})")
    learner.fit(**limit)
    assert counts(learner) == second


def test_fit_for_minutes_ends_at_the_round_that_passes_them() -> None:
    learner = toy_learner()
    learner.fit(minutes=1e-9)
    assert counts(learner) == (0, 1, 1) and learner.outcome.ok
    learner.fit(minutes=2e-3)
    assert learner.state.batches_seen > 2


def test_limit_ends_loops_well_and_cuts_the_epoch_short() -> None:
    learner, seen = toy_learner(), {}

    for slot in ("train", "epoch", "fit", "batch"):
        place = {"batch": "fit/batch", "train": "train"}.get(slot, slot)
        learner.after(place)(ended(seen, slot))
    learner.fit(batches=3)
    assert seen == {
        "batch": "ok",
        "fit": "ok: fit(batches=3)",
        "epoch": "cancelled (run) by user: fit(batches=3)",
        "train": "ok: fit(batches=3)",
    }


def ended(seen: dict[str, str], slot: str) -> Any:
    def note(state: Any, outcome: Outcome) -> None:
        seen[slot] = str(outcome)

    return note


def test_cancel_of_the_run_ends_fit_normally_and_the_next_fit_goes_on() -> None:
    learner = toy_learner()

    @learner.after("update")
    def stop(state: Any) -> None:
        if state.updates == 3:
            raise Cancel("run", "enough")

    learner.fit(epochs=5)
    assert str(learner.outcome) == "cancelled (run) by train/epoch/fit/batch/update:after:stop: enough"
    learner.fit(epochs=1)
    assert learner.outcome.ok and learner.state.updates == 11


# Parts of a tree


def test_run_runs_a_part_with_the_scopes_of_its_ancestors_open() -> None:
    learner = toy_learner()
    seen = events(learner)
    frame = learner.run("epoch/validate")
    assert frame.valid_loss > 1 and frame.epoch == 0
    assert seen[0] == "before validate" and "before epoch" not in seen
    assert counts(learner) == (0, 0, 0) and not learner.state.ready("valid_loss")


def test_run_of_a_part_that_needs_more_than_is_there_is_an_error_of_ours() -> None:
    learner = toy_learner()
    with pytest.raises(FieldNotReady, match="batch/unpack reads 'batch', which has no value now") as caught:
        learner.run("fit/batch")
    assert caught.value.actor == "train/epoch/fit/batch/unpack"


def test_fit_batch_alone_trains_once_and_returns_the_values_detached() -> None:
    learner = toy_learner()
    learner.state.model.eval()
    frame = learner.fit_batch(BATCH)
    assert not frame.loss.requires_grad and frame.loss.item() == pytest.approx(9.0)
    assert counts(learner) == (0, 1, 1) and learner.state.model.training
    assert not learner.state.ready("loss") and learner.outcome.ok


def test_loop_of_ones_own_inside_equals_fit() -> None:
    ours, own = toy_learner(valid=None), toy_learner(valid=None)
    seen, inside = events(ours), events(own)
    ours.fit(epochs=1)
    with own.inside("epoch/fit"):
        for batch in own.state.train_loader:
            assert own.fit_batch(batch).loss >= 0
    assert torch.equal(ours.state.model.weight, own.state.model.weight)
    assert counts(ours) == counts(own) == (1, 8, 8)
    assert [one for one in seen if "fetch" not in one] == inside
    assert own.history[0]["train_loss"] == ours.history[0]["train_loss"]


@pytest.mark.parametrize("scope", ["run", "epoch", "phase"])
def test_cancel_in_a_loop_of_ones_own_is_taken(scope: str) -> None:
    learner = toy_learner()
    with learner.inside("epoch/fit"):
        for batch in learner.state.train_loader:
            learner.fit_batch(batch)
            raise Cancel(scope, "low loss")
    assert counts(learner) == (0 if scope == "run" else 1, 1, 1)
    if scope == "run":
        assert learner.outcome == Outcome("cancelled", "user", "run", "low loss")


def test_cancel_of_a_batch_between_batches_is_an_error() -> None:
    learner = toy_learner()
    with pytest.raises(Exception, match="user cancels the scope 'batch', which is not open"), learner.inside("fit"):
        raise Cancel("batch")
    learner.fit(epochs=1)
    assert learner.outcome.ok


def test_error_in_a_loop_of_ones_own_runs_the_after_hooks_and_is_raised() -> None:
    learner = toy_learner()
    seen = events(learner)
    with pytest.raises(ZeroDivisionError), learner.inside("epoch/fit"):
        learner.fit_batch(BATCH)
        1 / 0  # noqa: B018  # fails
    assert seen[-3:] == ["after fit: failed", "after epoch: failed", "after train: failed"]
    assert learner.outcome.kind == "failed"


def test_inside_wants_a_loop() -> None:
    with pytest.raises(Misuse, match="inside.'gradient'. needs a loop such as 'fit'"):
        toy_learner().inside("gradient").__enter__()


# Modes


class Fails(Exception):
    """Raised in an evaluation."""


@pytest.mark.parametrize("fails", [False, True])
def test_evaluation_gives_each_submodule_its_mode_back(fails: bool) -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [(torch.randn(4, 1), torch.randn(4, 1)) for _ in range(2)]
    learner = Learner(model, F.mse_loss, optimizer, train=data, valid=data, device="cpu")
    model[1].eval()
    before, within = [part.training for part in model.modules()], []

    @learner.after("forward", within=EvaluationPhase)
    def look(state: Any) -> None:
        within.append((any(part.training for part in state.model.modules()), torch.is_grad_enabled()))
        if fails:
            raise Fails

    try:
        learner.fit(epochs=1)
    except Fails:
        assert fails
    assert set(within) == {(False, False)}
    assert [part.training for part in model.modules()] == before == [True, True, False, True, True]
    assert torch.is_grad_enabled()
    assert model[1].num_batches_tracked == 0, "the frozen layer stayed frozen in training too"


def test_loader_is_iterated_once_per_phase_and_never_ahead() -> None:
    taken: list[str] = []

    class Rows:
        def __iter__(self) -> Iterator[Any]:
            taken.append("iter")
            for number in range(3):
                taken.append(f"batch {number}")
                yield BATCH

    learner = toy_learner(train=Rows(), valid=None)
    learner.after("update")(lambda state: taken.append("update"))
    learner.fit(batches=4)
    epoch = ["iter", *(one for number in range(3) for one in (f"batch {number}", "update"))]
    assert taken == [*epoch, "iter", "batch 0", "update"]


def test_loaders_end_wins_over_a_cancel_of_the_round_that_found_it() -> None:
    learner = toy_learner(valid=None)
    raised = []

    @learner.after("fetch")
    def trip(state: Any, outcome: Outcome) -> None:
        if outcome.kind == "exhausted" and len(raised) < 3:
            raised.append(1)
            raise Cancel("batch", "too late")

    learner.fit(epochs=1)
    assert (learner.state.batches_seen, learner.state.samples_seen, len(raised)) == (8, 64, 1)


def test_cancel_of_the_run_is_told_though_the_limit_was_reached() -> None:
    learner = toy_learner(valid=None)

    @learner.after("epoch")
    def stop(state: Any) -> None:
        raise Cancel("run", "early stopping")

    learner.fit(batches=3)
    assert (learner.outcome.kind, learner.outcome.reason) == ("cancelled", "early stopping")
