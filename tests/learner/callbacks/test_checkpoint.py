"""Checkpoint: when one is written, which are kept, and what it refuses."""

from collections.abc import Sequence
from dataclasses import dataclass
from errno import EIO
from pathlib import Path
from typing import Any

import pytest

from learner import Callback, Composite, Learner, after, field
from learner.callbacks import Checkpoint
from learner.checkpoints import Checkpoints
from learner.errors import ArgumentError
from learner.recipes import supervised
from learner.testing import toy_learner
from stages import Fit, Train
from state.bundle import verify_bundle
from state.commit import _sync, discard
from state.errors import CheckpointError, SnapshotError

nan = float("nan")


@dataclass(frozen=True)
class Script(Callback):
    """Writes a given value per epoch to `score`."""

    values: Sequence[float]

    def fields(self) -> dict[str, Any]:
        return {"score": (float, field(scope="epoch"))}

    @after("validate", writes=("score",))
    def write(self, epoch: int) -> Any:
        return self.values[epoch]


class OwnTrain(Train):
    """Epochs by code of its own."""

    def run(self, state: Any) -> None:
        while True:
            with state.round():
                Composite.run(self, state)


class OwnFit(Fit):
    """Batches by code of its own."""

    def run(self, state: Any) -> None:
        super().run(state)


def kept(learner: Learner) -> list[int]:
    assert learner.run_dir is not None
    return [one.number for one in Checkpoints(learner.run_dir)]


def positions(learner: Learner) -> list[tuple[Any, ...]]:
    """The updates done at each checkpoint, and the path of the loop that it stands in."""
    assert learner.run_dir is not None
    runs = [one.run() for one in Checkpoints(learner.run_dir)]
    return [(run["position"][3], run["standing"][0]) for run in runs]


def fitted(callback: Checkpoint, run_dir: Path, *callbacks: Any, **limit: Any) -> Learner:
    learner = toy_learner(callbacks=[callback, *callbacks], run_dir=run_dir)
    learner.fit(**limit)
    return learner


@pytest.mark.parametrize(
    ("every", "limit", "expected"),
    [
        ("1 epochs", {"epochs": 2}, [(8, "train"), (16, "train")]),
        ("2 epochs", {"epochs": 3}, [(16, "train"), (24, "train")]),
        ("5 batches", {"epochs": 1}, [(5, "train/epoch/fit"), (8, "train")]),
        ("3 updates", {"batches": 7}, [(3, "train/epoch/fit"), (6, "train/epoch/fit"), (7, "train")]),
        ("100 batches", {"epochs": 1}, [(8, "train")]),
        ("10 hours", {"epochs": 2}, [(16, "train")]),
    ],
)
def test_one_is_written_when_so_many_are_over_and_one_at_the_end(
    every: str, limit: dict[str, int], expected: list[Any], tmp_path: Path
) -> None:
    assert positions(fitted(Checkpoint(every, keep=None), tmp_path, **limit)) == expected


def test_one_is_due_after_so_many_seconds(tmp_path: Path) -> None:
    learner = fitted(Checkpoint("0.0000001 seconds", keep=None), tmp_path, batches=3)
    assert [updates for updates, _ in positions(learner)] == [1, 2, 3, 3]


def test_count_goes_on_from_where_the_last_fit_ended(tmp_path: Path) -> None:
    learner = fitted(Checkpoint("3 batches", keep=None), tmp_path, batches=4)
    learner.fit(batches=4)
    assert [updates for updates, _ in positions(learner)] == [3, 4, 6, 8]


def test_newest_are_kept(tmp_path: Path) -> None:
    assert kept(fitted(Checkpoint(keep=2), tmp_path, epochs=4)) == [3, 4]
    assert kept(fitted(Checkpoint(keep=1), tmp_path, epochs=4)) == [4]
    assert kept(fitted(Checkpoint(keep=None), tmp_path, epochs=4)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        ([3, 1, 2, 4], "min", [2, 4]),
        ([3, 1, 2, 4], "max", [4]),
        ([nan, 3, nan, nan], "min", [2, 4]),
        ([nan, nan, nan], "max", [3]),
        ([2, float("inf"), 1], "max", [1, 3]),
    ],
)
def test_best_is_kept_beside_the_newest(values: list[float], mode: Any, expected: list[int], tmp_path: Path) -> None:
    callback = Checkpoint(keep=1, best="score", mode=mode)
    assert kept(fitted(callback, tmp_path, Script(values), epochs=len(values))) == expected


def test_best_epoch_has_one_whenever_others_are_due(tmp_path: Path) -> None:
    callback = Checkpoint("9 epochs", keep=None, best="score", mode="max")
    learner = fitted(callback, tmp_path, Script([1, nan, 3, 2, 3, 4, 0]), epochs=7)
    assert [updates for updates, _ in positions(learner)] == [8, 24, 48, 56]


def test_best_is_that_of_the_whole_run_after_a_resume(tmp_path: Path) -> None:
    def make() -> Learner:
        return toy_learner(
            callbacks=[Checkpoint(keep=1, best="score", mode="min"), Script([1, 2, 3, 4])], run_dir=tmp_path
        )

    first = make()
    first.fit(epochs=2)
    first.close()
    second = make()
    second.fit(epochs=4, resume="auto")
    assert kept(second) == [1, 4]


def test_what_is_damaged_or_half_removed_does_not_stop_a_run(tmp_path: Path) -> None:
    learner = fitted(Checkpoint(keep=3, best="score", mode="min"), tmp_path, Script([4, 3, 2, 1]), epochs=3)
    assert learner.run_dir is not None
    first, second, _ = Checkpoints(learner.run_dir)
    (first.path / "run.json").unlink()
    (second.path / "run.json").write_text("{")
    learner.fit(epochs=1)
    assert kept(learner) == [2, 3, 4]


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    learner = fitted(Checkpoint(keep=1), tmp_path, epochs=1)
    assert learner.run_dir is not None
    for one in Checkpoints(learner.run_dir):
        for file in one.path.iterdir():
            file.unlink()
        one.path.rmdir()
    learner.fit(epochs=1)
    assert kept(learner) == [2]


@pytest.mark.parametrize("behind", [False, True])
def test_older_ones_go_when_the_newest_is_on_the_disk_and_whole(
    behind: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def syncing(path: Path) -> None:
        events.append(f"sync {path.name}")
        _sync(path)

    def dropping(path: Path) -> None:
        *_, newest = Checkpoints(tmp_path / "0001")
        assert events[-1] == "sync checkpoints" and verify_bundle(newest.path) == []
        events.append(f"drop {path.name} for {newest.path.name}")
        discard(path)

    monkeypatch.setattr("state.commit._sync", syncing)
    monkeypatch.setattr("learner.checkpoints.discard", dropping)
    fitted(Checkpoint(keep=1, behind=behind), tmp_path, epochs=3)
    assert [event for event in events if event.startswith("drop")] == ["drop 0001 for 0002", "drop 0002 for 0003"]


@pytest.mark.parametrize("failing", ["model.safetensors", "manifest.json", "checkpoints"])
def test_nothing_is_dropped_for_one_that_could_not_be_written(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fitted(Checkpoint(keep=1), tmp_path, epochs=1)

    def fail(path: Path) -> None:
        if path.name == failing:
            raise OSError(EIO, "no more disk")
        _sync(path)

    monkeypatch.setattr("state.commit._sync", fail)
    with pytest.raises(CheckpointError, match="no more disk"):
        made.fit(epochs=1)
    first = next(iter(Checkpoints(tmp_path / "0001")))
    assert first.number == 1 and verify_bundle(first.path) == []


def test_one_that_two_learners_share_writes_for_the_one_that_fits(tmp_path: Path) -> None:
    shared = Checkpoint(keep=None)
    learners = [toy_learner(callbacks=[shared], run_dir=tmp_path / name) for name in ("a", "b")]
    for learner, epochs in zip(learners, (2, 3), strict=True):
        learner.fit(epochs=epochs)
    assert [len(kept(learner)) for learner in learners] == [2, 3]


def test_nothing_is_written_where_a_part_runs_alone(tmp_path: Path) -> None:
    learner = toy_learner(callbacks=[Checkpoint("2 batches", keep=None)], run_dir=tmp_path)
    learner.run("epoch/fit")
    with learner.inside("epoch/fit"):
        for batch in learner.state.train_loader:
            learner.fit_batch(batch)
    assert kept(learner) == []
    learner.fit(batches=2)
    there = positions(learner)
    learner.run("epoch/fit")
    assert positions(learner) == there == [(18, "train/epoch/fit"), (18, "train")]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"every": "often"}, "Checkpoint"),
        ({"every": "0 minutes"}, "every='0 minutes' is no time"),
        ({"every": "nan seconds"}, "every='nan seconds' is no time"),
        ({"every": "inf seconds"}, "every='inf seconds' is no time"),
        ({"every": "some minutes"}, "every='some minutes' is no time"),
        ({"every": 3}, "Checkpoint"),
        ({"every": "-1 epochs"}, "Checkpoint"),
        ({"keep": 0}, "keep=0 cannot be used"),
        ({"keep": True}, "keep=True cannot be used"),
        ({"keep": 1.5}, "keep=1.5 cannot be used"),
        ({"best": "score"}, "Say mode='min' or mode='max'"),
        ({"best": "valid_loss", "mode": "least"}, "mode='least'"),
    ],
)
def test_setting_that_cannot_be_used_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(Exception, match=told) as caught:
        Checkpoint(**settings)
    assert isinstance(caught.value, ValueError | TypeError) or "Checkpoint" in str(caught.value)


def test_learner_without_a_directory_is_refused() -> None:
    with pytest.raises(ArgumentError, match="Say run_dir="):
        toy_learner(callbacks=[Checkpoint()])


def test_best_of_a_field_that_nobody_writes_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="valid_accuracy"):
        toy_learner(callbacks=[Checkpoint(best="valid_accuracy")], run_dir=tmp_path)


def test_field_that_no_checkpoint_can_hold_stops_the_run_and_is_named(tmp_path: Path) -> None:
    learner = toy_learner(callbacks=[Checkpoint()], run_dir=tmp_path)
    learner.state.optimizer.param_groups[0]["thing"] = object()
    with pytest.raises(SnapshotError, match="'optimizer.0.thing' holds a builtins.object"):
        learner.fit(epochs=1)


def test_tree_in_which_none_could_ever_be_written_is_refused(tmp_path: Path) -> None:
    learner = toy_learner(callbacks=[Checkpoint()], run_dir=tmp_path, stages=OwnTrain(supervised().epoch))
    with pytest.raises(ArgumentError, match="nowhere in this tree: own_train has code of its own"):
        learner.fit(epochs=1)
    assert learner.state.updates == 0


def test_points_of_a_tree_that_was_changed_are_those_of_the_new_one(tmp_path: Path) -> None:
    learner = fitted(Checkpoint("3 batches", keep=None), tmp_path, epochs=1)
    learner.swap("epoch/fit", OwnFit(*supervised().epoch.fit.stages.values()))
    learner.fit(epochs=1)
    fit = "train/epoch/fit"
    assert positions(learner) == [(3, fit), (6, fit), (8, "train"), (16, "train")]
