"""Cycles: the history of a field, with rounds that write the same told as one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import isfinite
from typing import Any, NamedTuple

from state.answer import Answer
from state.changes import Change, Changes, cell
from state.grid import as_html, as_text
from state.position import Place
from state.statistics import Summary

WHOLE = 20
"""A history of so many writes is shown write by write."""

SHOWN = 60
"""How many rows of a longer one are shown."""

LONG = 5_000
"""So many writes, the last ones, are put together for the table of a history that is longer than that."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """A write that comes again in rounds that follow each other and write the same, each time from the same actor.

    Attributes:
        times: how often.
        first, last: the first and the last of these writes.
        numbers: the lowest and the highest value; of what was measured, the lowest and the highest norm. None where a
            value is no number or is not finite.
        kinds: how many different values there are, apart from numbers.
    """

    times: int
    first: Change
    last: Change
    numbers: tuple[float, float] | None
    kinds: int

    @property
    def place(self) -> str:
        """Where it was written: "epoch 0 to 19, fit, batch 0 to 7, update 0 to 159"."""
        ends = (self.first.position, self.last.position)
        told = [_span(name, *(getattr(end, name) for end in ends)) for name in ("epoch", "phase", "batch", "update")]
        return ", ".join(each for each in told if each)

    @property
    def after(self) -> str:
        """The values: "0.1 to 2.3, last 0.1"."""
        if self.times == 1 or (self.kinds == 1 and self.numbers is None):
            return cell(self.last.after)
        if self.numbers is None:
            return f"{self.kinds:,} different ones, last {cell(self.last.after, 40)}"
        low, high = map(cell, self.numbers)
        value = self.last.after
        if isinstance(value, Summary):
            return f"{value.text}, norm {low} to {high}, last {cell(value.norm)}"
        return low if low == high else f"{low} to {high}, last {cell(value)}"

    @property
    def row(self) -> tuple[str, ...]:
        """The cells of a table."""
        first, last = self.first, self.last
        seq = str(first.seq) if first is last else f"{first.seq} to {last.seq}"
        times = "" if self.times == 1 else f"x {self.times:,}"
        who = (times, self.place, first.actor, first.field or "")
        return (seq, *who, cell(first.before), self.after, first.evidence)


class FieldHistory(Changes):
    """Every write of a field, in the order of time; in its table, rounds that write the same are one row."""

    _columns = ("seq", "times", "position", "actor", "field", "before", "after", "evidence")

    def cycles(self) -> list[Cycle]:
        """The writes by rounds that follow each other and write the same: actors, fields and evidence; values differ.

        First the batches of a pass are put together, then epochs in which that comes out the same. A round that does
        otherwise, by a hook that fired or a batch that was cancelled, stands apart.
        """
        return _cycles(self)

    def table(self, limit: int = SHOWN) -> "Table":
        """The table as it is shown: its last rows; without the column of times where each row is one write.

        Of a history of more than LONG writes these are the cycles of the last ones.
        """
        answer = self._changes
        if len(self) > LONG and isinstance(answer, Answer):
            last = _cycles(answer.latest(LONG))[-limit:]
            shown = [replace(cycle, first=answer.looked_back(cycle.first)) for cycle in last]
            return self._table_of(shown)
        if len(self) > WHOLE:
            return self._table_of(self.cycles()[-limit:])
        rows = tuple(_cycle((change,)).row for change in self)
        return Table(_without_times(self._columns), tuple(map(_without_times, rows)), 0)

    def _table_of(self, shown: list[Cycle]) -> "Table":
        rows = tuple(cycle.row for cycle in shown)
        return Table(self._columns, rows, len(self) - sum(cycle.times for cycle in shown))

    def __repr__(self) -> str:
        columns, rows, earlier = self.table()
        left_out = f"\nafter {earlier:,} earlier ones" if earlier else ""
        return as_text(columns, rows) + left_out if self else "no changes"

    def _repr_html_(self) -> str:
        columns, rows, _ = self.table()
        return as_html(columns, rows)


class Table(NamedTuple):
    """What is shown of a history.

    Attributes:
        columns: their names.
        rows: the cells.
        earlier: how many writes come before them.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    earlier: int


class _Run:
    """Rounds of one sort that write the same; each of them so many changes."""

    def __init__(self, where: tuple[Any, ...], changes: tuple[Change, ...]) -> None:
        self.epoch = changes[0].position.epoch
        self.rounds = [changes]
        self.sort = (where, tuple((change.actor, change.field, change.evidence) for change in changes))

    def cycles(self) -> Iterator[Cycle]:
        """A cycle for each write of a round."""
        return map(_cycle, zip(*self.rounds, strict=True))


def _cycles(changes: Iterable[Change]) -> list[Cycle]:
    rounds = (_Run(_where(place), tuple(group)) for place, group in groupby(changes, key=_round_of))
    passes = _joined(rounds)
    by_epoch = [tuple(group) for _, group in groupby(passes, key=lambda run: run.epoch)]
    return [cycle for runs in _joined_epochs(by_epoch) for run in runs for cycle in run.cycles()]


def _joined(runs: Iterable[_Run]) -> list[_Run]:
    """Runs with those that follow and are of the same sort put to them, within an epoch."""
    made: list[_Run] = []
    for run in runs:
        if made and made[-1].sort == run.sort and made[-1].epoch == run.epoch:
            made[-1].rounds += run.rounds
        else:
            made.append(run)
    return made


def _joined_epochs(epochs: Iterable[tuple[_Run, ...]]) -> list[tuple[_Run, ...]]:
    """The same for epochs that consist of the same runs, each as long."""
    made: list[tuple[_Run, ...]] = []
    known: tuple[Any, ...] = ()
    for runs in epochs:
        sort = tuple((run.sort, len(run.rounds)) for run in runs)
        if made and sort == known and runs[0].epoch is not None:
            for run, more in zip(made[-1], runs, strict=True):
                run.rounds += more.rounds
        else:
            made.append(runs)
        known = sort
    return made


def _round_of(change: Change) -> Place:
    position = change.position
    return position.epoch, position.phase, position.batch, None


def _where(place: Place) -> tuple[Any, ...]:
    """What sort of round this is."""
    epoch, phase, batch, _ = place
    return phase, epoch is None, batch is None


def _cycle(changes: tuple[Change, ...]) -> Cycle:
    values = [change.after for change in changes]
    numbers = [_number(value) for value in values]
    told = [number for number in numbers if number is not None]
    spread = (min(told), max(told)) if len(told) == len(values) else None
    kinds = 1 if spread is not None else len({repr(value) for value in values})
    return Cycle(len(changes), changes[0], changes[-1], spread, kinds)


def _number(value: object) -> float | None:
    number = value.norm if isinstance(value, Summary) else value
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return number if is_number and isfinite(number) else None  # type: ignore[return-value, arg-type]


def _span(name: str, first: Any, last: Any) -> str:
    """The same part of two positions."""
    if first is None or last is None:
        return ""
    if name == "phase":
        return str(first)
    return f"{name} {first}" if first == last else f"{name} {first} to {last}"


def _without_times(row: tuple[str, ...]) -> tuple[str, ...]:
    return row[0], *row[2:]
