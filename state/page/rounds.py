"""Rounds: a log cut into the cycles it is made of, which of them are alike, and which deviate.

A round is a batch of a phase, what an epoch has around its batches, or all that stands outside of epochs. Two rounds
have the same *shape* if the same actors wrote the same fields in the same order, known by the same evidence. That a
round was timed as well makes no other shape of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from state.page.findings import ENDED, NOT_FINITE, VIOLATION, is_violation
from state.position import Place
from state.records import Records
from state.stores import Segment

REGULAR = 0.2
"""A shape that so many of the rounds have is no deviation, even if another is more frequent."""


class Kind(NamedTuple):
    """Which cycle a round is one of: "batch" of a phase, "epoch", or "run" for what is outside of epochs."""

    cycle: str
    phase: str | None

    @classmethod
    def of(cls, place: Place) -> "Kind":
        """The kind of round that a segment at this place belongs to."""
        epoch, phase, batch, _ = place
        if batch is not None:
            return cls("batch", phase)
        return cls("run" if epoch is None else "epoch", None)


class Shape(NamedTuple):
    """What a round consists of: the numbers of its slots but for those that tell of stages entered and left."""

    kind: Kind
    slots: tuple[int, ...]


@dataclass(slots=True)
class Round:
    """One round of the log.

    Attributes:
        shape: its number in `Rounds.shapes`.
        place: of its first segment.
        segments: the number of the first record of each segment.
        notes: what is the matter with it: "violation", "not finite", "ended".
    """

    shape: int
    place: Place
    segments: tuple[int, ...]
    notes: frozenset[str]


@dataclass(slots=True)
class _Open:
    place: Place
    templates: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)


class Rounds:
    """The rounds of a log, gathered while it is read.

    Attributes:
        shapes: each with its number.
        made: the rounds, in the order in which they ended.
    """

    def __init__(self, records: Records) -> None:
        self.shapes: dict[Shape, int] = {}
        self.made: list[Round] = []
        self._records = records
        self._known: dict[tuple[Kind, tuple[int, ...]], int] = {}
        self._batch: _Open | None = None
        self._around: dict[int | None, _Open] = {}  # what stands outside of batches, by epoch
        self._nothing: frozenset[str] = frozenset()

    def add(self, segment: Segment, notes: Iterable[str]) -> None:
        """Go past a segment."""
        seq, _, place, template, _ = segment
        if place[2] is None:
            opened = self._around.setdefault(place[0], _Open(place))
        elif self._batch is not None and self._batch.place[:3] == place[:3]:
            opened = self._batch
        else:
            self._end(self._batch)
            opened = self._batch = _Open(place)
        opened.templates.append(template)
        opened.segments.append(seq)
        opened.notes.update(notes)

    def end(self) -> None:
        """The log ends here."""
        for opened in (self._batch, *self._around.values()):
            self._end(opened)
        self.made.sort(key=lambda made: made.segments[0])

    def regular(self) -> set[int]:
        """The numbers of the shapes that do not deviate: of each kind the most frequent, and other frequent ones."""
        counts = [0] * len(self.shapes)
        rounds: dict[Kind, int] = {}
        shapes = list(self.shapes)
        for made in self.made:
            counts[made.shape] += 1
            kind = shapes[made.shape].kind
            rounds[kind] = rounds.get(kind, 0) + 1
        sound = [number for number, shape in enumerate(shapes) if not self._violates(shape)]
        best: dict[Kind, int] = {}
        for number in sound:
            kind = shapes[number].kind
            if kind not in best or counts[number] > counts[best[kind]]:
                best[kind] = number
        often = {n for n in sound if counts[n] > 1 and counts[n] >= REGULAR * rounds[shapes[n].kind]}
        return often | set(best.values())

    def _violates(self, shape: Shape) -> bool:
        return any(is_violation(self._records.slots[number]) for number in shape.slots)

    def _end(self, opened: _Open | None) -> None:
        if opened is None:
            return
        key = Kind.of(opened.place), tuple(opened.templates)
        number = self._known.get(key)
        if number is None:
            slots = tuple(slot for template in key[1] for slot in self._telling(template))
            number = self._known[key] = self.shapes.setdefault(Shape(key[0], slots), len(self.shapes))
        notes = frozenset(opened.notes) if opened.notes else self._nothing
        self.made.append(Round(number, opened.place, tuple(opened.segments), notes))

    def _telling(self, template: int) -> Iterator[int]:
        slots = self._records.slots
        return (n for n in self._records.slots_of(template) if slots[n].kind not in ("enter", "exit"))


class Notes:
    """What is the matter with a segment, told by its template and its values."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._by_template: dict[int, tuple[bool, list[int], list[int]]] = {}

    def of(self, segment: Segment) -> list[tuple[int, str]]:
        """(index of the record, what is the matter with it)."""
        values = segment[4]
        violates, exits, writes = self._template(segment[3])
        found: list[tuple[int, str]] = []
        for index in exits:
            value = values[index]
            if type(value) is list and value[0] not in ("ok", "exhausted"):
                found.append((index, ENDED))
        for index in writes:
            value = values[index]
            if (type(value) is float and value - value != 0.0) or (type(value) is list and not _is_finite(value)):
                found.append((index, NOT_FINITE))
        if violates:
            slots = self._records.slots_of(segment[3])
            found += [(i, VIOLATION) for i, number in enumerate(slots) if is_violation(self._records.slots[number])]
        return found

    def _template(self, template: int) -> tuple[bool, list[int], list[int]]:
        told = self._by_template.get(template)
        if told is None:
            slots = [self._records.slots[number] for number in self._records.slots_of(template)]
            exits = [index for index, slot in enumerate(slots) if slot.kind == "exit"]
            writes = [index for index, slot in enumerate(slots) if slot.kind == "write"]
            told = self._by_template[template] = (any(map(is_violation, slots)), exits, writes)
        return told


def _is_finite(value: list[Any]) -> bool:
    """Whether the numbers of a summary are; one that has none is."""
    return all(number - number == 0.0 for number in value[1:] if type(number) is float)
