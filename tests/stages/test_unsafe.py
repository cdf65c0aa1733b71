"""Unsafe actors: they may change everything, and it is all on record and in plain sight."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from learner import Composite, Stage, TrainState, after, stage, supervised
from learner.testing import toy_learner
from stages import Backward, Chain, Finding, Forward, Loss, Unpack, assemble
from stages.callbacks import hooks_of
from stages.draw import draw_mermaid


def findings(tree: Composite, *callbacks: Any) -> list[Finding]:
    model = nn.Linear(1, 1)
    state = TrainState(model=model, optimizer=SGD(model.parameters(), lr=0.1), loss_fn=F.mse_loss, train_loader=[])
    found = assemble(tree, hooks_of(callbacks), TrainState, state).findings
    return [one for one in found if one.kind != "never read"]


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


@torch.no_grad()
def shrink(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.mul_(0.5)


class Anything(Stage):
    """Changes what it likes."""

    unsafe = True

    def run(self, state: Any) -> None:
        shrink(state.model)
        state.loss = state.loss * 2


@stage(unsafe=True)
def anything(state: Any) -> None:
    state.loss = state.loss * 2


@after("gradient", unsafe=True)
def any_hook(state: Any) -> None:
    state.loss = state.loss * 2


@pytest.mark.parametrize(
    ("tree", "hooks", "actor"),
    [
        (fit_with(gradient=gradient(Anything())), (), "train/epoch/fit/batch/gradient/anything"),
        (fit_with(gradient=gradient(anything)), (), "train/epoch/fit/batch/gradient/anything"),
        (fit_with(gradient=gradient(unsafe=True)), (), "train/epoch/fit/batch/gradient"),
        (fit_with(), (any_hook,), "train/epoch/fit/batch/gradient:after:any_hook"),
    ],
    ids=["stage", "function", "composite", "hook"],
)
def test_unsafe_actor_is_warned_of(tree: Composite, hooks: tuple[Any, ...], actor: str) -> None:
    finding = only(tree, *hooks)
    assert (finding.severity, finding.kind, finding.actors) == ("warning", "unsafe actor", (actor,))
    assert finding.message.startswith(f"{actor} is unsafe: it may read and change everything.")


def test_unsafe_actor_may_change_everything_and_all_of_it_is_on_record() -> None:
    learner = toy_learner(valid=None)
    learner.insert(Anything(), after="gradient")
    learner.fit(batches=2)
    (change, _) = learner.log.where(actor="**/anything", field="loss")
    assert change.after == pytest.approx(2 * change.before) and change.evidence == "write"
    assert learner.log.where(actor="**/anything", field="model.params")
    assert [one.kind for one in learner.check()] == ["unsafe actor"]


def test_stage_that_declares_the_same_is_not_unsafe() -> None:
    class Declared(Anything):
        unsafe = False
        reads = ("loss", "model")
        writes = ("loss", "model.params")

    assert findings(fit_with(gradient=gradient(Declared()))) == []
    learner = toy_learner(valid=None)
    learner.insert(Declared(), after="gradient")
    learner.fit(batches=1)


def test_what_an_unsafe_actor_declares_is_what_others_rest_on() -> None:
    class Provides(Anything):
        writes = ("targets",)

    unpack = Chain(first=Unpack("inputs", rest=True), second=Anything())
    assert any(one.kind == "missing producer" for one in findings(fit_with(unpack=unpack)))
    unpack = Chain(first=Unpack("inputs", rest=True), second=Provides())
    assert [one.kind for one in findings(fit_with(unpack=unpack))] == ["unsafe actor"]


def unsafe_tree() -> Any:
    """A Learner with an unsafe stage and an unsafe hook, and a composite that forbids."""
    learner = toy_learner(valid=None, stages=fit_with(gradient=gradient(forbids=("model.params", "rng"))))
    learner.insert(Anything(), after="fit/batch/gradient")

    @learner.around("update", unsafe=True, restores=("model.mode",))
    def round_it(state: Any) -> Any:
        yield

    return learner


def test_tree_says_who_is_unsafe_and_what_is_forbidden() -> None:
    lines = [line.strip() for line in repr(unsafe_tree()).splitlines()]
    assert "anything (unsafe)" in lines
    assert [line.split("  ")[0] for line in lines if "round_it" in line] == ["around round_it (unsafe)"]
    assert [line for line in lines if line.startswith("gradient")][0] == "gradient  Chain (forbids model.params, rng)"
    assert sum("unsafe" in line for line in lines) == 2


def test_flowchart_shows_the_unsafe_in_red() -> None:
    drawn = draw_mermaid(unsafe_tree().assembly)
    labels = dict(re.findall(r"(\w+)[\[(]\"(.*?)\"[\])]", drawn))
    assert "  classDef unsafe stroke:#d00,color:#d00" in drawn.splitlines()
    (marked,) = re.findall(r"^  class (.*) unsafe$", drawn, flags=re.MULTILINE)
    assert [labels[number] for number in marked.split(",")] == [
        "anything #40;unsafe#41;",
        "around round_it #40;unsafe#41;",
    ]
    assert "gradient  Chain #40;forbids model.params, rng#41;" in labels.values()


def test_flowchart_of_a_safe_tree_has_no_red() -> None:
    assert "unsafe" not in draw_mermaid(toy_learner().assembly)


def test_explain_says_who_is_unsafe_and_what_is_forbidden() -> None:
    learner = unsafe_tree()
    assert learner.explain("anything").splitlines()[0] == "train/epoch/fit/batch/anything  Anything, unsafe"
    told = learner.explain("gradient").splitlines()[0]
    assert told == "train/epoch/fit/batch/gradient  Chain, forbids model.params, rng"
    assert "1. round_it: restores model.mode; unsafe" in learner.explain("update")


def test_graph_says_who_is_unsafe_what_is_forbidden_and_what_is_restored() -> None:
    nodes = unsafe_tree().graph.nodes
    assert nodes["train/epoch/fit/batch/anything"]["unsafe"] is True
    assert nodes["train/epoch/fit/batch/update"]["unsafe"] is False
    assert nodes["train/epoch/fit/batch/gradient"]["forbids"] == ("model.params", "rng")
    hook = nodes["train/epoch/fit/batch/update:around:round_it"]
    assert (hook["unsafe"], hook["restores"], hook["side"]) == (True, ("model.mode",), "around")
