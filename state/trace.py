"""A trace: the log as a timeline in the JSON format of Chrome's tracing, which Perfetto opens."""

import json
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

from state.position import Place
from state.profile import GUARD
from state.records import NamedSlot, Records, ended
from state.replacing import replacing
from state.stores import Segment

ROUNDS, STAGES = 1, 2
"""The two lanes: rounds, from the end of one to the end of the next, and what was timed in some of them."""

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace that was written.

    Attributes:
        path: the file.
        size: in bytes.
        rounds: how many batches it has.
        slices: how many times a stage or hook, or the guard, was timed.
        values: how many values of numbers.
        marks: how many changes that nobody declared, invariants that broke, values that are not finite, and stages that
            did not end well.
    """

    path: Path
    size: int
    rounds: int
    slices: int
    values: int
    marks: int


@dataclass(slots=True)
class _Span:
    """A stage, or what else was timed.

    Attributes:
        inside: what ended in it in the segment that is being read.
        is_old: whether it was entered in an earlier segment; then
        floor: when it can have begun at the earliest, in ns.
        earliest: when the first of what was told of its inside began, in ns.
    """

    name: str
    duration: int = 0
    outcome: str = ""
    inside: list["_Span"] = field(default_factory=list)
    is_old: bool = False
    floor: int = 0
    earliest: int | None = None


def write_trace(records: Records, path: str | os.PathLike[str]) -> Trace:
    """Write the trace of a log, event by event.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    counts = {"batch": 0, "stage": 0, "value": 0, "mark": 0}
    with replacing(path) as binary, TextIOWrapper(binary, "utf-8") as file:
        file.write('{"displayTimeUnit":"ms","traceEvents":[\n')
        for number, event in enumerate(_events(records)):
            counts[event.get("cat", "")] = counts.get(event.get("cat", ""), 0) + 1
            file.write(",\n" * bool(number) + encode(event))
        file.write("\n]}\n")
    return Trace(path, path.stat().st_size, counts["batch"], counts["stage"], counts["value"], counts["mark"])


def _events(records: Records) -> Iterator[Event]:
    """Everything, in about the order in which it ended."""
    yield from (_named(lane, name) for lane, name in ((ROUNDS, "rounds"), (STAGES, "stages, where timed")))
    start = _start(records)
    stages, rounds = _Stages(), _Rounds()
    for (t_ns, place), group in groupby(records.segments(), key=lambda segment: (segment[1], segment[2])):
        now = t_ns - start
        yield from rounds.go_on(now, place)
        for segment in group:
            yield from _told(records, segment, now, stages)
        yield from stages.cut(now, place)
    yield from rounds.end()
    yield from stages.end()


class _Rounds:
    """Batches, each from the end of what was before it to its own end."""

    def __init__(self) -> None:
        self._begun = self._last = 0
        self._place: Place = (None, None, None, None)

    def go_on(self, now: int, place: Place) -> Iterator[Event]:
        """A segment at this place ended."""
        if place[:3] != self._place[:3]:
            yield from self.end()
            self._begun, self._place = self._last, place
        self._last = max(now, self._last)

    def end(self) -> Iterator[Event]:
        """No more of this place."""
        _, phase, batch, _ = self._place
        if batch is not None:
            yield _slice(
                ROUNDS, f"{phase or 'batch'} {batch}", "batch", self._begun, self._last, _position(self._place)
            )


def _start(records: Records) -> int:
    """The time from which all others count, unix time in ns: no stage on record began earlier."""
    exits = {number for number, slot in enumerate(records.slots) if slot.kind == "exit"}
    first = next(records.segments(), None)
    start = first[1] if first is not None else 0
    begun = start
    for segment in records.segments():
        seq, t_ns, _, template, values = segment
        pairs = zip(records.slots_of(template), values, strict=True)
        durations = [value[1] or 0 for slot, value in pairs if slot in exits]
        if durations:
            begun = min(begun, t_ns - (sum(durations) if t_ns == start else max(durations)))
    return begun


class _Stages:
    """What was timed, laid out in time.

    The log has of each stage how long it took, and the order; and of each segment when it ended. So what was timed is
    reckoned back from there: lengths are as measured, nesting and order as it ran; where time passed between two of
    them, it stands before the earlier one.
    """

    def __init__(self) -> None:
        self._open: list[_Span] = []
        self._top = _Span("")  # holds what stands in no stage
        self._since = 0  # the end of the segment before

    def enter(self, actor: str) -> None:
        """A stage was entered."""
        self._open.append(_Span(actor))

    def leave(self, actor: str, duration_ns: int, outcome: str) -> None:
        """A stage, a hook or the guard ended; only stages were entered."""
        span = _Span(actor)
        if any(one.name == actor for one in self._open):
            while (span := self._open.pop()).name != actor:
                pass
        span.duration, span.outcome = duration_ns, outcome
        (self._open[-1] if self._open else self._top).inside.append(span)

    def cut(self, now: int, place: Place) -> Iterator[Event]:
        """A segment ended: tell what was left in it."""
        end = now
        for holder in (*reversed(self._open), self._top):
            end = yield from self._laid(holder, end, self._since, place)
            holder.inside.clear()
        for span in self._open:
            if not span.is_old:
                span.is_old, span.floor = True, self._since if end == now else now
        self._since = now

    def end(self) -> Iterator[Event]:
        """The log ends: what is open was not left, or the run goes on."""
        begun = self._since
        for span in reversed(self._open):
            begun = min(begun, begun if span.earliest is None else span.earliest)
            yield _slice(STAGES, span.name, "stage", begun, self._since, {"outcome": "not left"})

    def _laid(self, holder: _Span, end: int, floor: int, place: Place) -> Generator[Event, None, int]:
        """The events of what a stage holds, the last one ending at `end`, none begun before `floor`; the first one's
        beginning."""
        for span in reversed(holder.inside):
            begun = max(end - span.duration, span.floor if span.is_old else floor)
            begun = min(begun, end if span.earliest is None else span.earliest)
            first = yield from self._laid(span, end, floor if span.is_old else begun, place)
            begun = min(begun, first)
            yield _slice(STAGES, span.name, "stage", begun, end, _position(place) | {"outcome": span.outcome})
            end = begun
        if holder.inside:
            holder.earliest = end if holder.earliest is None else min(holder.earliest, end)
        return end


def _told(records: Records, segment: Segment, now: int, stages: _Stages) -> Iterator[Event]:
    """What the records of one segment tell: stages that were timed go to `stages`."""
    _, _, place, template, values = segment
    for slot, value in zip(records.slots_in(template), values, strict=True):
        if slot.kind == "enter":
            stages.enter(slot.actor)
        elif slot.kind == "exit":
            outcome, duration, *_ = value
            if duration is not None:
                stages.leave(slot.actor, duration, outcome)
            if outcome not in ("ok", "exhausted"):
                yield _mark(f"{slot.actor}: {ended(*value)}", now, slot, place)
        elif slot.kind == "broken":
            yield _mark(f"{slot.actor}: {slot.evidence}", now, slot, place)
        elif slot.kind == "write" and (slot.evidence == "undeclared" or slot.actor == "external"):
            yield _mark(f"{slot.actor} changed {slot.field}", now, slot, place)
        elif slot.kind == "write" and type(value) is float:
            if isfinite(value):
                told = {"name": slot.field, "ts": now / 1000, "args": {"value": value}}
                yield {"ph": "C", "cat": "value", "pid": 1} | told
            else:
                yield _mark(f"{slot.field} is {value}", now, slot, place)


def _slice(lane: int, name: str, sort: str, begun: int, end: int, told: Event) -> Event:
    times = {"ts": begun / 1000, "dur": (end - begun) / 1000}
    short = name if name == GUARD or lane == ROUNDS else name.rpartition("/")[2]
    told = {"actor": name} | told if lane == STAGES else told
    return {"ph": "X", "cat": sort, "name": short, "pid": 1, "tid": lane} | times | {"args": told}


def _mark(what: str, now: int, slot: NamedSlot, place: Place) -> Event:
    told = _position(place) | {"actor": slot.actor, "source": slot.source}
    return {"ph": "i", "s": "p", "cat": "mark", "name": what, "pid": 1, "tid": ROUNDS, "ts": now / 1000, "args": told}


def _position(place: Place) -> Event:
    names = ("epoch", "phase", "batch", "update")
    return {name: part for name, part in zip(names, place, strict=True) if part is not None}


def _named(lane: int, name: str) -> Event:
    return {"ph": "M", "name": "thread_name", "pid": 1, "tid": lane, "args": {"name": name}}
