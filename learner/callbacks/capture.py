"""Capture: take one batch of a run down, to run it again."""

from typing import Any

from learner.replay import Captured
from stages import Callback, before
from stages.callbacks import HookMethod
from state.position import Position


class Capture(Callback):
    """Take down what State holds before a slot of one batch, for `learner.replay(...)`. An observer.

    Args:
        epoch, batch: which one, from 0, as in the log's positions.
        at: the slot; by default the batch as a whole.

    Attributes:
        captured: it, or None before that.
    """

    def __init__(self, epoch: int, batch: int, at: str = "batch") -> None:
        self.epoch, self.batch, self.at = epoch, batch, at
        self.captured: Captured | None = None

    def hooks(self) -> list[tuple[str, HookMethod]]:
        """One, before the slot."""
        return [("take", before(self.at)(type(self).take))]

    def take(self, state: Any) -> None:
        """Take it down, if this is the batch."""
        runner = state._owner.runner
        epoch, phase, batch, update = runner.read_position()
        if (epoch, batch) == (self.epoch, self.batch) and runner.round is not None and self.captured is None:
            path = state._owner.path.partition(":")[0]
            self.captured = Captured.of(runner.state, path, Position(epoch, phase, batch, update))
