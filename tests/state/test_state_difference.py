"""What differs between the state at two positions."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Callback, TrainState, after, field
from learner.testing import toy_learner
from state import ABSENT, ChangeLog, StateError
from state.state_difference import Differing


@pytest.fixture(scope="module")
def log() -> ChangeLog:
    """Two epochs, in the second of which a hook lowers the learning rate."""
    learner = toy_learner(audit={"*": "full", "outputs": "summary", "model.params": "stats"})

    @learner.before("fit", reads=("epoch",), writes=("optimizer.hyper",))
    def cool(optimizer: Any, epoch: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.1 if epoch == 0 else 0.05

    @learner.after("fit/batch/unpack", reads=("inputs", "batch_index"), writes=("inputs",))
    def same(inputs: Tensor, batch_index: int) -> Tensor:
        return inputs if batch_index < 2 else torch.zeros_like(inputs)

    learner.fit(epochs=2)
    return learner.log


def between(log: ChangeLog, there: str, here: str | None = None) -> dict[str, Differing]:
    return {row.field: row for row in log.between(there, here)}


def test_value_there_and_here_and_who_wrote_it_last(log: ChangeLog) -> None:
    found = between(log, "0", "1")
    lr = found["optimizer.hyper.lr"]
    assert (lr.there, lr.here, lr.known) == (0.1, 0.05, "by value")
    assert lr.actor == "train/epoch/fit:before:cool" and lr.position.epoch == 1
    assert "optimizer.hyper.momentum" not in found and "model" not in found


def test_who_wrote_last_is_asked_of_the_later_position(log: ChangeLog) -> None:
    assert between(log, "1", "0")["updates"].position == between(log, "0", "1")["updates"].position


def test_how_it_is_known_follows_from_what_was_kept(log: ChangeLog) -> None:
    found = between(log, "0:fit:2", "0:fit:3")
    assert "inputs" not in found, "other bits would be told by the fingerprint"
    assert (found["targets"].known, found["model.params"].known) == ("by fingerprint", "by its numbers")
    assert found["outputs"].known == "it was written", "what was not measured may be the same"


def test_field_without_a_value_at_one_of_the_positions_is_told(log: ChangeLog) -> None:
    found = between(log, "0:fit:3", "0")
    assert (found["loss"].here, found["loss"].known) == (ABSENT, "ready there only")
    assert (found["valid_loss"].there, found["valid_loss"].known) == (ABSENT, "ready here only")
    assert "not ready" in repr(log.between("0:fit:3", "0"))


def test_second_position_is_by_default_the_end_of_the_log(log: ChangeLog) -> None:
    assert between(log, "0")["updates"].here == 16


def test_round_that_there_is_not_is_refused(log: ChangeLog) -> None:
    with pytest.raises(StateError, match="no epoch 9. It holds epochs 0 to 1"):
        log.between("0", "9")
    with pytest.raises(StateError, match="such as 19:fit:23"):
        log.between("no position")


def test_a_position_does_not_differ_from_itself(log: ChangeLog) -> None:
    assert len(log.between("1:fit:3", "1:fit:3")) == 0


@pytest.mark.parametrize("is_moved", [False, True])
def test_fingerprint_of_the_set_up_is_compared_with_one_of_the_run(is_moved: bool) -> None:
    class Target(TrainState):
        target: nn.Module = field(factory=lambda state: nn.Linear(1, 1))

    class Sync(Callback):
        @after("epoch", state=Target, writes=("target.params",))
        def sync(self, target: nn.Module) -> None:
            with torch.no_grad():
                target.weight += is_moved

    learner = toy_learner(callbacks=[Sync()], audit="full")
    learner.fit(epochs=2)
    found = [row.known for row in learner.log.between("0:fit:0", "1:fit:0") if row.field == "target.params"]
    assert found == (["by fingerprint"] if is_moved else [])
