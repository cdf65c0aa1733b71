"""Capture: take one batch of a run down, to run it again."""

from typing import Any

from learner.replay import Captured
from stages import Callback, before
from stages.callbacks import HookMethod
from stages.watching import Hit
from state.memory import Memory
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


class CaptureHit(Callback):
    """Take down what State holds before each batch, and keep that of the batch in which a watcher has its first hit.

    An observer. Each batch is copied over the one before, until there is a hit.

    Attributes:
        hit, captured: the first hit inside a batch and what State held before that batch; None before there is one.
    """

    def __init__(self, at: str) -> None:
        self.at = at
        self.hit: Hit | None = None
        self.captured: Captured | None = None
        self._latest: Captured | None = None
        self._memory = Memory()

    def hooks(self) -> list[tuple[str, HookMethod]]:
        """One, before the batch."""
        return [("take", before(self.at)(type(self).take))]

    def take(self, state: Any) -> None:
        """Take it down, if there was no hit yet."""
        if self.hit is None:
            actor = state._owner
            path, position = actor.path.partition(":")[0], Position(*actor.runner.read_position())
            self._latest = Captured.of(actor.runner.state, path, position, self._memory)

    def keep(self, hit: Hit) -> None:
        """A watcher has a hit: keep what there is, if that batch is running and it is the first one."""
        latest = self._latest
        if self.hit is None and latest is not None and is_inside(hit.actor, latest.path):
            self.hit, self.captured = hit, latest


def is_inside(actor: str, path: str) -> bool:
    """Whether an actor runs when the slot at `path` is replayed: inside it, or as a hook around it or after it."""
    return actor == path or actor.startswith((f"{path}/", f"{path}:around:", f"{path}:after:"))
