"""Breakpoints: a run stops where it comes to a slot, and is the same run without them."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import GraphError, Learner, WatchHit
from learner.callbacks import Breakpoint
from learner.errors import ArgumentError
from learner.testing import toy_learner
from stages.node import Node
from stages.watching import Stopped

UPDATE = "train/epoch/fit/batch/update"


def test_run_stops_before_a_slot_with_state_as_its_stage_would_find_it() -> None:
    learner = toy_learner()
    learner.breakpoint(before="update", when=lambda state: state.batch_index == 3, then="raise")
    with pytest.raises(WatchHit, match=f"before {UPDATE} at epoch 0, fit, batch 3, update 3") as caught:
        learner.fit(epochs=1)
    stopped = caught.value.hit
    assert isinstance(stopped, Stopped)
    assert (stopped.side, stopped.path, stopped.position.batch) == ("before", UPDATE, 3)
    assert learner.state.updates == 3 and learner.state.model.weight.grad is not None


def test_slot_is_on_the_stack() -> None:
    learner, found = toy_learner(), list[str]()

    def look(stopped: Stopped) -> None:
        nodes = [frame.frame.f_locals.get("self") for frame in inspect.stack()]
        found.extend(node.path for node in nodes if isinstance(node, Node))

    learner.breakpoint(before="gradient/forward", then=look)
    learner.fit(batches=1)
    assert "train/epoch/fit/batch/gradient/forward" in found


def test_after_a_slot_its_outcome_and_what_its_hooks_left_are_there() -> None:
    learner, seen = toy_learner(), list[Any]()

    @learner.after("fit/batch/gradient/loss", reads=("loss",), writes=("loss",))
    def halve(loss: Tensor) -> Tensor:
        return loss / 2

    @learner.after("update")
    def fails(state: Any) -> None:
        if state.batch_index == 1:
            raise ValueError("not today")

    learner.breakpoint(after="fit/batch/gradient/loss", then=lambda stopped: seen.append(stopped.state.loss.item()))
    learner.breakpoint(after="fit/batch", then=lambda stopped: seen.append(str(stopped)))
    with pytest.raises(ValueError, match="not today"):
        learner.fit(epochs=1)
    first, ended, _, failed = seen
    whole = float(toy_learner().fit_batch(learner.state.train_loader[0]).loss)
    assert first == pytest.approx(whole / 2)
    assert ended == "after train/epoch/fit/batch at epoch 0, fit, batch 0, update 1"
    assert failed.endswith("which ended failed: ValueError: not today")


def test_debugger_is_entered_with_the_place_printed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    entered: list[None] = []
    monkeypatch.setattr("sys.breakpointhook", lambda: entered.append(None))
    learner = toy_learner()
    learner.breakpoint(before="update")
    learner.fit(batches=2)
    assert len(entered) == 2 and f"before {UPDATE} at epoch 0, fit, batch 1" in capsys.readouterr().out


def test_unwatch_takes_one_back_or_all_with_the_watchers() -> None:
    learner, found = toy_learner(), list[Any]()
    point = learner.breakpoint(before="update", then=found.append)
    learner.breakpoint(after="update", then=found.append)
    watcher = learner.watch("loss", above=0, then=found.append)
    learner.unwatch(point)
    learner.fit(batches=1)
    assert [getattr(one, "side", "") for one in found] == ["", "after"]
    learner.unwatch(watcher)
    learner.fit(batches=1)
    assert len(found) == 3
    learner.unwatch()
    learner.fit(batches=1)
    assert len(found) == 3 and list(learner.hooks) == list(toy_learner().hooks)


def test_breakpoint_that_does_not_stop_changes_no_bit_of_the_run() -> None:
    plain, with_points = toy_learner(), toy_learner(callbacks=[Breakpoint(before="fit", when=lambda state: False)])
    with_points.breakpoint(after="*", then=lambda stopped: None)
    for learner in (plain, with_points):
        learner.fit(epochs=2)
    assert torch.equal(plain.state.model.weight, with_points.state.model.weight)
    assert plain.history[-1]["valid_loss"] == with_points.history[-1]["valid_loss"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "before= or after= which slot, one of the two"),
        ({"before": "update", "after": "update"}, "one of the two"),
        ({"before": "update", "then": "capture"}, "then='capture' is none of 'raise', 'break' and a function"),
    ],
)
def test_breakpoint_that_cannot_be_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        toy_learner().breakpoint(**asked)


def test_slip_in_a_slot_gets_the_nearest_and_leaves_no_hook() -> None:
    learner: Learner = toy_learner()
    with pytest.raises(GraphError, match="Did you mean 'update'"):
        learner.breakpoint(before="updat")
    assert list(learner.hooks) == list(toy_learner().hooks)
