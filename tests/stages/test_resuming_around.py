"""Hooks around what was open: on resume they are entered with the values that were there when they were entered."""

from pathlib import Path
from typing import Any

import pytest

from learner import Learner, TrainState, field
from learner.callbacks import Checkpoint
from learner.checkpoints import Checkpoints
from learner.testing import toy_learner


class Tagged(TrainState):
    tag: int = field(scope="epoch")
    mark: int = field(scope="epoch", default=-1)


def looking(run_dir: Path, name: str, seen: list[int]) -> Learner:
    """A learner whose epochs are given a value before `fit`, which an observer around `fit` reads."""
    learner = toy_learner(callbacks=[Checkpoint("3 batches", keep=None)], run_dir=run_dir)

    @learner.before("fit", state=Tagged, reads=("epoch",), writes=("tag", "mark"))
    def put(state: Any) -> None:
        state.tag = state.mark = state.epoch + 10

    @learner.around("fit")
    def look(state: Any) -> Any:
        seen.append(getattr(state, name))
        yield

    return learner


@pytest.mark.parametrize("name", ["tag", "mark"])
def test_an_observer_around_an_open_stage_sees_the_values_of_open_scopes(name: str, tmp_path: Path) -> None:
    seen: list[int] = []
    looking(tmp_path, name, seen).fit(epochs=1)
    looking(tmp_path, name, seen).fit(epochs=1, resume=next(iter(Checkpoints(tmp_path / "0001"))).path)
    assert seen == [10, 10]
