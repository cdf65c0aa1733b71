"""What a resumed run is told of the optimizer's settings: those of the code that the checkpoint has overwritten."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from learner import Callback, Learner, after
from learner.callbacks import Checkpoint, Schedule
from learner.checkpoints import Checkpoints
from learner.errors import ResumeWarning
from learner.testing import toy_learner


def script(run_dir: Path, *callbacks: Any, **settings: Any) -> Learner:
    return toy_learner(callbacks=[*callbacks, Checkpoint(keep=None)], run_dir=run_dir, **settings)


def newest(run: Path) -> Path:
    return list(Checkpoints(run))[-1].path


def told_by(learner: Learner, **options: Any) -> str:
    with pytest.warns(ResumeWarning, match="not the program") as caught:
        learner.fit(**options)
    return str(caught[0].message)


def adam(learning_rate: float = 0.1, decay: float = 0.0) -> Any:
    return lambda parameters: AdamW(parameters, lr=learning_rate, weight_decay=decay)


def test_changed_settings_of_the_optimizer_are_told_each_time_with_what_holds(tmp_path: Path) -> None:
    script(tmp_path, optimizer=adam()).fit(epochs=1)
    for epochs in (2, 3):
        path = newest(tmp_path / f"{epochs - 1:04d}")
        learner = script(tmp_path, optimizer=adam(0.2, decay=0.3))
        told = told_by(learner, epochs=epochs, resume=path)
        assert told.splitlines()[-2:] == [
            "    optimizer.hyper.lr=0.1 in the checkpoint, 0.2 in the code",
            "    optimizer.hyper.weight_decay=0.0 in the checkpoint, 0.3 in the code",
        ]
        (group,) = learner.state.optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (0.1, 0.0)


def test_setting_that_is_set_after_the_learner_is_made_is_told_too(tmp_path: Path) -> None:
    script(tmp_path).fit(epochs=1)
    path = newest(tmp_path / "0001")
    learner = script(tmp_path)
    learner.state.optimizer.param_groups[0]["lr"] = 0.3
    assert "optimizer.hyper.lr=0.1 in the checkpoint, 0.3 in the code" in told_by(learner, epochs=3, resume=path)


def test_what_is_told_of_the_optimizer_shows_how_to_have_the_other(tmp_path: Path) -> None:
    script(tmp_path).fit(epochs=1)
    path = newest(tmp_path / "0001")
    learner = script(tmp_path)
    learner.load(path)
    learner.state.optimizer.param_groups[0]["lr"] = 0.3
    learner.fit(epochs=3)
    assert learner.log.blame("optimizer.hyper.lr").after == 0.3
    path = newest(tmp_path / "0002")
    other = script(tmp_path)
    other.state.optimizer.param_groups[0]["lr"] = 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.fit(epochs=4, resume=path)
    assert other.state.optimizer.param_groups[0]["lr"] == 0.3


def test_learning_rate_that_a_schedule_moved_is_compared_by_where_it_began(tmp_path: Path) -> None:
    def scheduled(learning_rate: float) -> Learner:
        return script(tmp_path, Schedule(lambda made: StepLR(made, 1, 0.5)), optimizer=adam(learning_rate))

    scheduled(0.1).fit(epochs=1)
    path = newest(tmp_path / "0001")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduled(0.1).fit(epochs=2, resume=path)
    *_, remedy, line = told_by(scheduled(0.2), epochs=2, resume=path).splitlines()
    assert line == "    optimizer.hyper.initial_lr=0.1 in the checkpoint, 0.2 in the code"
    assert "also in its base_lrs" in remedy


@dataclass(frozen=True)
class Unfreeze(Callback):
    """After the first epoch the bias is trained too, and both learn slower."""

    @after("epoch", touches=("optimizer.hyper",), reads=("model", "epoch"))
    def unfreeze(self, state: Any) -> None:
        if state.epoch == 0:
            state.optimizer.add_param_group({"params": [state.model.bias], "lr": 0.01})
            state.optimizer.param_groups[0]["lr"] /= 2


@pytest.mark.parametrize(
    "callback",
    [
        Schedule(lambda made: ReduceLROnPlateau(made, patience=0, threshold=1e9), per="epoch", monitor="valid_loss"),
        Schedule(lambda made: OneCycleLR(made, max_lr=0.1, total_steps=40)),
        Unfreeze(),
    ],
    ids=["plateau", "one cycle", "unfreeze"],
)
def test_same_script_is_told_nothing_whatever_moved_the_settings(callback: Callback, tmp_path: Path) -> None:
    def same() -> Learner:
        return script(tmp_path, callback, optimizer=lambda parameters: AdamW(list(parameters)[:1], lr=0.1))

    first = same()
    first.fit(epochs=2)
    assert first.state.optimizer.param_groups[0]["lr"] != 0.1
    first.close()
    for epochs in (3, 4):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            learner = same()
            learner.fit(epochs=epochs, resume="auto")
        learner.close()
