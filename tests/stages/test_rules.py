"""Rules: for each a tree that has the fault, and one that nearly has it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from learner import Callback, GraphError, Stage, TrainState, after, around, before, field, stage, supervised
from learner.testing import toy_learner
from stages import (
    AverageGradients,
    Backward,
    Chain,
    ClearGradients,
    Composite,
    EvaluationPhase,
    Every,
    Fetch,
    Finding,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Repeat,
    UndeclaredChange,
    Unpack,
    Update,
    When,
    assemble,
)
from stages.callbacks import hooks_of


class Pair(TrainState):
    critic: nn.Module
    product: Tensor = field(scope="inner", description="of a round of one's own")


def findings(tree: Composite, *callbacks: Any) -> list[Finding]:
    """What the check says of a tree, but for what a state for training always has."""
    model = nn.Linear(1, 1)
    loaders = {"train_loader": [], "valid_loader": []}
    optimizer = SGD(model.parameters(), lr=0.1)
    state = Pair(model=model, critic=nn.Linear(1, 1), optimizer=optimizer, loss_fn=F.mse_loss, **loaders)
    found = assemble(tree, hooks_of(callbacks), Pair, state).findings
    return [one for one in found if one.kind != "never read" and "'product' of Pair" not in one.message]


def only(tree: Composite, *callbacks: Any) -> Finding:
    (finding,) = findings(tree, *callbacks)
    return finding


def fit_with(**slots: Any) -> Composite:
    """The tree of training, with other stages in the slots of its batch."""
    tree: Composite = supervised(valid=False)
    for slot, made in slots.items():
        tree = tree.swap(f"fit/batch/{slot}", made)
    return tree


def gradient(*more: Any, **settings: Any) -> Chain:
    return Chain(Forward(), Loss(), Backward(), *more, **settings)


@stage(writes=("model.params",))
def shrink(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


# Forbidden writes


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("model.params", "model.params"),
        ("model", "model.params"),
        ("model.params.weight", "model.params"),
        ("*.params", "model.params"),
    ],
)
def test_write_that_a_composite_forbids_is_found_wherever_it_is_inside(rule: str, name: str) -> None:
    finding = only(fit_with(gradient=gradient(Chain(shrink), forbids=(rule,))))
    assert (finding.severity, finding.kind) == ("error", "forbidden write")
    assert finding.actors == ("train/epoch/fit/batch/gradient/chain/shrink", "train/epoch/fit/batch/gradient")
    told = f"writes {name!r}, which train/epoch/fit/batch/gradient forbids (forbids {rule!r})."
    assert told in finding.message


@pytest.mark.parametrize("rule", ["model.buffers", "optimizer.state", "critic.params", "critic", "updates", "rng"])
def test_write_of_something_else_is_none(rule: str) -> None:
    assert findings(fit_with(gradient=gradient(shrink, forbids=(rule,)))) == []


def test_field_may_be_forbidden_as_well() -> None:
    finding = only(fit_with(update=Chain(Update(), forbids=("updates",))))
    assert "update/update writes 'updates', which train/epoch/fit/batch/update forbids" in finding.message


def test_write_beside_the_composite_is_none() -> None:
    held = Chain(gradient(forbids=("model.params",)), shrink)
    assert findings(fit_with(gradient=held)) == []


@pytest.mark.parametrize(("target", "count"), [("loss", 1), ("gradient", 0), ("update", 0)])
@pytest.mark.parametrize("side", [before, around, after])
def test_hook_inside_is_found_and_one_at_the_composite_itself_is_not(side: Any, target: str, count: int) -> None:
    @side(target, writes=("model.params",))
    def change(model: nn.Module) -> Any: ...

    @side(target, writes=("model.params",))
    def change_around(model: nn.Module) -> Any:
        yield

    hook = change_around if side is around else change
    found = findings(fit_with(gradient=gradient(forbids=("model.params",))), hook)
    assert [one.kind for one in found] == ["forbidden write"] * count


def test_outer_composite_forbids_for_the_inner_ones_too() -> None:
    inner = gradient(shrink, forbids=("optimizer.state",))
    finding = only(fit_with(gradient=Composite(inner, forbids=("model.params",))))
    assert finding.actors[1] == "train/epoch/fit/batch/gradient"


def test_names_that_are_forbidden_are_bound_as_all_others() -> None:
    held = gradient(shrink, forbids=("model.params",))
    to_critic = Chain(held.bind(model="critic"), slot=ClearGradients().bind(model="critic"))
    found = [one for one in findings(Chain(to_critic)) if one.kind == "forbidden write"]
    assert "writes 'critic.params', which chain/chain/chain forbids (forbids 'critic.params')" in found[0].message
    unbound = gradient(Chain(shrink).bind(model="critic"), forbids=("model.params",))
    assert findings(fit_with(gradient=unbound)) == []


@pytest.mark.parametrize(
    ("rule", "near"),
    [("model.parms", "Did you mean 'model.params'?"), ("modle", "Did you mean 'model'?"), ("*.parms", "")],
)
def test_name_that_forbids_nothing_is_found(rule: str, near: str) -> None:
    finding = only(fit_with(gradient=gradient(forbids=(rule,))))
    assert (finding.severity, finding.kind) == ("error", "unknown field")
    assert f"train/epoch/fit/batch/gradient forbids {rule!r}, but State has no such field." in finding.message
    assert near in finding.message
    assert findings(fit_with(gradient=gradient(forbids=("model.params", "*.hyper", "optimizer.state")))) == []


class Touches(Stage):
    """May change the weights on the way, by its declaration."""

    touches = ("model.params",)

    def run(self, model: nn.Module) -> None:
        shrink(model)


def test_touch_of_what_is_forbidden_is_no_finding_and_stopped_by_the_guard() -> None:
    tree = fit_with(gradient=gradient(Touches(), forbids=("model.params",)))
    assert findings(tree) == []
    with pytest.raises(UndeclaredChange, match="train/epoch/fit/batch/gradient forbids that inside"):
        toy_learner(valid=None, stages=tree).fit(epochs=1)
    toy_learner(valid=None, stages=fit_with(gradient=gradient(Touches()))).fit(epochs=1)


# Pairs that clash


class Lends(Callback):
    @around("update", restores=("model.params",))
    def lend(self, model: nn.Module) -> Any:
        yield


class LendsMode(Callback):
    @around("update", restores=("model.mode", "rng"))
    def lend(self, model: nn.Module) -> Any:
        yield


class LendsOne(Callback):
    @around("update", restores=("model.params.weight",))
    def lend(self, model: nn.Module) -> Any:
        yield


class LendsOutside(Callback):
    @around("fit/batch", restores=("model.params",))
    def lend(self, model: nn.Module) -> Any:
        yield


class LendsAll(Callback):
    @around("update", restores=("*.mode",))
    def lend(self, state: Any) -> Any:
        yield


@pytest.mark.parametrize(
    ("callbacks", "name"),
    [
        ((Lends(), Lends()), "model.params"),
        ((Lends(), LendsOne()), "model.params"),
        ((LendsOne(), Lends()), "model.params.weight"),
        ((LendsMode(), LendsAll()), "model.mode"),
        ((Lends(), Lends().bind(model="model")), "model.params"),
    ],
)
def test_two_pairs_that_restore_one_part_around_one_slot_are_refused(callbacks: Any, name: str) -> None:
    finding = only(fit_with(), *callbacks)
    assert (finding.severity, finding.kind, len(finding.actors)) == ("error", "clashing pairs", 2)
    first, second = (path.rpartition(":")[2] for path in finding.actors)
    told = f"{first} and {second} both restore {name!r} around 'train/epoch/fit/batch/update'."
    told += " Remove one, or put one of them around a slot inside or outside of that one."
    one, both = (f"{told} {whose} code: {first} {__file__}:" for whose in ("Its", "Their"))
    assert finding.message.startswith(one) or (finding.message.startswith(both) and f", {second} " in finding.message)


@pytest.mark.parametrize(
    "callbacks",
    [(Lends(), LendsMode()), (Lends(), LendsOutside()), (Lends(), Lends().bind(model="critic"))],
    ids=["other part", "other slot", "other model"],
)
def test_pairs_that_restore_different_things_do_not_clash(callbacks: Any) -> None:
    assert findings(fit_with(), *callbacks) == []


def test_pairs_around_different_phases_do_not_clash() -> None:
    class InValidation(Callback):
        @around(EvaluationPhase, restores=("model.params",))
        def lend(self, model: nn.Module) -> Any:
            yield

    class InTraining(Callback):
        @around("fit", restores=("model.params",))
        def lend(self, model: nn.Module) -> Any:
            yield

    assert toy_learner(callbacks=[InValidation(), InTraining()]).check() == []


# Scopes, and loops


@stage(state=Pair, writes=("product",))
def multiply(loss: Tensor) -> Tensor:
    return loss * 2


@stage(state=Pair)
def use(product: Tensor) -> None: ...


@pytest.mark.parametrize(
    "made",
    [Chain(multiply, each="inner"), When(lambda: True, multiply, each="inner"), Every("2 batches", each="inner")],
    ids=repr,
)
def test_composite_whose_rounds_nothing_opens_is_found(made: Any) -> None:
    finding = only(fit_with(gradient=gradient(held=made)))
    assert (finding.severity, finding.kind) == ("error", "unopened scope")
    assert "gradient/held has each='inner' and runs in no rounds" in finding.message
    assert "Take Repeat(1, ..., each='inner'), or opens='inner'" in finding.message


class OwnLoop(Composite):
    """Runs its stages twice, in rounds of its own."""

    each = "inner"
    runs = "1+"

    def run(self, state: Any) -> None:
        for _ in range(2):
            with state.round():
                super().run(state)


@pytest.mark.parametrize(
    "made",
    [Repeat(1, multiply, use, each="inner"), Chain(multiply, use, opens="inner"), OwnLoop(multiply, use)],
    ids=["repeat", "opens", "own"],
)
def test_composite_that_opens_its_scope_is_fine(made: Any) -> None:
    assert findings(fit_with(gradient=gradient(held=made))) == []
    learner = toy_learner(valid=None, stages=fit_with(gradient=gradient(held=made)))
    learner.state.critic = nn.Linear(1, 1)
    learner.fit(batches=1)


def test_window_in_rounds_of_something_else_is_found() -> None:
    tree = supervised(accumulate=2, valid=False)
    assert findings(tree) == []
    epoch = tree.epoch
    wrong = type(tree)(type(epoch)(type(epoch.fit)(*epoch.fit.stages.values())))
    found = {one.kind: one.message for one in findings(wrong)}
    assert found["window without update"].endswith("Write Fit(..., each='update').")
    nested = tree.swap("window", type(epoch.fit.window)(2, epoch.fit.window))
    assert only(nested).message.endswith("Keep one of the two.")
    repeated = type(epoch.fit)(
        ClearGradients(), Repeat(1, epoch.fit.window), AverageGradients(), Update(), each="update"
    )
    assert findings(type(tree)(type(epoch)(repeated))) == [], "a loop without rounds of its own may stand between"


def test_phase_that_takes_no_batch_is_found_below_a_window_too() -> None:
    def fit_without(*stages: Any) -> Any:
        tree = supervised(accumulate=2, valid=False)
        return tree.swap("window", type(tree.epoch.fit.window)(2, *stages))

    held = FitBatch(Unpack(), Gradient(Forward(), Loss(), Backward()))
    assert "endless loop" in {one.kind for one in findings(fit_without(held))}
    assert findings(fit_without(Fetch(), held)) == []


# Names that were bound


def test_bound_name_that_nobody_below_uses_is_found_and_one_that_somebody_uses_is_not() -> None:
    finding = only(fit_with(gradient=gradient().bind(critic="model")))
    assert finding.kind == "unknown field"
    assert "bind(critic='model') names a field that Chain does not use." in finding.message
    deep = gradient(Chain(Chain(shrink)))
    held = Chain(ClearGradients(), Chain(deep)).bind(model="model", loss_weight="loss_weight")
    assert findings(fit_with(gradient=held)) == []


def test_bound_callback_is_looked_at_with_all_its_hooks() -> None:
    class Both(Callback):
        @before("update")
        def first(self, loss: Tensor) -> None: ...

        @after("update")
        def second(self, updates: int) -> None: ...

    assert findings(fit_with(), Both().bind(loss="loss", updates="updates")) == []
    finding = only(fit_with(), Both().bind(los="loss"))
    assert "bind(los='loss') names a field that Both does not use. Did you mean 'loss'?" in finding.message


def test_all_findings_of_all_rules_are_raised_together() -> None:
    tree = fit_with(gradient=gradient(shrink, Chain(each="inner"), forbids=("model.params", "modle")))
    with pytest.raises(GraphError) as caught:
        toy_learner(valid=None, stages=tree.swap("update", Update().bind(n="updates")), callbacks=[Lends(), Lends()])
    kinds = sorted(finding.kind for finding in caught.value.findings)
    assert kinds == ["clashing pairs", "forbidden write", "unknown field", "unknown field", "unopened scope"]
    assert str(caught.value).startswith("The tree cannot run, 5 findings:") and str(caught.value).isascii()
