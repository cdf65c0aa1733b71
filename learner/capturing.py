"""Capturing: a watcher that keeps what State held before the batch of its first hit."""

from dataclasses import dataclass
from typing import Any

from learner.bound import Bound
from learner.callbacks.capture import CaptureHit, is_inside
from learner.errors import ArgumentError
from learner.replay import Captured
from stages.check import actors, key_of
from stages.slots import fits
from stages.watching import Hit, Watcher

BATCH = "batch"
"""The slot before which State is taken down."""


@dataclass(frozen=True)
class CapturingWatcher(Watcher):
    """A watcher that keeps what State held before the batch of its first hit.

    Attributes:
        capture: the hook that takes it down.
    """

    capture: CaptureHit

    @property
    def hit(self) -> Hit | None:
        """The first hit inside a batch, or None before there is one."""
        return self.capture.hit

    @property
    def captured(self) -> Captured | None:
        """What State held before the batch of that hit, for `learner.replay`."""
        return self.capture.captured


def capturing(
    bound: Bound, name: str, above: float | None, below: float | None, nonfinite: bool, when: Any
) -> CapturingWatcher:
    """Let a watcher wait, and take down what State holds before each batch until it has a hit.

    Raises:
        UnknownField: there is no such field or part.
        ArgumentError: nobody in the tree writes it, or nobody does inside the slot "batch".
    """
    capture = CaptureHit(BATCH)
    watcher = CapturingWatcher(name, above, below, nonfinite, when, capture.keep, capture)
    bound.watch(watcher)
    batches = [place.path for place in bound.assembly.places if place.kind == "stage" and fits(place.path, BATCH)]
    key = name if name in bound.state.specs else key_of(name)
    writers = [
        one for one, access in actors(bound.assembly.places) if key in map(key_of, (*access.writes, *access.touches))
    ]
    if not any(is_inside(writer, path) for writer in writers for path in batches):
        bound.unwatch(watcher)
        told = f"then='capture' takes down what is before the slot {BATCH!r}, and nobody inside it writes {name!r}."
        raise ArgumentError("watch()", "then", f"{told} Those who do: {writers}. Watch what it is made of.")
    bound.set_callbacks([*bound.callbacks, capture])
    return watcher
