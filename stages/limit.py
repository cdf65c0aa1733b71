"""Limits: where a `fit` ends."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from time import monotonic
from typing import Any

from stages.assembly import Assembly
from stages.check import actors
from stages.control import Every, Window
from stages.errors import BatchError, LimitError
from stages.phases import Phase
from stages.place import Place
from stages.supervised import Fetch
from state.state import State

TOTALS = {"epochs": "epochs_done", "batches": "batches_seen", "updates": "updates"}
"""The field that counts each unit."""

IDLE_EPOCHS = 100
"""So many epochs in a row may bring a `fit` no nearer to its end: a loss scale that settles, a phase that waits."""


@dataclass
class Limit:
    """When `fit` has what it asked for.

    Attributes:
        total: the field that counts, or "" for a limit in time.
        target: its value at the end.
        deadline: `time.monotonic()` at the end, for a limit in time.
        text: as the user wrote it, "batches=500".
        seen: the value of `total` when it last moved.
        patience: how many epochs in a row may count nothing.
        idle: how many did.
    """

    total: str
    target: int
    deadline: float
    text: str
    seen: int = 0
    patience: int = IDLE_EPOCHS
    idle: int = 0

    def is_reached(self, values: Mapping[str, Any]) -> bool:
        """Whether a run with these values ends here."""
        return monotonic() >= self.deadline if not self.total else bool(values[self.total] >= self.target)

    def end_epoch(self, values: Mapping[str, Any]) -> None:
        """Count the epochs in a row that brought the end no nearer.

        Raises:
            LimitError: there were so many that the end will not come.
        """
        if not self.total:
            return
        before, self.seen = self.seen, values[self.total]
        self.idle = self.idle + 1 if self.seen == before else 0
        if self.idle >= self.patience:
            told = f"{self} would not end: {self.idle} epochs in a row did not move {self.total!r}, which is {before}."
            ways = "Look for what skips or cancels the stage that counts it in each epoch, or a When() that never holds"
            raise LimitError(f"{told} {ways}; or give epochs= or minutes= instead.")

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        left = 0.0 if self.total else self.deadline - monotonic()
        return {"text": self.text, "target": self.target, "left": left, "seen": self.seen, "idle": self.idle}

    def resumed(self, saved: Mapping[str, Any]) -> "Limit":
        """This limit, counted from where a run began that goes on, and had the saved one.

        Raises:
            LimitError: the run had another kind of limit.
        """
        unit, number = self.text.split("=")
        other, begun = saved["text"].split("=")
        if unit != other:
            told = f"fit({self.text}, resume=...) goes on with a run that was begun by fit({saved['text']})."
            raise LimitError(f"{told} Say {saved['text']}, or {other}= of another number.")
        more = float(number) - float(begun)
        if not self.total:
            return replace(self, deadline=monotonic() + saved["left"] + 60 * more)
        return replace(self, target=saved["target"] + int(more), seen=saved["seen"], idle=saved["idle"])

    def __str__(self) -> str:
        return f"fit({self.text})"


def limit_of(given: Mapping[str, float | None], assembly: Assembly, state: State) -> Limit:
    """The limit that one of `epochs`, `batches`, `updates`, `minutes` asks for, from where the state is.

    Raises:
        LimitError: not exactly one is given, it is no positive number, or no stage of the tree counts it.
        BatchError: several epochs would read a loader that can be read once.
    """
    asked = {unit: number for unit, number in given.items() if number is not None}
    if len(asked) != 1:
        got = f"it got {sorted(asked)}" if asked else "it got none"
        raise LimitError(f"fit() takes exactly one of {', '.join(f'{unit}=' for unit in given)}; {got}.")
    ((unit, number),) = asked.items()
    wanted = (int, float) if unit == "minutes" else (int,)
    if not isinstance(number, wanted) or isinstance(number, bool) or not isfinite(number) or number <= 0:
        kind = "number" if unit == "minutes" else "whole number"
        raise LimitError(f"fit({unit}={number!r}) wants a positive {kind}.")
    text = f"{unit}={number}"
    if unit == "minutes":
        return Limit("", 0, monotonic() + 60 * number, text)
    total = TOTALS[unit]
    counted = {place.counts[1] for place in assembly.places}
    written = {name for place in assembly.places for name in place.access.writes}
    if total not in counted | written or total not in state.specs:
        raise LimitError(f"fit({text}) cannot end: no stage of this tree counts {unit} (writes {total!r}).")
    if unit == "epochs" and number > 1:
        _refuse_read_once(text, assembly, state)
    begun = state.__dict__[total]
    waits = [stage.rounds.number for stage in (place.stage for place in assembly.places) if isinstance(stage, Every)]
    return Limit(total, begun + int(number), 0.0, text, begun, max([IDLE_EPOCHS, *waits]))


def _refuse_read_once(text: str, assembly: Assembly, state: State) -> None:
    """Refuse a loader that every epoch reads and that has nothing for the second: a generator, `zip`, `map`.

    Only an iterator of Python's own is known to be used up: a class may start anew, `itertools.cycle` has no end.
    """
    written = {name for _, access in actors(assembly.places) for name in access.writes}
    for place in assembly.places:
        phase = place.stage
        if not isinstance(phase, Phase) or phase.loader in written or not _reads_all_in_each_epoch(phase, place):
            continue
        loader = state.__dict__.get(phase.loader)
        if isinstance(loader, Iterator) and type(loader).__module__ == "builtins":
            told = f"{place.path} reads {phase.loader!r} in each epoch, but that is an iterator of type "
            told += f"{type(loader).__name__}, which can be read once."
            ways = "Give a list, a DataLoader, or an object whose __iter__ starts anew."
            raise BatchError(f"fit({text}): {told} {ways}")


def _reads_all_in_each_epoch(phase: Phase, place: Place) -> bool:
    """Whether a phase always runs once an epoch has begun, and takes all that its loader has."""
    if place.kind != "stage" or type(phase).run is not Phase.run:
        return False
    windows = [stage for stage in phase.stages.values() if isinstance(stage, Window)]
    held = [stage for loop in (phase, *windows) for stage in loop.stages.values()]
    if not any(type(stage) is Fetch for stage in held):
        return False
    for above in place.ancestors():
        if above.counts[1] == TOTALS["epochs"]:
            return True
        if above.runs.startswith("0"):
            return False
    return False
