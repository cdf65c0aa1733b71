"""Answers of the change log: one change, and a table of several."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, overload

from state.errors import MissingExtra, StateError
from state.fields import MISSING
from state.grid import as_html, as_text
from state.position import Position
from state.statistics import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_READABLE = (str, Summary)

AS_WRITTEN = "That is as it was last written. What was changed in place since, and not declared, learner.debug() finds."
"""What answers that follow the writes upstream end with."""

ABSENT: Final = MISSING
"""Stands for "no value before"."""


@dataclass(frozen=True, slots=True)
class Change:
    """One record: an actor wrote a field or changed a part, a stage was entered or left, a scope opened or closed.

    Attributes:
        seq: number of the record in its run.
        time: unix time in s at the end of the round it was part of.
        actor: path of the stage or hook.
        kind: "write"; "enter" or "exit" of a stage, "exit" also of a hook that was timed; "open" or "close" of a scope,
            where the position does not tell it.
        field: the field or part of a write, else None.
        before: the value it replaced in the same scope, else the default, else ABSENT. It is what the write before
            left, not measured anew: what changed in between unseen counts as this one's doing.
        after: the value or a summary of it; None at level "writes". For an exit: outcome and duration; for a close
            "kept", if a stage failed and the values stay.
        evidence: how the change is known; the scope that is opened or closed.
        position: epoch, phase, batch and update.
        source: where the actor is defined, "qualname file:line"; of the actor `user` the line that did it.
    """

    seq: int
    time: float
    actor: str
    kind: str
    field: str | None
    before: object
    after: object
    evidence: str
    position: Position
    source: str

    def __str__(self) -> str:
        place = str(replace(self.position, phase=None))  # the actor's path names the phase
        where = f"{self.actor} at {place}" if place else self.actor
        line = self.source.partition(" ")[2] or self.source
        return f"{where}: {self._what()}" + (f", {line}" if line else "")

    def _what(self) -> str:
        if self.field is None:
            scope = self.evidence if self.kind in ("open", "close") else ""
            return " ".join(str(word) for word in (self.kind, scope, self.after) if word)
        if self.before is not ABSENT and not _is_same(self.before, self.after):
            return f"{self.field} {cell(self.before)} -> {cell(self.after)} ({self.evidence})"
        value = "" if self.after is None else f" = {cell(self.after)}"
        return f"{self.field}{value} ({self.evidence})"


class Changes(Sequence[Change]):
    """An answer of the log: changes in the order of time, shown as a table."""

    _columns: tuple[str, ...] = ("seq", "position", "actor", "field", "before", "after", "evidence")

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = tuple(changes) if isinstance(changes, list) or not isinstance(changes, Sequence) else changes

    def __reduce__(self) -> tuple[type["Changes"], tuple[tuple[Change, ...]]]:
        return type(self), (tuple(self),)

    def __iter__(self) -> Iterator[Change]:
        return iter(self._changes)

    @overload
    def __getitem__(self, index: int) -> Change: ...
    @overload
    def __getitem__(self, index: slice) -> "Changes": ...
    def __getitem__(self, index: int | slice) -> "Change | Changes":
        return type(self)(self._changes[index]) if isinstance(index, slice) else self._changes[index]

    def __len__(self) -> int:
        return len(self._changes)

    def __repr__(self) -> str:
        rows = self._rows()
        earlier = len(self) - len(rows)
        left_out = f"\nafter {earlier:,} earlier ones" if earlier else ""
        return as_text(self._columns, rows) + left_out if self else "no changes"

    def _repr_html_(self) -> str:
        return as_html(self._columns, self._rows())

    def to_pandas(self) -> "DataFrame":
        """One row per change; needs the extra `frames`."""
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise MissingExtra("Changes.to_pandas() needs pandas", "frames") from error
        names = ["seq", "time", "actor", "kind", "field", "before", "after", "evidence", "source"]
        rows = [asdict(c.position) | {name: getattr(c, name) for name in names} for c in self]
        frame = DataFrame(rows, columns=["seq", "time", *asdict(Position()), *names[2:]])
        return frame.assign(before=[None if c.before is ABSENT else c.before for c in self])

    def plot(self) -> "Figure":
        """The numbers among these values over the records of the run, a line per field; needs the extra `plots`."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtra("Changes.plot() needs matplotlib", "plots") from error
        lines: dict[str, tuple[list[int], list[float]]] = {}
        for change in self:
            if change.kind == "write" and isinstance(change.after, int | float):
                numbers, values = lines.setdefault(str(change.field), ([], []))
                numbers.append(change.seq)
                values.append(change.after)
        if not lines:
            raise StateError("None of these changes is a number to plot. Take the history of a field that is one.")
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        for field, (numbers, values) in lines.items():
            axes.plot(numbers, values, label=field)
        axes.set_xlabel("record")
        axes.legend()
        return figure

    def _rows(self, limit: int = 60) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for c in self._changes[-limit:]:
            before = "" if c.field is None else cell(c.before)
            names = (str(c.seq), str(c.position), c.actor, c.field or f"({c.kind})")
            rows.append((*names, before, cell(c.after), c.evidence))
        return rows


def _is_same(before: object, after: object) -> bool:
    return before == after or (before != before and after != after)  # NaN is the value that is not itself


def cell(value: object, limit: int = 60) -> str:
    """A value on one short line."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value) if isinstance(value, _READABLE) else repr(value)
    text = " ".join(text.split())  # a value never breaks a line of the table
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
