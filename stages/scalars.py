"""Scalars: the plain values of parts (a learning rate, train or eval), compared at the borders of who may write."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from state.fields import MISSING
from state.parts import scalars
from state.recording import Recording
from state.state import State

EXTERNAL = "external"
"""The actor of a change that nobody declared."""


class Scalars:
    """What the log knows of the plain values of parts, and the rows for those that are found to be others."""

    def __init__(self, state: State, recording: Recording | None) -> None:
        self._state = state
        self._recording = recording
        self._known: dict[str, Any] = {}

    def compare(self, owner: str, part: str, actor: str = EXTERNAL) -> tuple[str, ...]:
        """Log each value of one part that is another one than the log knows, as written by `actor`; which they are."""
        if self._recording is None:
            return ()
        told = []
        for name, value in self._values(owner, part):
            full = f"{owner}.{part}.{name}"
            is_new = full not in self._known
            if is_new or self._known[full] != value:
                self._known[full] = value
                if not (is_new and actor == EXTERNAL):  # seen for the first time, so nobody changed it
                    self._tell(full, value, actor)
                    told.append(name)
        return tuple(told)

    def know(self, owner: str, part: str, values: Mapping[str, Any]) -> None:
        """Know what the values of one part were, and tell nobody."""
        self._known.update({f"{owner}.{part}.{name}": value for name, value in values.items()})

    def note(self, owner: str, part: str) -> None:
        """Know the values of one part, and tell nobody: somebody who may has changed them on the way."""
        self.know(owner, part, dict(self._values(owner, part)))

    def compare_hyper(self, actor: str = EXTERNAL) -> None:
        """Log what somebody outside changed in the parameter groups of the optimizers, and in their schedulers."""
        for owner in self._state.components(Optimizer):
            self.compare(owner, "hyper", actor)
        for owner in self._state.components(LRScheduler):
            self.compare(owner, "state", actor)

    def _values(self, owner: str, part: str) -> Iterable[tuple[str, Any]]:
        return scalars(self._state.__dict__.get(owner), part).items()

    def _tell(self, name: str, value: Any, actor: str) -> None:
        assert self._recording is not None
        self._recording.field(name, "run", type(value).__name__, "", MISSING)
        slot = self._recording.slot(actor, "write", name, "comparison")
        if slot is not None:
            self._recording.write(slot, value)
