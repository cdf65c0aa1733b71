"""The first reading of a log for its page: it counts, cuts the log into rounds, thins out histories, notes findings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from state.page.limits import Limits
from state.page.lines import Line
from state.page.rounds import Notes, Rounds
from state.position import Place
from state.records import Records

BUCKETS = 24
"""In how many parts of the run writes are counted."""

_Adding = list[tuple[int, Callable[[int, Any, Place], None]]]


@dataclass
class Scan:
    """What the first reading finds.

    Attributes:
        rounds: the log as cycles.
        lines: what is kept of the values of each slot that writes.
        heat: how many segments of each template are in each part of the run.
        findings: of each sort (number of the segment, index of the record).
        epochs: the first record of each epoch.
        count, segments: how many there are.
        size: the number after that of the last record.
        times: the first and the last, unix time in ns.
        unlined: the slots that write and have no line, because there are too many.
    """

    rounds: Rounds
    lines: dict[int, Line] = field(default_factory=dict)
    heat: dict[int, list[int]] = field(default_factory=dict)
    findings: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    count: int = 0
    segments: int = 0
    size: int = 1
    times: tuple[int, int] = (0, 0)
    unlined: set[int] = field(default_factory=set)


def scan(records: Records, limits: Limits) -> Scan:
    """Read a log once."""
    made = Scan(Rounds(records))
    notes = Notes(records)
    last = next(records.store.segments(backward=True), None)
    made.size = max(1, last[0] + len(last[4])) if last else 1
    adding: dict[int, _Adding] = {}
    for segment in records.segments():
        seq, t_ns, place, template, values = segment
        if template not in adding:
            adding[template] = _adding(records, made, limits, template)
            made.heat[template] = [0] * BUCKETS
        made.heat[template][min(seq * BUCKETS // made.size, BUCKETS - 1)] += 1  # a live log grows meanwhile
        for index, add in adding[template]:
            add(seq + index, values[index], place)
        found = notes.of(segment)
        for index, sort in found:
            made.findings.setdefault(sort, []).append((seq, index))
        made.rounds.add(segment, {sort for _, sort in found})
        if place[0] is not None:
            made.epochs.setdefault(place[0], seq)
        made.times = (made.times[0] or t_ns, t_ns)
        made.count += len(values)
        made.segments += 1
    made.rounds.end()
    return made


def _adding(records: Records, made: Scan, limits: Limits, template: int) -> _Adding:
    """Where the values of a template go."""
    pairs: _Adding = []
    for index, number in enumerate(records.slots_of(template)):
        if records.slots[number].kind != "write":
            continue
        if number not in made.lines and len(made.lines) >= limits.slots:
            made.unlined.add(number)
            continue
        pairs.append((index, made.lines.setdefault(number, Line(limits.runs)).add))
    return pairs
