"""Restoring pairs: what a hook around a stage lends is back however the stage ends, and on record."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Callback, Cancel, EvaluationPhase, Learner, Skip, around
from learner.testing import toy_learner
from stages import UndeclaredChange


def fitted(hook: Any, slot: str = "update", **options: Any) -> Learner:
    learner = toy_learner(valid=None)
    learner.around(slot, **options)(hook)
    learner.fit(batches=2)
    return learner


def plain(state: Any) -> None: ...


def takes_values(model: Any) -> Any:
    yield


class Averaged(Callback):
    """Lends the model other weights for as long as the evaluation runs."""

    @around(EvaluationPhase, restores=("model.params",))
    @torch.no_grad()
    def lend(self, model: nn.Module) -> Any:
        own = copy.deepcopy(model.state_dict())
        for parameter in model.parameters():
            parameter.fill_(3.0)
        yield
        model.load_state_dict(own)


@pytest.mark.parametrize(
    "raised",
    [None, lambda: Cancel("batch"), lambda: Cancel("run"), lambda: Skip(), lambda: ValueError(), KeyboardInterrupt],
    ids=["ok", "batch", "run", "skip", "error", "ctrl-c"],
)
def test_lent_weights_are_back_however_the_evaluation_ends(raised: Any) -> None:
    learner, weights = toy_learner(callbacks=[Averaged()]), list[Tensor]()
    learner.before("validate")(lambda state: weights.append(state.model.weight.detach().clone()))

    @learner.before("validate_loss")
    def end(state: Any) -> None:
        weights.append(state.model.weight.detach().clone())
        if raised is not None:
            raise raised()

    try:
        learner.fit(epochs=1)
    except (ValueError, KeyboardInterrupt):
        pass
    own, *lent = weights
    assert torch.equal(learner.state.model.weight, own) and own.item() != 3.0
    assert lent and {weight.item() for weight in lent} == {3.0}


def test_restored_part_is_on_record_when_it_is_lent_and_when_it_is_back() -> None:
    learner = toy_learner(callbacks=[Averaged()])
    learner.fit(epochs=1)
    lent = learner.log.where(actor="**:around:Averaged.lend", epoch=0)
    assert [(change.field, change.evidence) for change in lent] == [
        ("model.params", "until restored"),
        ("model.params", "restored"),
    ]


def test_deep_part_may_be_restored() -> None:
    learner = fitted(takes_values, "gradient", restores=("model.params.weight", "optimizer.hyper.lr", "rng", "*.mode"))
    assert learner.state.updates == 2
    fields = {change.field for change in learner.log.where(actor="**/gradient:around:takes_values")}
    assert {"model.params.weight", "optimizer.hyper.lr", "rng", "model.mode"} <= fields


def test_part_that_a_pair_is_there_to_change_is_on_record_at_its_end() -> None:
    @torch.no_grad()
    def shrink(model: nn.Module) -> Any:
        yield
        for parameter in model.parameters():
            parameter.mul_(0.5)

    learner = fitted(shrink, writes=("model.params",))
    (first, second) = learner.log.where(actor="**/update:around:shrink", field="model.params")
    assert (first.evidence, second.evidence) == ("inferred", "inferred")


@pytest.mark.parametrize(
    "raised", [None, lambda: Cancel("batch", "why"), lambda: ValueError("why")], ids=["ok", "cancel", "error"]
)
def test_part_that_is_not_given_back_is_found_however_the_stage_ends(raised: Any) -> None:
    learner = toy_learner(valid=None)

    @learner.around("gradient", restores=("model.params",))
    @torch.no_grad()
    def forget(model: nn.Module) -> Any:
        model.weight.add_(1)
        yield

    @learner.after("forward")
    def end(state: Any) -> None:
        if raised is not None:
            raise raised()

    with pytest.raises(UndeclaredChange if raised is None or isinstance(raised(), Cancel) else ValueError) as caught:
        learner.fit(epochs=1)
    told = " ".join([str(caught.value), *caught.value.__notes__])
    assert "gradient:around:forget" in told and "so it has to give it back on every way out" in told


@pytest.mark.parametrize("part, below", [("model.params", "weight"), ("optimizer.hyper", "lr")])
def test_deep_part_that_is_not_given_back_is_found(part: str, below: str) -> None:
    def forget(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
        model.weight.data.add_(1)
        optimizer.param_groups[0]["lr"] = 0.5
        yield

    learner = toy_learner(valid=None)
    learner.around("gradient", restores=(f"{part}.{below}",), touches=("model.params", "optimizer.hyper"))(forget)
    with pytest.raises(UndeclaredChange, match="so it has to give it back") as caught:
        learner.fit(epochs=1)
    assert [(one.name, one.inside) for one in caught.value.moves] == [(part, (below,))]


def test_pair_that_is_stopped_before_its_stage_gives_back_all_the_same() -> None:
    def swap(model: nn.Module) -> Any:
        model.bias.data.add_(1)
        model.train(not model.training)
        yield
        model.bias.data.sub_(1)

    learner = toy_learner(valid=None)
    bias = learner.state.model.bias.detach().clone()
    learner.around("gradient", restores=("model.params",))(swap)
    with pytest.raises(UndeclaredChange, match="'model.mode'"):
        learner.fit(epochs=1)
    assert learner.state.model.bias.allclose(bias)
