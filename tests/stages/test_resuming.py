"""Resuming: which loops a run can go on from, and what of the stages round them runs again."""

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from learner import Learner, Outcome, TrainState, field, supervised
from learner.callbacks import Checkpoint, ProgressBar
from learner.checkpoints import Checkpoints
from learner.recipes import validate
from learner.testing import toy_learner
from stages import (
    AverageGradients,
    Backward,
    Cancel,
    ClearGradients,
    Composite,
    Epoch,
    Every,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Repeat,
    Train,
    Unpack,
    Update,
    When,
    Window,
)
from stages.resuming import why_not


def reason(path: str, learner: Learner) -> str:
    """Why a run of this Learner cannot go on from between two rounds of the loop at `path`."""
    runner = learner._bound.runner
    return why_not(runner.find(path).place, runner.state.specs)


def test_loops_of_the_default_tree_can_be_gone_on_from() -> None:
    learner = toy_learner()
    assert reason("train", learner) == reason("fit", learner) == ""
    with_windows = toy_learner(stages=supervised(accumulate=2))
    assert reason("fit", with_windows) == reason("fit/window", with_windows) == ""


def test_evaluation_cannot_since_it_holds_the_modes() -> None:
    assert "the stage train/epoch/validate holds State in another form" in reason("validate", toy_learner())


class SummedState(TrainState):
    total: float = field(scope="update", default=0.0, description="a sum over the batches of an update")
    kept: float = field(scope="update", default=0.0, description="another one", saved="saved")


@pytest.mark.parametrize("name", ["total", "kept"])
def test_window_cannot_where_a_value_of_the_open_update_is_in_no_checkpoint(name: str) -> None:
    learner = toy_learner(stages=supervised(accumulate=2))

    @learner.after("fit/window/batch", state=SummedState, writes=(name,))
    def add(state: Any) -> None:
        setattr(state, name, 1.0)

    told = "train/epoch/fit/window/batch:after:add writes 'total' in the update that is open there, and it is volatile"
    assert reason("window", learner) == (told if name == "total" else "")
    assert reason("fit", learner) == ""


def test_window_may_be_followed_by_who_writes_such_a_value() -> None:
    learner = toy_learner(stages=supervised(accumulate=2))

    @learner.after("update", state=SummedState)
    def add(total: float) -> None:
        pass

    @learner.before("update", state=SummedState, writes=("total",))
    def sum_up(state: Any) -> None:
        state.total = 1.0

    assert reason("window", learner) == ""


class InnerWindow(Window):
    """In a loop of its own."""

    def run(self, state: Any) -> None:
        super().run(state)


def test_window_with_code_of_its_own_cannot() -> None:
    inner = InnerWindow(2, Fetch(), FitBatch(Unpack(), Gradient(Forward(), Loss(), Backward())))
    tree = Train(Epoch(Fit(ClearGradients(), window=inner, average=AverageGradients(), update=Update(), each="update")))
    told = "train/epoch/fit/window has code of its own round the stages it holds, and nobody knows how far that got"
    assert reason("window", toy_learner(stages=tree)) == told


class Twice(Composite):
    def run(self, state: Any) -> None:
        super().run(state)
        super().run(state)


class Slow(Train):
    """Has no code of its own."""


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (lambda: Train(Twice(*supervised(valid=False).epoch.stages.values())), "train/twice has code of its own"),
        (lambda: Train(Repeat(2, *supervised(valid=False).epoch.stages.values())), "train/repeat has code of its own"),
        (
            lambda: Train(When(lambda updates: True, *supervised(valid=False).epoch.stages.values())),
            "train/when has code of its own",
        ),
        (lambda: Slow(*supervised(valid=False).stages.values()), ""),
    ],
)
def test_code_round_the_loop_that_is_not_ours_cannot_be_taken_up(tree: Callable[[], Any], told: str) -> None:
    assert reason("fit", toy_learner(stages=tree())).startswith(told)


def test_evaluation_inside_a_batch_cannot_and_the_loop_round_it_can() -> None:
    tree = supervised(valid=False).insert(Every("2 batches", validate()), after="fit/batch")
    learner = toy_learner(stages=tree)
    assert "every/validate holds State in another form there" in reason("every/validate", learner)
    assert reason("fit", learner) == ""


def test_pair_round_the_loop_has_to_be_closed_first() -> None:
    learner = toy_learner()

    @learner.around("fit", restores=("model.params",))
    def lend(model: nn.Module) -> Iterator[None]:
        yield

    assert "lend holds State in another form there" in reason("fit", learner)
    assert reason("train", learner) == "", "it is closed where the epoch has ended"


def test_pair_that_restores_nothing_does_not_matter() -> None:
    learner = toy_learner()

    @learner.around("fit")
    def watch(state: Any) -> Iterator[None]:
        yield

    assert reason("fit", learner) == ""


class Always(Checkpoint):
    def _is_due(self, keeper: Any) -> bool:
        return True


def noting(events: list[str], text: str) -> Callable[[Any, Outcome], None]:
    def note(state: Any, outcome: Outcome) -> None:
        events.append(f"{text} {outcome.kind}")

    return note


class NotedState(TrainState):
    entered: int = field(default=0, description="how often before-hooks ran")


def entering(events: list[str], text: str) -> Callable[[int], int]:
    """A hook that writes, so that it is no observer."""

    def enter(entered: int) -> int:
        events.append(text)
        return entered + 1

    return enter


SLOTS = ("train", "epoch", "fit", "fit/batch", "validate")


def watched(run_dir: Path, *, cancels: str = "") -> tuple[Learner, list[str]]:
    """A toy Learner with a checkpoint at every point, and what runs before and after its slots."""
    learner, events = toy_learner(callbacks=[Always(keep=None)], run_dir=run_dir), list[str]()
    for slot in SLOTS:
        learner.before(slot, state=NotedState, reads=("entered",), writes=("entered",))(
            entering(events, f"before {slot}")
        )
        learner.after(slot)(noting(events, f"after {slot}"))
    if cancels:

        @learner.after("update")
        def cancel(state: Any) -> None:
            if state.batch_index == 2 and state.epoch == 0:
                raise Cancel(cancels, "enough")

    return learner, events


def events_from(number: int, run_dir: Path, *, cancels: str = "", **limit: int) -> tuple[list[str], list[str]]:
    """What ran in a whole run, and in one that went on from its checkpoint of this number."""
    learner, whole = watched(run_dir / "whole", cancels=cancels)
    learner.fit(**limit)
    assert learner.run_dir is not None
    path = list(Checkpoints(learner.run_dir))[number - 1].path
    other, events = watched(run_dir / "other", cancels=cancels)
    other.fit(**limit, resume=path)
    assert str(other.outcome) == str(learner.outcome)
    return whole, events


def test_no_before_hook_of_what_was_open_runs_again_and_every_after_hook_does(tmp_path: Path) -> None:
    whole, events = events_from(3, tmp_path, epochs=1)
    ends = ["after fit ok", "before validate", "after validate ok", "after epoch ok", "after train ok"]
    assert events == ["before fit/batch", "after fit/batch ok"] * 5 + ends
    assert whole[-len(events) :] == events, "these are the last of the whole run"


def test_between_two_epochs_only_the_outer_loop_is_open(tmp_path: Path) -> None:
    _, events = events_from(9, tmp_path, epochs=2)
    assert events[:2] == ["before epoch", "before fit"] and events[-1] == "after train ok"


@pytest.mark.parametrize("scope", ["phase", "epoch", "run"])
def test_cancel_that_was_on_its_way_reaches_the_same_after_hooks(scope: str, tmp_path: Path) -> None:
    whole, events = events_from(3, tmp_path, cancels=scope, epochs=1)
    assert whole[-len(events) :] == events
    assert events[0].startswith("after fit cancelled"), "nothing of the next batch"


def test_end_of_a_run_is_only_its_after_hooks(tmp_path: Path) -> None:
    _, events = events_from(9, tmp_path, epochs=1)
    assert events == ["after train ok"]


def test_limit_reached_within_an_epoch_is_reached_again(tmp_path: Path) -> None:
    whole, events = events_from(4, tmp_path, batches=4)
    assert events and whole[-len(events) :] == events
    assert not any(event.startswith("before") for event in events)


def test_observers_before_what_was_open_run_again_where_they_find_everything(tmp_path: Path) -> None:
    """What they noted for their after-hooks is in no checkpoint; a Cancel of theirs had its turn."""
    seen: list[tuple[str, Any]] = []

    def make(run_dir: Path) -> Learner:
        learner = toy_learner(callbacks=[Always(keep=None)], run_dir=run_dir)

        @learner.before("train")
        def before_train(state: Any) -> None:
            seen.append(("train", state.updates))

        @learner.before("fit")
        def before_fit(state: Any) -> None:
            seen.append(("fit", state.batch_index if state.ready("batch_index") else None))
            if state.updates > 2:
                raise Cancel("run", "late")

        return learner

    make(tmp_path / "whole").fit(epochs=1)
    assert seen == [("train", 0), ("fit", None)]
    seen.clear()
    learner = make(tmp_path / "other")
    learner.fit(epochs=1, resume=tmp_path / "whole/0001/checkpoints/0003")
    assert seen == [("train", 3), ("fit", 2)] and learner.outcome.ok and learner.state.updates == 8


def test_progress_bar_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    def make(file: StringIO) -> Learner:
        return toy_learner(callbacks=[Checkpoint("3 batches", keep=None), ProgressBar(file)], run_dir=tmp_path)

    make(StringIO()).fit(epochs=1)
    screen = StringIO()
    make(screen).fit(epochs=1, resume=tmp_path / "0001/checkpoints/0001")
    assert "epoch 0  train_loss" in screen.getvalue()
