"""What a tree updates by way of an optimizer though it is forbidden, and schedulers that move before an update."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from learner import Learner, TrainState, after, before, field, stage, supervised
from stages import (
    Backward,
    ClearGradients,
    Epoch,
    Every,
    Fetch,
    Finding,
    Fit,
    FitBatch,
    Gradient,
    GraphError,
    Loss,
    Train,
    UndeclaredChange,
    Unpack,
    Update,
)


class TwoParts(TrainState):
    backbone: nn.Module


@stage(state=TwoParts, writes=("outputs",))
def forward(backbone: nn.Module, model: nn.Module, inputs: Any) -> Any:
    return model(backbone(inputs))


def in_two_fields(*, frozen: bool = False, **forbidden: Any) -> Learner:
    """One optimizer over two modules, of which `Update` declares the one in `model`."""
    backbone, model = nn.Linear(2, 3), nn.Linear(3, 1)
    backbone.requires_grad_(not frozen)
    optimizer = torch.optim.SGD([*backbone.parameters(), *model.parameters()], lr=0.1)
    batch = FitBatch(Unpack(), ClearGradients(), Gradient(forward, Loss(), Backward()), Update(), **forbidden)
    train = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(6)]
    models = {"model": model, "backbone": backbone}
    return Learner(models, nn.functional.mse_loss, optimizer, train=train, stages=Train(Fit(Fetch(), batch)))


@pytest.mark.parametrize("rule", ["backbone.params", "backbone", "backbone.params.weight"])
def test_an_optimizer_that_holds_what_is_forbidden_is_refused(rule: str) -> None:
    with pytest.raises(GraphError) as caught:
        in_two_fields(forbids=(rule,))
    (finding,) = caught.value.findings
    assert "'backbone.params.weight'" in finding.message and f"forbids (forbids {rule!r})." in finding.message
    assert finding.actors == ("train/fit/batch/update", "train/fit/batch") and finding.kind == "forbidden write"


def test_what_an_update_declares_and_may_not_write_is_told_once() -> None:
    with pytest.raises(GraphError) as caught:
        in_two_fields(forbids=("*.params",))
    (finding,) = caught.value.findings
    assert finding.message.startswith("train/fit/batch/update writes 'model.params', which")


@pytest.mark.parametrize("rule", ["backbone.buffers", "backbone.mode", "model.buffers"])
def test_an_optimizer_may_hold_what_is_not_forbidden(rule: str) -> None:
    assert not in_two_fields(forbids=(rule,)).check()


def test_what_is_frozen_may_be_held_and_is_guarded_when_it_is_thawed() -> None:
    learner = in_two_fields(frozen=True, forbids=("backbone.params",))
    assert not learner.check()
    learner.fit(batches=2)
    learner.state.backbone.requires_grad_(True)
    with pytest.raises(UndeclaredChange, match=r"update changed 'backbone\.params' .* train/fit/batch forbids"):
        learner.fit(epochs=1)


def test_what_an_optimizer_holds_of_further_modules_is_no_alarm_over_rounds_that_nobody_looked_at() -> None:
    learner = in_two_fields()
    learner.fit(epochs=3)
    assert not learner.log.where(actor="external")


class Rate(TrainState):
    schedule: LRScheduler = field(factory=lambda state: LambdaLR(state.optimizer, lambda n: 0.5**n))


def scheduled(point: Any, stages: Any = None) -> list[Finding]:
    """What is said of a Learner with a scheduler that is moved there."""

    def anneal(schedule: LRScheduler) -> None:
        schedule.step()

    model = nn.Linear(1, 1)
    train = [(torch.randn(4, 1), torch.randn(4, 1)) for _ in range(6)]
    settings = {"train": train, "valid": train, "stages": stages, "callbacks": [point(anneal)]}
    try:
        return Learner(model, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), **settings).check()
    except GraphError as error:
        return list(error.findings)


HYPER: dict[str, Any] = {"state": Rate, "writes": ("optimizer.hyper", "schedule.state")}


def whole(**declared: Any) -> Train:
    """A tree with one stage for the whole step, which declares this."""

    @stage(**declared)
    def step(state: Any) -> None: ...

    return Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), step))))


@pytest.mark.parametrize(
    "declared",
    [
        {"unsafe": True},
        {"writes": ("model.params",), "touches": ("optimizer.state",)},
        {"writes": ("model.grads", "model.params")},
        {"touches": ("optimizer.state",)},
    ],
    ids=["unsafe", "touches", "no state", "state alone"],
)
@pytest.mark.parametrize("target", ["fit/batch", "step", "fit"])
def test_a_stage_that_may_update_counts_as_an_update(declared: Any, target: str) -> None:
    assert not [one for one in scheduled(after(target, **HYPER), whole(**declared)) if one.severity == "error"]


def sometimes() -> Any:
    tree = supervised()
    return tree.swap("update", Every("2 batches", update=tree.epoch.fit.batch.update))


@pytest.mark.parametrize(
    ("point", "stages"),
    [
        (after("gradient", **HYPER), None),
        (before("update", **HYPER), None),
        (before("fit/batch", **HYPER), None),
        (before("epoch", **HYPER), None),
        (after("batch", within="fit", **HYPER), supervised(accumulate=3)),
        (after("validate/batch", **HYPER), None),
    ],
    ids=["gradient", "before the update", "before the batch", "before the epoch", "in a window", "in an evaluation"],
)
def test_a_scheduler_that_moves_before_the_update_of_its_round_is_refused(point: Any, stages: Any) -> None:
    (finding,) = [one for one in scheduled(point, stages) if one.severity == "error"]
    assert finding.kind == "schedule before update" and finding.actors[0].endswith(":anneal")
    told = f"{finding.actors[0]} moves 'schedule' in each round of "
    assert finding.message.startswith(told) and "anneal" in finding.message.partition("Its code: ")[2]


@pytest.mark.parametrize(
    ("point", "stages"),
    [
        (after("update", **HYPER), None),
        (after("batch", within="fit", **HYPER), None),
        (after("fit", **HYPER), None),
        (after("epoch", **HYPER), None),
        (after("update", **HYPER), supervised(accumulate=3)),
        (after("update", **HYPER), sometimes()),
        (after("batch", within="fit", **HYPER), sometimes()),
        (before("update", when=lambda updates: updates > 0, **HYPER), None),
        (after("batch", within="fit", every="3 batches", **HYPER), supervised(accumulate=3)),
        (before("/", **HYPER), None),
        (before("update", state=Rate, writes=("schedule.state",)), None),
    ],
)
def test_a_scheduler_that_moves_after_an_update_or_not_in_each_round_is_accepted(point: Any, stages: Any) -> None:
    assert not [one for one in scheduled(point, stages) if one.severity == "error"]
