"""Asking: why a parameter stays as it is, and which tensors have their memory in common."""

from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from learner import InvariantBroken, Learner, TrainState, field, supervised
from learner.errors import ArgumentError
from learner.testing import toy_learner
from stages import Skip, Update
from stages.errors import StageError
from state.errors import StateError, UnknownField


def two_layers(
    change: Callable[[nn.Sequential], object] | None = None, train_type: torch.dtype = torch.float32, **settings: Any
) -> Learner:
    """A Learner of two layers, the first of which is changed before the optimizer is made."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    if change is not None:
        change(model)
    data = [(torch.ones(4, 1, dtype=train_type), torch.ones(4, 1, dtype=train_type))] * 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, nn.functional.mse_loss, optimizer, train=data, device="cpu", **settings)


def freeze(model: nn.Sequential) -> None:
    model[0].requires_grad_(False)


def test_frozen_parameter_is_explained() -> None:
    learner = two_layers(freeze)
    learner.fit(epochs=1)
    told = learner.explain("model.0.weight")
    assert told.startswith("model.0.weight: model.params was last written by train/epoch/fit/batch/update at epoch 0, ")
    assert "it is frozen: its requires_grad is False" in told
    assert "Nothing keeps an optimizer from changing it" in learner.explain("model.params.2.weight")


def test_frozen_parameter_that_has_a_gradient_may_still_be_moved() -> None:
    learner = two_layers()
    learner.fit(epochs=1)
    learner.state.model[0].requires_grad_(False)
    learner.state.model[0].weight.grad = torch.zeros(4, 1)
    told = learner.explain("model.0.weight")
    assert "It is frozen, and 'optimizer' may change it all the same" in told and "zero_grad(set_to_none=True)" in told


@pytest.mark.parametrize("name", ["optimizer.hyper.lr", "model.params"])
def test_what_is_no_slot_and_no_parameter_is_not_explained_but_sent_on(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"'{name}' is no slot and no parameter. log.blame\('{name}'\)"):
        toy_learner().explain(name)


def test_parameter_that_came_after_the_optimizer_is_explained() -> None:
    learner = two_layers()
    learner.state.model[2] = nn.Linear(4, 1)
    with pytest.raises(InvariantBroken, match="it updates 2 tensors that nothing in State holds"):
        learner.fit(epochs=1)
    assert "no optimizer in State has it in a group" in learner.explain("model.2.weight")


def test_learning_rate_of_zero_is_explained() -> None:
    learner = two_layers()
    learner.state.optimizer.param_groups[0]["lr"] = 0.0
    learner.fit(epochs=1)
    assert "the learning rate of its group is 0: optimizer.param_groups[0]['lr']" in learner.explain("model.2.bias")


def test_step_below_what_a_type_can_hold_is_explained() -> None:
    learner = two_layers(lambda model: model.to(torch.bfloat16).requires_grad_(True), train_type=torch.bfloat16)
    learner.fit(epochs=1)
    assert "bfloat16" not in learner.explain("model.0.weight")
    learner.state.optimizer.param_groups[0]["lr"] = 1e-8
    told = learner.explain("model.0.weight")
    assert "a step of 1e-08, the rate of 'optimizer', is lost in rounding for " in told and "bfloat16" in told


def test_gradient_that_is_missing_zero_or_not_finite_is_explained() -> None:
    learner = two_layers()
    assert "it has no gradient" in learner.explain("model.0.weight")
    learner.state.model[0].weight.grad = torch.zeros(4, 1)
    assert "its gradient is zero everywhere" in learner.explain("model.0.weight")
    learner.state.model[0].weight.grad = torch.full((4, 1), torch.inf)
    assert "its gradient is not finite" in learner.explain("model.0.weight")


def test_updates_that_were_skipped_or_never_made_are_explained() -> None:
    learner = two_layers()
    assert "no update was made so far" in learner.explain("model.0.weight")

    @learner.before("update")
    def skip(state: Any) -> None:
        raise Skip("not today")

    learner.fit(epochs=1)
    assert "no update was made so far" in learner.explain("model.0.weight")


@pytest.mark.parametrize(("skipped", "is_told"), [(2, True), (1, False)], ids=["the last", "one before"])
def test_update_that_was_skipped_is_told_until_the_next_one(skipped: int, is_told: bool) -> None:
    tree = (
        supervised()
        .insert(Update(), after="fit/batch/update", slot="step")
        .remove("fit/batch/update")
        .remove("validate")
    )
    learner = two_layers(stages=tree)

    @learner.before("fit/batch/step")
    def skip(batch_index: int) -> None:
        if batch_index == skipped:
            raise Skip("not today")

    learner.fit(epochs=1)
    told = learner.explain("model.0.weight")
    assert ("train/epoch/fit/batch/step did not end well the last time: skipped" in told) is is_told
    assert ("Nothing keeps an optimizer from changing it" in told) is not is_told


def test_slip_in_the_name_of_a_parameter_gets_the_nearest() -> None:
    with pytest.raises(UnknownField, match=r"Did you mean 'model\.0\.weight'"):
        two_layers().explain("model.0.wieght")


class Averaged(TrainState):
    ema: nn.Module = field(factory=lambda state: deepcopy(state.model), description="a copy")


class NoCopy(TrainState):
    ema: nn.Module = field(factory=lambda state: copy(state.model), description="a copy that shares its weights")


@pytest.mark.parametrize(("cls", "shared"), [(Averaged, False), (NoCopy, True)])
def test_copy_that_shares_its_weights_is_told(cls: type, shared: bool) -> None:
    learner = toy_learner()

    @learner.after("update", state=cls)
    def look(ema: nn.Module) -> None:
        pass

    found = {alias.names: alias.kind for alias in learner.aliases()}
    assert found == ({("model.weight", "ema.weight"): "same", ("model.bias", "ema.bias"): "same"} if shared else {})


def test_tied_weights_and_views_are_told_apart() -> None:
    def tie(model: nn.Sequential) -> None:
        model.append(nn.Linear(1, 4))
        model[3].weight = model[0].weight
        flat = torch.zeros(5)
        model[2].bias = nn.Parameter(flat[:1])
        model[0].bias = nn.Parameter(flat[1:])

    found = {alias.names: alias.kind for alias in two_layers(tie).aliases()}
    assert found == {("model.0.weight", "model.3.weight"): "same", ("model.0.bias", "model.2.bias"): "shared"}


def test_learner_and_all_that_it_answers_are_tables_in_a_notebook() -> None:
    learner = toy_learner()
    learner.fit(epochs=1)
    log = learner.log
    for answer in (learner, learner.fields, learner.history, log, log.history("loss"), log.profile(), log.between("0")):
        shown = answer._repr_html_()  # type: ignore[attr-defined]
        assert "<table>" in shown and shown.count("<tr>") == shown.count("</tr>") > 1


def test_tree_as_a_table_has_the_lines_of_the_text() -> None:
    learner = toy_learner()

    def look(state: Any) -> None: ...

    learner.after("update", every="2 batches")(look)
    shown = learner._repr_html_()
    assert "after look (observer, every 2 batches)" in shown and "reads -&gt; writes" in shown
    labels = [line.split()[0] for line in repr(learner).splitlines() if line.split()[0] in ("fit", "fetch", "update")]
    assert sum(shown.count(f"\u2003{label}<") for label in ("fit", "fetch", "update")) == len(labels) == 4


@pytest.mark.parametrize(
    ("name", "near"),
    [("optimizer.hyper.lrr", "optimizer.hyper.lr"), ("model.params.0.wieght", "model.params.0.weight")],
)
def test_watch_of_what_nothing_in_a_part_is_called_offers_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownField, match=f"Did you mean '{near}'"):
        two_layers().watch(name, above=1.0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda learner: learner.explain(3),
        lambda learner: learner.watch(3, above=1.0),
        lambda learner: learner.unwatch(3),
        lambda learner: learner.replay(None),
        lambda learner: learner.run(3),
        lambda learner: learner.remove(3),
    ],
)
def test_argument_of_another_kind_is_refused_by_name(ask: Any) -> None:
    with pytest.raises((StateError, StageError, ArgumentError), match="3|None"):
        ask(two_layers())
