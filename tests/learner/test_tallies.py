"""Tallies: rates of writes, and who was to write and who did."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from learner import ChangeLog, InvariantWarning, supervised
from learner.callbacks import Schedule
from learner.testing import toy_learner
from stages import Cancel


def steps(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def test_rates_tell_what_happens_per_batch_and_per_update(tmp_path: Path) -> None:
    learner = toy_learner(stages=supervised(accumulate=4), callbacks=[Schedule(steps)], run_dir=tmp_path / "runs")
    learner.fit(epochs=2)
    learner.close()
    for log in (learner.log, ChangeLog.open(tmp_path / "runs")):
        rates = {row.field: row for row in log.rates()}
        assert (rates["optimizer.hyper.lr"].writes, rates["optimizer.hyper.lr"].per_update) == (4, 1.0)
        assert (rates["model.params"].per_batch, rates["model.params"].per_update) == (0.25, 1.0)
        assert rates["model.grads"].writers[0] == "train/epoch/fit/window/batch/gradient/backward"
        assert "optimizer.hyper.momentum" not in rates, "the set-up does not count"


def test_schedule_that_steps_on_every_batch_shows_beside_the_updates() -> None:
    learner = toy_learner(stages=supervised(accumulate=4))
    scheduler = steps(learner.state.optimizer)

    def step(state: Any) -> None:
        scheduler.step()

    with pytest.warns(InvariantWarning, match="step keeps 'scheduler', a StepLR, which is not in State"):
        learner.after("fit/window/batch", writes=("optimizer.hyper.lr",))(step)
    with warnings.catch_warnings(action="ignore"):  # of torch: the first step comes before an update; and of ours
        learner.fit(epochs=1)
    rates = {row.field: row for row in learner.log.rates()}
    assert rates["optimizer.hyper.lr"].per_update == 4.0


def test_stage_that_never_came_to_write_is_told() -> None:
    learner = toy_learner()

    @learner.before("update")
    def leave(state: Any) -> None:
        raise Cancel("batch", "no")

    learner.fit(epochs=1)
    uses = {row.field: row for row in learner.log.writers()}
    assert (uses["model.params"].told, uses["optimizer.state"].told) == ("", "never written")
    assert uses["loss"].wrote[0] == "train/epoch/fit/batch/gradient/loss (8)"
    assert "train/epoch/fit/batch/gradient/backward" in uses["loss"].readers


def test_hook_that_declares_to_write_and_never_does_is_a_writer() -> None:
    learner = toy_learner()
    learner.after("epoch", writes=("optimizer.hyper",))(lambda optimizer: None)
    learner.fit(epochs=1)
    uses = {row.field: row for row in learner.log.writers()}
    assert uses["optimizer.hyper"].declared == ("train/epoch:after:lambda",)
    assert uses["optimizer.hyper"].told == "never written"


def test_who_may_change_a_part_on_the_way_is_told_beside_who_writes_it() -> None:
    learner = toy_learner()
    uses = {row.field: row for row in learner.log.writers()}
    assert uses["model.buffers"].touchers[0] == "train/epoch/fit/batch/gradient/forward"
    assert not set(uses["model.grads"].touchers) & set(uses["model.grads"].declared)
    assert not learner.log.where(kind=None, field="model.buffers"), "a declaration is no record"


def test_digest_is_the_same_whether_somebody_reads_the_log_meanwhile_or_not() -> None:
    def digest(read: bool) -> str:
        learner = toy_learner()

        @learner.after("gradient")
        def look(state: Any) -> None:
            if read:
                len(learner.log)

        learner.fit(batches=3)
        return learner.log.digest()

    assert digest(True) == digest(False)
