"""Watching: stops where a value comes up that somebody waits for, or at a slot, with who is there still running."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from stages.cancel import Outcome
from stages.errors import WatchHit
from state.changes import cell
from state.fields import MISSING
from state.position import Position

if TYPE_CHECKING:
    from stages.actor import Actor

Event = TypeVar("Event", "Hit", "Stopped")

Then = Literal["raise", "break"] | Callable[[Event], object]


@dataclass(frozen=True)
class Hit:
    """A write that somebody waited for.

    Attributes:
        name: of the field, or of the tensor in a part: "model.params.0.weight".
        told: what is the matter with the value: "is above 10: 12.5".
        actor, source: who wrote it, and where that is defined.
        position: where in the run.
        before, value: what it held, and the object that it holds now. A part is changed in place: MISSING before.
    """

    name: str
    told: str
    actor: str
    source: str
    position: Position
    before: Any
    value: Any

    def __str__(self) -> str:
        was = "" if self.before is MISSING else f" It was {cell(self.before)}."
        where = self.source.partition(" ")[2] or self.source
        code = f" Its code, {where}." if self.source else " learner.debug() finds out who that was."
        return f"{self.actor} at {self.position} wrote {self.name}, which {self.told}.{was}{code}"


@dataclass(frozen=True)
class Stopped:
    """A slot where a breakpoint stands, which the run came to.

    Attributes:
        side, path: "before" or "after", and the slot.
        position: where in the run.
        outcome: how its stage ended; ok before it.
        state: all of State, to read.
    """

    side: str
    path: str
    position: Position
    outcome: Outcome
    state: Any

    def __str__(self) -> str:
        how = "" if self.outcome.ok else f", which ended {self.outcome}"
        return f"{self.side} {self.path} at {self.position}{how}"


def do(then: "Then[Event]", event: Event) -> None:
    """What was asked for.

    Raises:
        WatchHit: that was asked for.
    """
    if then == "raise":
        raise WatchHit(event)
    if then == "break":
        print(event)
        breakpoint()  # noqa: T100  who is there is further up
        return
    then(event)


@dataclass(frozen=True)
class Watcher:
    """Waits for a value of a field, or of the tensors in a part.

    Attributes:
        name: of a field, a part, or what lies below a part.
        above, below: a number, or any element of a tensor, beyond this bound.
        nonfinite: NaN or an infinite number among the elements.
        when: called with the value, says whether it is one.
        then: "raise" a WatchHit, "break" into the debugger, or what is called with the Hit.
    """

    name: str
    above: float | None
    below: float | None
    nonfinite: bool
    when: Callable[[Any], object] | None
    then: "Then[Hit]"

    def see(self, actor: "Actor", name: str, before: Any, value: Any) -> None:
        """A value was written."""
        told = self._told(value)
        if not told:
            return
        position = Position(*actor.runner.read_position())
        hit = Hit(name, told, actor.path, actor.source, position, before, value)
        do(self.then, hit)

    def _told(self, value: Any) -> str:
        if self.when is not None:
            return "is what was waited for" if self.when(value) else ""
        bounds = _bounds(value)
        if bounds is None:
            return ""
        low, high = bounds
        if self.nonfinite and not (math.isfinite(low) and math.isfinite(high)):
            return "is not finite"
        if self.above is not None and high > self.above:
            return f"is above {self.above:g}: {high:g}"
        return f"is below {self.below:g}: {low:g}" if self.below is not None and low < self.below else ""


Watchers = Mapping[str, list[Watcher]]
"""By the name of a field, or of the part that what is watched lies in."""


def watched(actor: "Actor", name: str, write: Callable[[Any], None]) -> Callable[[Any], None]:
    """`write`, looked at by those who wait for values of the field `name`."""
    watchers = actor.runner.watchers.get(name)
    if not watchers:
        return write
    values = actor.runner.values

    def write_and_look(value: Any) -> None:
        before = values.get(name, MISSING)
        write(value)
        for watcher in watchers:
            watcher.see(actor, name, before, values[name])

    return write_and_look


def look_at_part(actor: "Actor", name: str, watchers: list[Watcher]) -> None:
    """Look at the tensors in a part that an actor has changed."""
    inside = actor.runner.parts.part(name)
    if inside is None:
        return
    for below, value in zip(*inside, strict=True):
        full = f"{name}.{below}"
        for watcher in watchers:
            if f"{full}.".startswith(f"{watcher.name}."):
                watcher.see(actor, full, MISSING, value)


def _bounds(value: Any) -> tuple[float, float] | None:
    """The lowest and the highest number; NaN for both if there is one."""
    if isinstance(value, bool | int | float):
        return float(value), float(value)
    if isinstance(value, tuple) and value and all(isinstance(one, bool | int | float) for one in value):
        known = [float(one) for one in value]  # of each parameter group
        return (math.nan, math.nan) if any(map(math.isnan, known)) else (min(known), max(known))
    if not isinstance(value, Tensor) or not value.numel() or value.is_meta or value.layout != torch.strided:
        return None
    with torch.no_grad():
        numbers = value.detach()
        low, high = torch.aminmax(numbers.abs() if numbers.is_complex() else numbers)
        return float(low), float(high)
