"""First: where a value was written that no one wants, and what it was made of."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from typing import Any

from state.changes import AS_WRITTEN, Change, Changes
from state.errors import StateError
from state.records import Record, Records
from state.statistics import Summary

MOST = 20
"""How many writes that went into one are looked for."""


@dataclass(frozen=True)
class First:
    """The first write of a value that was looked for.

    Attributes:
        change: the write.
        upstream: the writes that it was made of, the latest first: the last ones, before it, of what its actor reads;
            then those that these were made of, back to the beginning of their round.
    """

    change: Change
    upstream: Changes

    def __str__(self) -> str:
        lines = [str(self.change), *(f"  from {change}" for change in self.upstream)]
        lines += [f"  {AS_WRITTEN}"] * bool(self.upstream)
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self.change))}</p>{self.upstream._repr_html_()}"


def nonfinite(records: Records, names: set[str]) -> Iterator[Record]:
    """The writes of these fields in which something is NaN or infinite, in order."""
    for record in records.read(records.writes(names), nonfinite=True):
        if not _is_finite(record.value):
            yield record


def beyond(records: Records, names: set[str], above: float | None, below: float | None) -> Iterator[Record]:
    """The writes of these fields with a number, or an element, past a bound, in order."""
    for record in records.read(records.writes(names), beyond=(above, below)):
        low, high = _range(record)
        if (above is not None and high is not None and high > above) or (
            below is not None and low is not None and low < below
        ):
            yield record


def is_measured(records: Records, names: set[str]) -> bool:
    """Whether some write of these fields left a number: a plain one, or those of the levels "stats" and "full"."""
    return any(_range(record) != (None, None) for record in records.read(records.writes(names)))


def upstream(records: Records, record: Record) -> list[Record]:
    """The writes that one was made of, the latest first, by what their actors declare to read."""
    found: dict[int, Record] = {}
    waiting = [record]
    while waiting and len(found) < MOST:
        actor, seq, place = waiting[0].slot.actor, waiting[0].seq, waiting.pop(0).place
        for name in records.reads(actor):
            source = _last(records, name, seq)
            if source is None or source.seq in found:
                continue
            found[source.seq] = source
            if source.place[:3] == place[:3] == record.place[:3]:
                waiting.append(source)
    return sorted(found.values(), key=lambda one: one.seq, reverse=True)[:MOST]


def _last(records: Records, name: str, before: int) -> Record | None:
    """The last write of a field, or of what is read with it: all parts of a component but its gradients."""
    below = (field for field in records.fields if field.startswith(f"{name}.") and ".grads" not in field)
    return next(records.read(records.writes([name, *below]), before=before, backward=True), None)


def refuse_unmeasured(records: Records, names: set[str], asked: str | None) -> None:
    """Refuse a question about numbers where the log has none, of what was asked for or of anything.

    Raises:
        StateError: it has none.
    """
    if not is_measured(records, names):
        told = f"The log keeps no numbers{f' of {asked}' if asked else ''}: at level 'summary' it has those of scalars."
        apart = f", or audit={{'*': 'summary', {asked!r}: 'stats'}}" if asked else ""
        raise StateError(f"{told} Run with audit='stats'{apart}.")


def _is_finite(value: Any) -> bool:
    if isinstance(value, Summary):
        return value.is_finite
    return not isinstance(value, float) or math.isfinite(value)


def _range(record: Record) -> tuple[float | None, float | None]:
    """The lowest and the highest number in a value: of a part 0 and its norm, which bounds them."""
    value: Any = record.value
    if isinstance(value, str) and ".hyper." in (record.slot.field or ""):  # that of each parameter group: "0.1, 0.01"
        with suppress(ValueError):
            numbers = list(map(float, value.split(", ")))
            return min(numbers), max(numbers)
    if isinstance(value, Summary):
        return (0.0, value.norm) if value.high is None else (value.low, value.high)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (value, value) if is_number else (None, None)
