"""Bind: a copy that works on other fields, for parameters, parts, brought fields, views and factories alike."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from learner import (
    Callback,
    GraphError,
    Learner,
    TrainState,
    after,
    field,
    stage,
    supervised,
)
from learner.callbacks import Accuracy
from learner.testing import run_stage, toy_learner
from stages import Chain, DeclarationError, Forward, Loss, Unpack, Update, When, Window
from stages.binding import BoundState, names_of
from state import FieldNotReady, SchemaError


class AverageState(TrainState):
    average: nn.Module = field(factory=lambda state: copy.deepcopy(state.model), description="of the model, over time")


@dataclass(frozen=True)
class ByClass(Callback):
    """An average of the weights, in a field that the State class of its hook has."""

    decay: float = 0.5

    @after("update", reads=("model.params",), writes=("average.params",))
    @torch.no_grad()
    def follow(self, state: AverageState) -> None:
        for mean, new in zip(state.average.parameters(), state.model.parameters(), strict=True):
            mean.lerp_(new, 1 - self.decay)


@dataclass(frozen=True)
class ByFields(Callback):
    """The same, in a field that it brings itself."""

    decay: float = 0.5

    def fields(self) -> dict[str, Any]:
        return {"average": (nn.Module, field(factory=lambda state: copy.deepcopy(state.model)))}

    @after("update", reads=("model.params",), writes=("average.params",))
    @torch.no_grad()
    def follow(self, model: nn.Module, average: nn.Module) -> None:
        for mean, new in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(new, 1 - self.decay)


class NetState(TrainState):
    net: nn.Module = field(description="called otherwise than the stock stages call it")
    net_optimizer: torch.optim.Optimizer = field(description="its optimizer")


def learner_on(state: TrainState, tree: Any, *callbacks: Any) -> Learner:
    """A Learner of y = 3x over a State of one's own."""
    toy = toy_learner().state
    return Learner.from_state(state, tree, train=toy.train_loader, valid=toy.valid_loader, callbacks=callbacks)


def on_net(tree: Any, *callbacks: Any) -> Learner:
    """A Learner whose State has no `model` and no `optimizer`."""
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    state = NetState(net=net, net_optimizer=SGD(net.parameters(), lr=0.1), loss_fn=F.mse_loss)
    return learner_on(state, tree, *callbacks)


def on_model(cls: type[TrainState], tree: Any, *callbacks: Any, **values: Any) -> Learner:
    """A Learner whose State is of the class `cls`."""
    model = nn.Linear(1, 1)
    values = {"model": model, "optimizer": SGD(model.parameters(), lr=0.1), "loss_fn": F.mse_loss, **values}
    return learner_on(cls(**values), tree, *callbacks)


def to_net() -> Any:
    return supervised().bind(model="net", optimizer="net_optimizer")


# What it covers


@pytest.mark.parametrize("kind", [ByClass, ByFields])
def test_two_of_one_callback_stand_side_by_side(kind: Any) -> None:
    learner = toy_learner(callbacks=[kind(0.5).bind(average="fast"), kind(0.9).bind(average="slow")])
    fast = slow = 0.0

    @learner.after("update")
    def by_hand(state: Any) -> None:
        nonlocal fast, slow
        fast, slow = (mean + (state.model.weight.item() - mean) * new for mean, new in ((fast, 0.5), (slow, 0.1)))

    learner.fit(epochs=1)
    state = learner.state
    assert (state.fast.weight.item(), state.slow.weight.item()) == pytest.approx((fast, slow))
    assert "average" not in state.specs
    assert learner.check() == []
    written = learner.log.where(field="slow.params", epoch=0)
    assert {change.actor for change in written} == {"train/epoch/fit/batch/update:after:" + kind.__name__ + "_2.follow"}


@pytest.mark.parametrize("kind", [ByClass, ByFields])
def test_two_of_one_callback_that_share_a_field_are_refused(kind: Any) -> None:
    with pytest.raises(GraphError, match="both write 'average.params' after .* and have no order"):
        toy_learner(callbacks=[kind(0.5), kind(0.9)])


@pytest.mark.parametrize("kind", [ByClass, ByFields])
def test_order_of_hooks_is_solved_on_bound_names(kind: Any) -> None:
    @after("update", reads=("slow.params",))
    def look(slow: nn.Module) -> None: ...

    learner = toy_learner(callbacks=[look, kind(0.9).bind(average="slow")])
    order = [hung.hook.name.split(".")[0] for hung in learner._bound.runner.find("update").place.after]
    assert order == [kind.__name__, "look"]
    assert "writes 'slow.params', which the other reads" in learner.explain("update")


@pytest.mark.parametrize("kind", [ByClass, ByFields])
def test_factory_of_a_bound_field_finds_state_as_its_owner_calls_it(kind: Any) -> None:
    learner = on_net(to_net(), kind(0.5).bind(model="net", average="mean"))
    assert torch.equal(learner.state.mean.weight, learner.state.net.weight)
    learner.fit(epochs=1)
    assert not torch.equal(learner.state.mean.weight, learner.state.net.weight)


def test_state_that_a_factory_finds_answers_by_the_owners_names() -> None:
    seen = BoundState(NetState(net=nn.Linear(1, 1)), {"model": "net"})
    assert seen.ready("model") and not seen.ready("optimizer")
    assert list(seen.components(nn.Module)) == ["model"]
    with pytest.raises(FieldNotReady, match="'net_optimizer'"):
        BoundState(NetState(), {"optimizer": "net_optimizer"}).optimizer  # noqa: B018


def test_stock_tree_runs_on_other_names_from_end_to_end() -> None:
    learner, plain = on_net(to_net()), toy_learner()
    ours, theirs = learner.fit(epochs=2), plain.fit(epochs=2)
    assert torch.equal(learner.state.net.weight, plain.state.model.weight)
    assert ours["valid_loss"] == theirs["valid_loss"]
    assert learner.validate() == plain.validate()
    batches = [torch.ones(4, 1), torch.ones(2, 1)]
    assert torch.equal(learner.predict(batches), plain.predict(batches))
    batch = (torch.ones(2, 1), torch.ones(2, 1))
    assert torch.equal(learner.fit_batch(batch).loss, plain.fit_batch(batch).loss)


def test_parts_are_named_by_what_they_belong_to() -> None:
    learner = on_net(to_net())
    update = learner._bound.runner.find("update").place
    assert update.access.reads == ("net.grads", "net.params", "net_optimizer", "updates")
    assert update.access.writes == ("net.params", "net_optimizer.state", "updates")
    assert not learner.log.where(field="model.params")
    learner.fit(batches=1)
    assert learner.log.blame("net.params").actor == "train/epoch/fit/batch/update"


class Losses(TrainState):
    first: Tensor = field(scope="batch")
    second: Tensor = field(scope="batch")
    third: Tensor = field(scope="batch")


def test_inner_bind_of_a_name_wins() -> None:
    inner = Chain(Loss(), again=Loss().bind(loss="third")).bind(loss="second")
    several = Chain(one=Loss(), inner=inner).bind(loss="first")
    learner = on_model(Losses, supervised(valid=False).insert(several, after="gradient", slot="several"))
    frame = learner.fit_batch((torch.ones(2, 1), torch.ones(2, 1)))
    assert torch.equal(frame.first, frame.loss) and torch.equal(frame.second, frame.third)
    writers = {row.name: [path.rpartition("several/")[2] for path in row.written_by] for row in learner.fields}
    assert (writers["first"], writers["second"], writers["third"]) == (["one"], ["inner/loss"], ["inner/again"])


def test_outer_bind_does_not_rename_what_an_inner_one_chose() -> None:
    inner = Loss().bind(loss="first")
    tree = supervised(valid=False).insert(Chain(inner).bind(first="second"), after="gradient", slot="several")
    with pytest.raises(GraphError, match=r"bind\(first='second'\) names a field that Chain does not use"):
        on_model(Losses, tree)


def test_last_bind_of_a_name_wins_and_others_add_up() -> None:
    made = Update().bind(model="net").bind(updates="n").bind(model="critic")
    assert names_of(made) == {"model": "critic", "updates": "n"}
    assert names_of(made.bind()) == names_of(made)


def test_bind_makes_a_copy_and_leaves_the_original_alone() -> None:
    tree = supervised()
    update = tree.epoch.fit.batch.update
    copied = update.bind(updates="n")
    assert copied is not update and not names_of(update)
    toy_learner(stages=tree)
    assert names_of(update.bind(updates="n")) == {"updates": "n"}, "a bound stage may still be copied"


def test_names_may_be_exchanged() -> None:
    @stage(writes=("first",))
    def difference(second: Tensor, third: Tensor) -> Tensor:
        return second - third

    @stage(writes=("second", "third"))
    def numbers() -> tuple[Tensor, Tensor]:
        return torch.tensor(5.0), torch.tensor(3.0)

    held = Chain(numbers, Chain(difference).bind(second="third", third="second"))
    assert run_stage(held, Losses()).first == -2


def test_function_stage_is_bound_by_the_chain_that_holds_it() -> None:
    class Scaled(TrainState):
        scaled: Tensor = field(scope="batch")
        factor: float = 2.0

    @stage(state=Scaled, writes=("scaled",))
    def scale(inputs: Tensor, factor: float) -> Tensor:
        return inputs * factor

    chain = Chain(Unpack(), scale, twice=Chain(scale).bind(scaled="more", factor="other"))
    learner = toy_learner(valid=None, stages=supervised(valid=False).swap("unpack", chain))
    learner.state.other = 3.0
    frame = learner.fit_batch((torch.ones(2, 1), torch.ones(2, 1)))
    assert frame.scaled.tolist() == [[2.0], [2.0]] and frame.more.tolist() == [[3.0], [3.0]]


def test_condition_of_a_when_is_bound_with_it() -> None:
    tree = supervised().swap("update", When(lambda number: number % 2 == 0, Update()).bind(number="batch_index"))
    learner = toy_learner(stages=tree)
    learner.fit(epochs=1)
    assert learner.state.updates == 4


def test_bound_window_writes_its_size_elsewhere() -> None:
    fit = supervised(accumulate=2, valid=False).epoch.fit
    tree = supervised(accumulate=2, valid=False).swap("window", fit.window.bind(window_size="size"))
    with pytest.raises(GraphError, match="average_gradients reads 'window_size'|'window_size'"):
        toy_learner(stages=tree, valid=None)
    both = tree.swap("average_gradients", fit.average_gradients.bind(window_size="size"))
    learner = toy_learner(stages=both, valid=None)
    learner.fit(epochs=1)
    assert learner.state.updates == 4 and isinstance(learner.stages.epoch.fit.window, Window)


def test_results_of_a_phase_are_bound_by_the_name_they_have_there() -> None:
    learner = toy_learner(callbacks=[Accuracy().bind(valid_accuracy="right")])
    writers = {row.name: row.written_by for row in learner.fields}
    assert writers["right"] == ("train/epoch/validate:after:Accuracy.result",)
    assert "valid_accuracy" not in writers


def test_edit_below_keeps_what_the_tree_was_bound_to() -> None:
    learner = on_net(to_net())
    learner.swap("update", Update())
    learner.remove("validate")
    learner.fit(batches=1)
    assert names_of(learner.stages) == {"model": "net", "optimizer": "net_optimizer"}
    assert learner.log.blame("net.params").actor.endswith("batch/update")


# What is refused


@pytest.mark.parametrize("name", [5, None, "", "a b", "critic.params", ("critic",), nn.Linear(1, 1)], ids=repr)
@pytest.mark.parametrize("thing", [Forward(), Callback()], ids=["stage", "callback"])
def test_what_is_no_name_of_a_field_is_refused(thing: Any, name: Any) -> None:
    with pytest.raises(DeclarationError, match=r"bind\(model=.*\) names no field. Name a field of State"):
        thing.bind(model=name)


@pytest.mark.parametrize(
    ("name", "match"),
    [("class", "Python identifier"), ("_net", "does not begin with '_'"), ("state", "a reserved name of State")],
)
def test_name_that_no_field_can_have_is_refused(name: str, match: str) -> None:
    for thing in (Forward(), Callback()):
        with pytest.raises(SchemaError, match=match):
            thing.bind(model=name)


@pytest.mark.parametrize("own", ["state", "outcome", "modle", "class", "model.params", "self", ""])
def test_bind_of_a_name_that_is_not_used_is_refused_with_the_nearest(own: str) -> None:
    with pytest.raises(GraphError, match=rf"bind\({own}='targets'\) names a field that Forward does not use") as caught:
        toy_learner(stages=supervised().swap("fit/batch/gradient/forward", Forward().bind(**{own: "targets"})))
    (finding,) = caught.value.findings
    assert finding.kind == "unknown field" and finding.actors == ("train/epoch/fit/batch/gradient/forward",)
    assert ("Did you mean 'model'?" in finding.message) == (own == "modle")
    assert finding.message.endswith("It uses ['inputs', 'model', 'outputs', 'rng'].")


def test_bind_of_a_callback_that_does_not_use_the_name_is_refused() -> None:
    with pytest.raises(GraphError, match=r"bind\(avrage='slow'\) names a field .* Did you mean 'average'"):
        toy_learner(callbacks=[ByFields().bind(avrage="slow")])


def test_bind_to_a_field_that_is_not_there_is_refused() -> None:
    with pytest.raises(GraphError, match="update declares 'critic_updates', but State has no such field"):
        toy_learner(stages=supervised().swap("update", Update().bind(updates="critic_updates")))


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (ByFields, "declares it int in scope 'run'; .*ByFields.follow declares it Module"),
        (ByClass, "'average' and 'updates' are of two types: Module in AverageState, int in TrainState"),
    ],
)
def test_bind_of_a_field_to_one_of_another_type_is_refused(kind: Any, match: str) -> None:
    with pytest.raises(GraphError, match=match) as caught:
        toy_learner(callbacks=[kind().bind(average="updates")])
    assert any(finding.kind == "schema conflict" for finding in caught.value.findings)


def test_bind_to_a_field_of_a_narrower_type_is_none_of_another_type() -> None:
    class Line(nn.Linear):
        """A linear layer of one's own."""

    class LineState(TrainState):
        line: Line

    learner = on_model(LineState, supervised(), ByClass().bind(model="line", average="mean"), line=Line(1, 1))
    assert isinstance(learner.state.mean, Line)
