"""What the guard is told: forbids, unsafe, restores; and who is not to blame for what somebody else had begun."""

import random
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Cancel, EvaluationPhase, Learner, stage
from learner.callbacks import IsolateRng
from learner.testing import toy_learner
from stages import (
    Backward,
    ClearGradients,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    GraphError,
    Loss,
    Train,
    UndeclaredChange,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
)

BATCH = "train/epoch/fit/batch"
DATA = [(torch.ones(4, 1), torch.ones(4, 1))]


def found(learner: Learner, **wanted: Any) -> list[Any]:
    return list(learner.log.where(**wanted))


def batch_norm(**forbidden: Any) -> Learner:
    """A model with BatchNorm, in a tree that forbids something inside of `gradient`."""
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    gradient = Gradient(Forward(), Loss(), Backward(), **forbidden)
    tree = Train(Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), gradient, Update())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, nn.functional.mse_loss, optimizer, train=DATA * 5, stages=tree, device="cpu")


@pytest.mark.parametrize("rule", ["model.buffers", "*.buffers"])
def test_what_is_forbidden_may_not_be_touched(rule: str) -> None:
    with pytest.raises(UndeclaredChange, match="train/fit/batch/gradient forbids that inside") as caught:
        batch_norm(forbids=(rule,)).fit(epochs=1)
    assert caught.value.actor == "train/fit/batch/gradient/forward"
    assert caught.value.moves[0].name == "model.buffers"


def test_what_is_forbidden_may_not_be_written() -> None:
    with pytest.raises(GraphError, match=r"backward writes 'model\.grads', which .*forbids '\*\.grads'") as caught:
        batch_norm(forbids=("*.grads",))
    assert len(caught.value.findings) == 1


def test_forbidding_something_else_forbids_nothing() -> None:
    learner = batch_norm(forbids=("*.params", "optimizer.hyper"))
    learner.debug()
    learner.fit(epochs=1)
    assert learner.outcome.ok


def test_unsafe_may_do_everything_and_all_is_on_record_as_its_doing() -> None:
    learner = toy_learner(train=DATA * 20, valid=None)

    @learner.after("update", unsafe=True)
    def anything(state: Any) -> None:
        state.model.weight.data.add_(1)
        state.optimizer.param_groups[0]["lr"] *= 0.9
        torch.rand(1)

    learner.debug()
    learner.fit(epochs=1)
    path = f"{BATCH}/update:after:anything"
    rows = [one for one in found(learner, actor=path) if one.position.batch == 15]
    assert {one.field for one in rows} == {"model.params", "optimizer.hyper", "optimizer.hyper.lr", "rng"}
    assert not found(learner, actor="external")
    assert "unsafe" in repr(learner)


def lending(learner: Learner, gives_back: bool) -> None:
    """A pair that adds one to the weight while `gradient` runs."""

    @learner.around("gradient", restores=("model.params",))
    def lend(model: nn.Linear) -> Generator[None, Any, None]:
        kept = model.weight.detach().clone()
        model.weight.data.add_(1)
        yield
        if gives_back:
            model.weight.data.copy_(kept)


def ending(learner: Learner, how: str) -> None:
    @learner.before("backward")
    def end(state: Any) -> None:
        if how == "failed":
            raise ValueError("broken")
        if how != "ok":
            raise Cancel(how, "enough")


@pytest.mark.parametrize("how", ["ok", "batch", "epoch", "run", "failed"])
def test_a_pair_that_gives_back_is_fine_however_its_stage_ends(how: str) -> None:
    learner = toy_learner(train=DATA * 3, valid=None, invariants=())  # there is nothing to learn from these data
    lending(learner, gives_back=True)
    ending(learner, how)
    if how == "failed":
        with pytest.raises(ValueError, match="broken") as caught:
            learner.fit(epochs=1)
        assert not any("lend" in note and "Then" in note for note in caught.value.__notes__)
    else:
        learner.fit(epochs=1)
    assert found(learner, evidence="restored")
    assert not found(learner, evidence="undeclared")


@pytest.mark.parametrize("how", ["ok", "batch", "epoch", "run", "failed"])
@pytest.mark.parametrize("guard", ["parts", "contents"])
def test_a_pair_that_does_not_is_named_however_its_stage_ends(how: str, guard: str) -> None:
    learner = toy_learner(train=DATA * 3, valid=None, guard=guard)
    lending(learner, gives_back=False)
    ending(learner, how)
    with pytest.raises(ValueError if how == "failed" else UndeclaredChange) as caught:
        learner.fit(epochs=1)
    told = str(caught.value) + "".join(caught.value.__notes__)
    assert f"{BATCH}/gradient:around:lend changed 'model.params' (weight; seen by contents)" in told
    assert "It restores that, so it has to give it back on every way out" in told
    assert not found(learner, evidence="restored")


@pytest.mark.parametrize("how", [ValueError("broken"), KeyboardInterrupt(), Cancel("batch"), Cancel("run")])
def test_nobody_else_is_blamed_for_what_a_failed_stage_had_begun(how: BaseException) -> None:
    learner = toy_learner(train=DATA * 3, valid=None)

    @stage(writes=("model.params",))
    def begins(model: nn.Linear) -> None:
        model.weight.data.add_(1)
        raise how

    learner.insert(begins, after="update")
    learner.after("batch")(lambda state, outcome: None)
    learner.after("fit")(lambda state, outcome: None)
    learner.debug()
    if isinstance(how, Cancel):
        learner.fit(epochs=1)
    else:
        with pytest.raises(type(how)) as caught:
            learner.fit(epochs=1)
        assert caught.value is how
    assert not found(learner, evidence="undeclared")


@pytest.mark.parametrize("side", ["before", "around", "after"])
@pytest.mark.parametrize("scope", ["batch", "run"])
def test_an_undeclared_change_before_a_cancel_is_found(side: str, scope: str) -> None:
    learner = toy_learner(train=DATA * 3, valid=None)

    def meddle(model: nn.Linear) -> None:
        model.weight.data.add_(1)
        raise Cancel(scope)

    def wrap(model: nn.Linear) -> Generator[None, Any, None]:
        yield meddle(model)

    getattr(learner, side)("update")(wrap if side == "around" else meddle)
    learner.after("update")(lambda state, outcome: None)
    with pytest.raises(UndeclaredChange) as caught:
        learner.fit(epochs=1)
    assert caught.value.actor == f"{BATCH}/update:{side}:{'wrap' if side == 'around' else 'meddle'}"


def test_a_stage_that_runs_its_own_stages_is_not_blamed_for_theirs() -> None:
    class Twice(Gradient):
        """Runs its stages, then draws."""

        def run(self, state: Any) -> None:
            super().run(state)
            torch.rand(1)

    learner = toy_learner(train=DATA * 3, valid=None)
    learner.swap("gradient", Twice(Forward(), Loss(), Backward()))
    with pytest.raises(UndeclaredChange, match="'rng'") as caught:
        learner.fit(epochs=1)
    assert (caught.value.actor, [one.name for one in caught.value.moves]) == (f"{BATCH}/gradient", ["rng"])


BESIDES: dict[str, Callable[[nn.Module], Any]] = {
    "model.mode": lambda model: model.requires_grad_(False),
    "model.buffers": lambda model: model.register_buffer("extra", torch.ones(1)),
    "rng": lambda model: random.random(),
}


@pytest.mark.parametrize("part", BESIDES)
def test_who_may_change_one_thing_is_not_excused_for_another(part: str) -> None:
    @stage(writes=("model.params",))
    def careless(model: nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters()).add_(1)
        BESIDES[part](model)

    learner = toy_learner()
    learner.insert(careless, after="update")
    with pytest.raises(UndeclaredChange) as caught:
        learner.fit(batches=1)
    assert [one.name for one in caught.value.moves] == [part]


def test_field_that_a_hook_gives_anew_is_no_change_in_place() -> None:
    learner = toy_learner(train=DATA * 3, valid=None)

    def scale(inputs: Tensor) -> Tensor:
        return inputs * 2

    learner.after("unpack", writes=("inputs",))(scale)
    learner.debug()
    learner.fit(epochs=1)
    assert learner.outcome.ok


class Careless(Validate):
    """Leaves the model in eval mode."""

    def mode(self, state: Any) -> Any:
        state.model.eval()
        return super().mode(state)


class Careful(Validate):
    """Does nothing else than its parent."""


@pytest.mark.parametrize("how", ["ok", "batch", "phase", "run", "failed"])
@pytest.mark.parametrize("kind", [Careful, Careless])
def test_an_evaluation_gives_the_modes_back_however_it_ends(kind: type[EvaluationPhase], how: str) -> None:
    learner = toy_learner(valid=DATA * 2)
    learner.swap("validate", kind(Fetch(), ValidateBatch(Unpack(), Forward(), ValidateLoss())))

    @learner.before("validate/batch/forward")
    def end(state: Any) -> None:
        if how == "failed":
            raise ValueError("broken")
        if how != "ok":
            raise Cancel(how, "enough")

    learner.debug()
    try:
        learner.fit(epochs=1)
        told = ""
    except (UndeclaredChange, ValueError) as error:
        told = str(error) + "".join(error.__notes__)
    assert ("train/epoch/validate changed 'model.mode' (training; seen by value)" in told) == (kind is Careless)
    assert bool(found(learner, actor="train/epoch/validate", evidence="undeclared")) == (kind is Careless)
    assert learner.state.model.training == (kind is Careful)


def test_generators_are_given_back_after_an_evaluation_that_draws() -> None:
    learner = toy_learner(callbacks=[IsolateRng()])

    @learner.after("validate/batch/forward", touches=("rng",))
    def draw(model: nn.Linear) -> None:
        torch.rand(3)

    learner.debug()
    before = torch.get_rng_state()
    learner.fit(epochs=2)
    assert torch.equal(before, torch.get_rng_state())
    assert {one.actor for one in found(learner, field="rng", evidence="restored")} == {
        "train/epoch/validate:around:IsolateRng.keep"
    }
