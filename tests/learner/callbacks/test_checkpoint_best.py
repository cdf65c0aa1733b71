"""The best epoch: written when it comes, due or not, and kept however many newer ones there are."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from learner import Callback, after, field
from learner.callbacks import Checkpoint
from learner.checkpoints import Checkpoints
from learner.errors import ArgumentError
from learner.testing import toy_learner


@dataclass(frozen=True)
class Score(Callback):
    """Gives each epoch a number."""

    scores: tuple[float, ...]

    def fields(self) -> dict[str, Any]:
        return {"score": (float, field(scope="epoch"))}

    @after("validate", writes=("score",))
    def give(self, epoch: int) -> float:
        return self.scores[epoch]


def numbers(folder: Path, *scores: float, mode: Any = "max", **settings: Any) -> list[float | None]:
    """What the checkpoints that were kept are numbered by, the oldest first. An epoch has 8 batches."""
    given = {"every": "100 epochs", "keep": 1, "best": "score", "mode": mode} | settings
    learner = toy_learner(callbacks=[Score(scores), Checkpoint(**given)], run_dir=folder)
    learner.fit(epochs=len(scores))
    learner.close()
    assert learner.run_dir is not None
    return [kept.number_of("score") for kept in Checkpoints(learner.run_dir)]


def test_the_best_epoch_is_written_though_none_is_due_and_stays(tmp_path: Path) -> None:
    assert numbers(tmp_path, 0.1, 0.9, 0.5, 0.3) == [0.9, 0.3]
    assert numbers(tmp_path, 0.1, 0.9, 0.5, 0.3, mode="min") == [0.1, 0.3]
    assert numbers(tmp_path, 0.1, 0.2, 0.3) == [0.3]


@pytest.mark.parametrize("behind", [False, True])
def test_it_stays_among_checkpoints_inside_epochs(behind: bool, tmp_path: Path) -> None:
    assert numbers(tmp_path, 0.1, 0.9, 0.5, every="3 batches", keep=2, behind=behind) == [0.9, None, 0.5]


def test_of_equals_the_first_is_the_best_and_nan_never_is(tmp_path: Path) -> None:
    assert numbers(tmp_path, 0.5, 0.5, 0.5, keep=None) == [0.5, 0.5]  # the second one is that of the end
    assert numbers(tmp_path, math.nan, 0.5, math.nan)[0] == 0.5


def test_a_damaged_one_does_not_stop_the_next(tmp_path: Path) -> None:
    learner = toy_learner(callbacks=[Score((0.5, 0.6)), Checkpoint(best="score", mode="max")], run_dir=tmp_path)
    learner.fit(epochs=1)
    assert learner.run_dir is not None
    (first,) = Checkpoints(learner.run_dir)
    (first.path / "run.json").write_bytes(b"{")
    learner.fit(epochs=1)
    assert [kept.number_of("score") for kept in Checkpoints(learner.run_dir)] == [None, 0.6]


def test_a_mode_that_there_is_not_is_refused() -> None:
    with pytest.raises(ArgumentError, match="'min', 'max', or None"):
        Checkpoint(best="score", mode="great")  # type: ignore[arg-type]
