"""Where a recording goes and is read from: tables of names, segments of records, and a store in memory.

A *segment* is what was written between two scope boundaries, usually one round of a loop. It says which slots were
written only by the number of a template, so a round costs one row, however many records it holds. Record `i` of a
segment has the number `seq + i`.
"""

import json
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple, Protocol, TypeVar

from state.errors import StateError, UnknownField, nearest, short, suggestion
from state.fields import MISSING

Place = tuple[int | None, str | None, int | None, int | None]
"""(epoch, phase, batch, update)."""

Segment = tuple[int, int, Place, int, list[Any]]
"""(seq of its first record, unix time in ns, place, template, one value per slot of the template)."""

Asked = tuple[int | range | None, str | None, int | range | None]
"""An epoch, a phase and a batch to look for; None for any."""

Row = TypeVar("Row")

FORGETS = "The log in memory keeps the latest rounds only; give a run_dir to keep them all."


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a run something happened; None for what was not open, or is not asked for."""

    epoch: int | None = None
    phase: str | None = None
    batch: int | None = None
    update: int | None = None

    @classmethod
    def of(cls, given: "PositionLike") -> "Position":
        """A position as it may be asked for: itself, "19:fit:23" (epoch:phase:batch) or (19, "fit", 23).

        Parts may be left out at the end: "19:fit", "19", (19,).

        Raises:
            StateError: it is none of these.
        """
        match given:
            case Position():
                return given
            case str():
                if found := re.fullmatch("([0-9]+)(?::([^:]+)(?::([0-9]+))?)?", given):
                    return cls(int(found[1]), found[2], int(found[3]) if found[3] else None)
            case tuple((int(),) | (int(), str()) | (int(), str(), int())):
                return cls(*given)
        told = "is none of epoch, epoch:phase and epoch:phase:batch, such as 19:fit:23, as text or as a tuple."
        raise StateError(f"{short(given)} {told}")

    def __str__(self) -> str:
        names = ("epoch {}", "{}", "batch {}", "update {}")
        parts = (self.epoch, self.phase, self.batch, self.update)
        return ", ".join(name.format(part) for name, part in zip(names, parts, strict=True) if part is not None)


PositionLike = Position | str | tuple[int] | tuple[int, str] | tuple[int, str, int]
"""What `Position.of` takes."""


class ActorRow(NamedTuple):
    """Who may write: a stage, a hook, or a reserved name; `source` is "qualname file:line"."""

    path: str
    kind: str
    source: str


class FieldRow(NamedTuple):
    """What may be written: a field or a part; `default` is JSON text, None where there is no default."""

    name: str
    scope: str
    type: str
    description: str
    default: str | None


class SlotRow(NamedTuple):
    """One kind of record: this actor writes this field and is known to by this evidence, or is entered or left."""

    actor: int
    kind: str
    field: int | None
    evidence: str


@dataclass(slots=True)
class Tables:
    """The names behind the numbers. Each table maps a row to its number, 0 first, and only ever grows."""

    actors: dict[ActorRow, int] = field(default_factory=dict)
    fields: dict[FieldRow, int] = field(default_factory=dict)
    slots: dict[SlotRow, int] = field(default_factory=dict)
    templates: dict[tuple[int, ...], int] = field(default_factory=dict)
    metas: dict[str, int] = field(default_factory=dict)

    def sizes(self) -> tuple[int, int, int, int, int]:
        """How many rows each table has."""
        return len(self.actors), len(self.fields), len(self.slots), len(self.templates), len(self.metas)

    def are_whole(self) -> bool:
        """Whether every number in a row is that of a row."""
        actors, fields, slots = len(self.actors), len(self.fields), len(self.slots)
        whole = [0 <= row.actor < actors and (row.field is None or 0 <= row.field < fields) for row in self.slots]
        return all(whole) and all(0 <= slot < slots for template in self.templates for slot in template)


def intern(table: dict[Row, int], row: Row) -> int:
    """The number of `row`, which is added to the table if it is new."""
    return table.setdefault(row, len(table))


class Store(Protocol):
    """What a recording is saved to and read back from."""

    name: str

    @property
    def dropped(self) -> int:
        """How many segments it held once and has let go of."""

    def write(self, tables: Tables, segments: Sequence[Segment]) -> None:
        """Add the segments and what is new in the tables: all of it or, with any exception, nothing."""

    def tables(self) -> Tables:
        """The tables as last written."""

    def segments(
        self, templates: Collection[int] | None = None, *, before: int | None = None, backward: bool = False
    ) -> Iterator[Segment]:
        """Those of the given templates that begin before record `before`, in order or from the last to the first."""

    def count(self) -> int:
        """How many records it holds."""

    def close(self) -> None:
        """Nothing is written after this. May be called twice."""


class MemoryStore:
    """The last segments of a run, in memory.

    Those of batches and all others are kept apart, `rounds` of each, so that a long epoch cannot push out the few
    that tell of set-up and of earlier epochs.
    """

    name = "memory"

    def __init__(self, rounds: int = 10_000) -> None:
        self._batches: deque[Segment] = deque(maxlen=rounds)
        self._others: deque[Segment] = deque(maxlen=rounds)
        self._tables = Tables()
        self._written = 0

    @property
    def dropped(self) -> int:
        """How many segments were pushed out by later ones."""
        return self._written - len(self._batches) - len(self._others)

    def write(self, tables: Tables, segments: Sequence[Segment]) -> None:
        """Keep the segments, and the tables themselves."""
        self._tables = tables
        self._batches.extend([segment for segment in segments if segment[2][2] is not None])
        self._others.extend([segment for segment in segments if segment[2][2] is None])
        self._written += len(segments)

    def tables(self) -> Tables:
        """The tables of the recording that writes here."""
        return self._tables

    def segments(
        self, templates: Collection[int] | None = None, *, before: int | None = None, backward: bool = False
    ) -> Iterator[Segment]:
        """What is held at the time of the call; later writes do not disturb the reader."""
        held = sorted([*self._batches, *self._others], key=lambda segment: segment[0], reverse=backward)
        for segment in held:
            if (before is None or segment[0] < before) and (templates is None or segment[3] in templates):
                yield segment

    def count(self) -> int:
        """How many records it holds."""
        return sum(len(values) for *_, values in [*self._batches, *self._others])

    def close(self) -> None:
        """Nothing to do: what is held can still be read."""


class NamedSlot(NamedTuple):
    """A slot with its numbers looked up."""

    actor: str
    kind: str
    field: str | None
    scope: str
    default: object
    evidence: str
    source: str


class Record(NamedTuple):
    """One value of a segment with its slot: what is asked for on reading."""

    seq: int
    t_ns: int
    place: Place
    slot: NamedSlot
    value: object


class Records:
    """The records of a store, under the names its tables have at the time of the question."""

    def __init__(self, store: Store) -> None:
        tables = store.tables()
        self.store = store
        self._templates = list(tables.templates)
        self._metas = list(tables.metas)
        actors, fields = list(tables.actors), list(tables.fields)
        nothing = FieldRow("", "run", "", "", None)
        self.slots: list[NamedSlot] = []
        for row in tables.slots:
            actor, field = actors[row.actor], nothing if row.field is None else fields[row.field]
            default = MISSING if field.default is None else self._read(row.kind, from_json(field.default))
            names = (actor.path, row.kind, field.name or None, field.scope, default, row.evidence, actor.source)
            self.slots.append(NamedSlot(*names))
        self.fields = {row.name for row in fields}

    def writes(self, fields: Collection[str | None]) -> set[int]:
        """The slots that write one of these fields."""
        return {n for n, slot in enumerate(self.slots) if slot.kind == "write" and slot.field in fields}

    def resolve(self, name: str) -> set[str | None]:
        """The fields a name stands for: itself and what lies below it, else the part that it lies below."""
        found: set[str | None] = {field for field in self.fields if f"{field}.".startswith(f"{name}.")}
        if found:
            return found
        part = name
        while part and part not in self.fields:
            part = part.rpartition(".")[0]
        if not part or any(field.startswith(f"{part}.") for field in self.fields):  # a part that there is not
            raise UnknownField(name, self.fields, who="The log")
        return {part}

    def read(
        self, slots: Collection[int] | None = None, *, before: int | None = None, backward: bool = False
    ) -> Iterator[Record]:
        """The records of these slots (all of them by default) with numbers below `before`."""
        wanted: dict[int, list[int]] = {}
        for template, row in enumerate(self._templates):
            indices = [index for index, slot in enumerate(row) if slots is None or slot in slots]
            if indices:
                wanted[template] = indices[::-1] if backward else indices
        for seq, t_ns, place, template, values in self.store.segments(wanted, before=before, backward=backward):
            row = self._templates[template]
            for index in wanted[template]:
                if before is None or seq + index < before:
                    slot = self.slots[row[index]]
                    yield Record(seq + index, t_ns, place, slot, self._read(slot.kind, values[index]))

    def find(self, asked: Asked) -> tuple[Place, int]:
        """The place of the last round asked for, and the number of the first record after it.

        Raises:
            StateError: there is no such round.
        """
        (epoch, phase, batch), found = asked, None
        seen: dict[tuple[int | None, str | None], int | None] = {}  # the last batch of each phase
        for seq, _, place, _, values in self.store.segments():
            seen[place[:2]] = place[2] if place[2] is not None else seen.get(place[:2])
            if is_within(place, (epoch, phase, batch)):
                phase = place[1] if batch is not None else phase
                found = place, seq + len(values)
        if found is None:
            raise StateError(_told_missing(asked, seen) + (f" {FORGETS}" if self.store.dropped else ""))
        return found

    def _read(self, kind: str, value: Any) -> object:
        if not isinstance(value, list):
            return value
        if kind == "exit":
            return ended(*value)
        return self._metas[value[0]] if len(value) == 1 and isinstance(value[0], int) else value


def is_within(place: Place, asked: Asked) -> bool:
    """Whether something happened where it is looked for."""
    pairs = zip(place, asked, strict=False)
    return all(want is None or (have in want if isinstance(want, range) else have == want) for have, want in pairs)


def _told_missing(asked: Asked, seen: dict[tuple[int | None, str | None], int | None]) -> str:
    """That no round is where it was looked for, and where there are some."""
    epoch, phase, _ = asked
    phases = sorted({p for _, p in seen if p is not None})
    if phase is not None and phase not in phases:
        near = suggestion(nearest(str(phase), phases))
        return f"The log has no phase {phase!r}.{near} It has {', '.join(map(repr, phases)) or 'none'}."
    words: list[Any] = [f"{part.start} to {part.stop - 1}" if isinstance(part, range) else part for part in asked]
    last: dict[str | None, int] = {}
    for (e, p), b in seen.items():
        if b is not None and is_within((e, p, b, None), (epoch, None, None)):
            last[p] = max(b, last.get(p, b))
    epochs = [e for e, _ in seen if e is not None]
    told = f"epochs {min(epochs)} to {max(epochs)}" if epochs else "no epoch"
    ends = ", ".join(f"{'batches up to' if p is None else f'{p} to batch'} {b}" for p, b in last.items())
    comma = ", of this one " if isinstance(epoch, int) else ", "
    return f"The log has no {Position(*words)}. It holds {told}{comma if ends else ''}{ends}."


def ended(outcome: str, duration_ns: int | None = None, reason: str | None = None) -> str:
    """How a stage ended, in words: "ok, 1.2 ms", "failed: ValueError: no, 2.0 s".

    The reason of "cancelled" begins with who did it and what ends by it:
    "cancelled by train/epoch:after:EarlyStopping.look (run): valid_loss has not improved, 0.3 ms".
    """
    text = outcome if reason is None else f"{outcome} by {reason}" if outcome == "cancelled" else f"{outcome}: {reason}"
    if duration_ns is None:
        return text
    return f"{text}, {duration_ns / 1e6:.3g} ms" if duration_ns < 0.999e9 else f"{text}, {duration_ns / 1e9:.1f} s"


def to_json(value: Any) -> str:
    """JSON text of a recorded value; NaN and the infinities, which JSON lacks, become {"f": "nan"} and so on."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"), default=str)


def from_json(text: str) -> Any:
    """The value behind JSON text that `to_json` wrote."""
    return json.loads(text, object_hook=lambda pairs: float(pairs["f"]) if pairs.keys() == {"f"} else pairs)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return {"f": repr(value)}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
