"""Gradients that are cleared before anybody reads them: seen in the tree, or taken to be needed."""

from typing import Any

import pytest

from learner import Skip, after, before, supervised
from learner.callbacks import ClipGradients
from learner.testing import toy_learner
from stages import (
    Chain,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Gradient,
    Stage,
    Train,
    Unpack,
    Update,
    When,
)
from stages.clearing import Clearing, clearings

FIT = "train/epoch/fit"


def paths(*callbacks: Any, **settings: Any) -> list[str]:
    learner = toy_learner(callbacks=callbacks, **settings)
    return [one.path for one in clearings(learner.assembly.places)]


def tree(*stages: Any) -> Train:
    return Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), *stages))))


def test_stock_trees_clear_before_anybody_reads() -> None:
    learner = toy_learner(callbacks=[ClipGradients(1.0)])
    assert clearings(learner.assembly.places) == [Clearing(f"{FIT}/batch/clear_gradients", "model", "optimizer")]
    assert paths(stages=supervised(accumulate=3)) == [f"{FIT}/clear_gradients"]


@before("clear_gradients", reads=("updates",))
def skipping(state: Any) -> None:
    if state.updates % 2:
        raise Skip("two batches for one update")


@before("batch", reads=("model.grads?",))
def looking_back(state: Any) -> None: ...


@after("epoch", reads=("model.grads?",))
def looking_later(state: Any) -> None: ...


@before("unpack", unsafe=True)
def doing_anything(state: Any) -> None: ...


@before("gradient", writes=("model.grads",))
def writing_too(state: Any) -> None: ...


@pytest.mark.parametrize("hook", [skipping, looking_back, looking_later, doing_anything, writing_too])
def test_hook_that_may_skip_it_read_before_it_or_write_as_well_is_in_the_way(hook: Any) -> None:
    assert paths(hook) == []


class OwnClearing(ClearGradients):
    def run(self, optimizer: Any) -> None:
        optimizer.zero_grad()


class Lookback(Stage):
    reads = ("model.grads?",)

    def run(self, state: Any) -> None: ...


@pytest.mark.parametrize(
    "stages",
    [
        (OwnClearing(), Gradient(), Update()),
        (Lookback(), ClearGradients(), Gradient(), Update()),
        (Chain(ClearGradients()), Gradient(), Update()),
    ],
    ids=["of one's own", "a reader before", "apart from its readers"],
)
def test_tree_that_does_not_show_it_has_none(stages: tuple[Stage, ...]) -> None:
    assert paths(stages=tree(*stages)) == []


def test_condition_over_all_of_it_is_not_in_the_way() -> None:
    stages = tree(When(lambda updates: updates < 3, ClearGradients(), Gradient(), Update()))
    assert paths(stages=stages) == [f"{FIT}/batch/when/clear_gradients"]
