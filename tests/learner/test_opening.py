"""Opening a run: the levels of its log, what it starts from, and its seeds."""

import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from learner import ArgumentError, ChangeLog, Stage, field
from learner.callbacks import Schedule
from learner.opening import open_recording, seed_everything, tell_setup
from learner.testing import toy_learner
from state.contents import fingerprint
from state.runs import LOG_FILE


def test_without_a_directory_the_log_is_in_memory() -> None:
    recording, _, path = open_recording(None, "summary")
    assert recording is not None and path is None


def test_with_one_the_run_gets_the_next_number_and_a_log(tmp_path: Path) -> None:
    paths = [open_recording(tmp_path / "runs", "summary")[2] for _ in range(2)]
    assert [path and path.name for path in paths] == ["0001", "0002"]
    assert all(path and (path / LOG_FILE).exists() for path in paths)


def test_off_keeps_the_directory_and_no_log(tmp_path: Path) -> None:
    recording, store, path = open_recording(tmp_path / "runs", "off")
    assert recording is None
    assert path is not None and path.is_dir() and not (path / LOG_FILE).exists()
    assert len(ChangeLog(store, recording)) == 0


@pytest.mark.parametrize("audit", ["all", {"loss": "all"}, {"*": "all"}])
def test_level_that_there_is_none_of_is_refused_before_a_run_is_made(audit: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"is none of off, writes, summary, stats, full") as caught:
        open_recording(tmp_path / "runs", audit)
    assert caught.value.argument == "audit"
    assert not (tmp_path / "runs").exists()


def test_levels_by_field_with_the_rest_off_keep_a_log() -> None:
    recording, _, _ = open_recording(None, {"*": "off", "loss": "writes"})
    assert recording is not None


def test_log_begins_with_what_the_run_starts_from() -> None:
    learner = toy_learner()
    rows = {change.field: change.after for change in learner.log.where(actor="setup")}
    assert rows["updates"] == 0
    assert rows["optimizer.hyper.lr"] == 0.1
    assert rows["model.mode.train"] is True
    assert rows["model.params"] == fingerprint(learner.state.model)


def test_fingerprint_tells_initial_parameters_apart() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    copy = nn.Linear(3, 2)
    copy.load_state_dict(one.state_dict())
    assert fingerprint(one) == fingerprint(copy) != fingerprint(other)


def test_nothing_is_told_without_a_recording() -> None:
    learner = toy_learner()
    before, records = dict(learner.state.__dict__), len(learner.log)
    assert tell_setup(None, learner.state) == before.keys()
    assert (learner.state.__dict__, len(learner.log)) == (before, records)


def test_seed_reaches_torch_random_and_numpy() -> None:
    def draw() -> list[float]:
        return [torch.rand(()).item(), random.random(), float(numpy.random.rand())]

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(2**40 + 3)
    assert draw() != first


def test_rate_that_making_a_schedule_changes_is_told_as_it_was_given_and_as_it_became() -> None:
    learner = toy_learner(callbacks=[Schedule(lambda optimizer: LinearLR(optimizer, 0.1, total_iters=5))])
    told = [(one.actor, one.after) for one in learner.log.history("optimizer.hyper.lr")]
    assert told == [("setup", 0.1), ("setup", pytest.approx(0.01))]


class Warm(Stage):
    """Brings a schedule, and moves it."""

    writes = ("optimizer.hyper", "warming.state")

    def fields(self) -> dict[str, Any]:
        return {"warming": (LinearLR, field(factory=lambda state: LinearLR(state.optimizer, 0.1, total_iters=5)))}

    def run(self, warming: LinearLR) -> None:
        warming.step()


def test_rate_that_an_edit_changes_is_the_set_ups_and_what_was_changed_before_is_not() -> None:
    learner = toy_learner()
    learner.fit(batches=1)
    learner.state.optimizer.param_groups[0]["lr"] = 0.2  # type: ignore[attr-defined]
    learner.insert(Warm(), after="update")
    told = [(one.actor, one.after) for one in learner.log.history("optimizer.hyper.lr")]
    assert told == [("setup", 0.1), ("external", 0.2), ("setup", pytest.approx(0.02))]
