"""What changes while nobody runs who declares it: by whom, where, and what it was, as the log and warnings tell it."""

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from learner import Learner
from learner.callbacks import Schedule
from learner.errors import ArgumentError
from learner.testing import toy_learner
from stages import GuardWarning
from stages.errors import InvariantWarning, WatchHit

DATA = [(torch.ones(4, 1), torch.ones(4, 1))]


def found(learner: Learner, **wanted: Any) -> list[Any]:
    return list(learner.log.where(**wanted))


@pytest.mark.parametrize("is_debugging", [False, True])
def test_what_changes_between_the_making_of_a_learner_and_its_first_run_is_by_the_user(is_debugging: bool) -> None:
    learner = toy_learner(seed=1)
    learner.state.model.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.ones(1)})
    torch.rand(3)
    learner.debug(is_debugging)
    learner.fit(batches=1)
    rows = [one for one in found(learner, field="model.params") if one.actor != "setup"]
    assert (rows[0].actor, rows[0].after, rows[0].evidence) == ("user", "weight, bias", "contents")
    assert [one.field for one in found(learner, actor="user")] == ["model.params"]
    assert not learner.log.violations()
    untouched = toy_learner(seed=1)
    untouched.fit(batches=1)
    assert not found(untouched, actor="user")


def test_plain_value_that_somebody_else_declares_is_warned_of_where_it_changed() -> None:
    learner = toy_learner(callbacks=[Schedule(lambda optimizer: StepLR(optimizer, 50))], train=DATA * 20, valid=None)

    @learner.after("fit/batch")
    def meddle(state: Any) -> None:
        if state.batches_seen == 10:
            state.optimizer.param_groups[0]["lr"] = 0.5

    with pytest.warns(GuardWarning, match=r"external changed 'optimizer.hyper' \(lr; .*learner\.debug\(\)"):
        learner.fit(epochs=1)
    (row,) = found(learner, actor="external")
    assert (row.field, row.before, row.after, row.position.batch) == ("optimizer.hyper.lr", 0.1, 0.5, 9)


def test_plain_value_is_waited_for_whoever_changes_it() -> None:
    learner = toy_learner(train=DATA * 20, valid=None)

    @learner.after("fit/batch")
    def meddle(state: Any) -> None:
        if state.batches_seen == 10:
            state.optimizer.param_groups[0]["lr"] = 0.5

    learner.watch("optimizer.hyper.lr", above=0.3)
    with pytest.raises(WatchHit, match=r"^external at epoch 0, fit, batch 9.*above 0.3: 0.5. .*learner.debug"):
        learner.fit(epochs=1)


def test_mode_that_an_observer_changes_is_on_record_with_what_it_was() -> None:
    learner = toy_learner(train=DATA * 20, valid=None)

    @learner.after("fit/batch")
    def meddle(state: Any) -> None:
        if state.batches_seen == 10:
            state.model.eval()

    with pytest.warns(Warning) as caught:
        learner.fit(epochs=1)
    told = learner.log.blame("model.mode", at="0:fit:12")
    assert (told.actor, told.field, told.before, told.after) == ("external", "model.mode.train", True, False)
    assert learner.log.at(epoch=0, phase="fit", batch=12)["model.mode.train"] is False
    broken = [one for one in caught if isinstance(one.message, InvariantWarning)]
    assert len(broken) == 1, "for one cause"
    assert str(broken[0].message).startswith("external changed 'model.mode.train' last (learner.debug() finds out who)")


def test_plain_value_that_nobody_writes_is_not_waited_for_without_a_guard() -> None:
    with pytest.raises(ArgumentError, match="nobody in this tree writes 'optimizer.hyper.lr'"):
        toy_learner(guard="off").watch("optimizer.hyper.lr", above=0.3)
