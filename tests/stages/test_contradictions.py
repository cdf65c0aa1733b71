"""Contradictions: declarations and loops that cannot mean what they say, and those that nearly do."""

from typing import Any

import pytest
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from learner import TrainState, around, stage, supervised
from stages import (
    Backward,
    ClearGradients,
    Composite,
    Epoch,
    Fetch,
    Finding,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Train,
    Unpack,
    Update,
    assemble,
)
from stages.callbacks import hooks_of


def findings(tree: Composite, *callbacks: Any) -> list[Finding]:
    """What the check says of a tree of training, but for notes."""
    model = nn.Linear(1, 1)
    state = TrainState(model=model, optimizer=SGD(model.parameters(), lr=0.1), loss_fn=F.mse_loss, train_loader=[])
    found = assemble(tree, hooks_of(callbacks), TrainState, state).findings
    return [one for one in found if one.severity != "note"]


def only(tree: Composite, *callbacks: Any) -> Finding:
    (finding,) = findings(tree, *callbacks)
    return finding


@pytest.mark.parametrize("restores", [("model.params",), ("rng", "*.params")])
def test_part_that_is_restored_and_written_is_refused(restores: tuple[str, ...]) -> None:
    @around("update", restores=restores, writes=("model.params.0.weight",))
    def both(model: Any) -> Any:
        yield

    finding = only(supervised(valid=False), both)
    path = "train/epoch/fit/batch/update:around:both"
    assert (finding.severity, finding.kind, finding.actors) == ("error", "restored and written", (path,))
    assert finding.message.startswith(f"{path} restores 'model.params' and writes 'model.params.0.weight': it cannot")


def test_one_part_may_be_restored_and_another_written() -> None:
    @around("update", restores=("model.mode",), writes=("model.params",))
    def both(model: Any) -> Any:
        yield

    assert findings(supervised(valid=False), both) == []


def test_loop_over_updates_without_batches_is_told_of_the_window() -> None:
    batch = FitBatch(Unpack(), ClearGradients(), Gradient(Forward(), Loss(), Backward()), Update())
    first, second = findings(Train(Epoch(Fit(Fetch(), batch, each="update"))))
    assert (first.kind, first.actors, second.kind) == (
        "update without window",
        ("train/epoch/fit",),
        "missing producer",
    )
    assert (
        "Write Fit(ClearGradients(), Window(4, Fetch(), FitBatch(...)), AverageGradients(), Update()" in first.message
    )


def test_loop_over_updates_may_take_its_batches_itself() -> None:
    @stage(writes=("batch",))
    def take(batches: Any) -> Any:
        return next(batches)

    batch = FitBatch(Unpack(), ClearGradients(), Gradient(Forward(), Loss(), Backward()), Update())
    assert findings(Train(Epoch(Fit(take, batch, each="update")))) == []
