"""Records: what a store holds, under the names its tables have."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, cast

from state.errors import StateError, UnknownField, nearest, suggestion, want_text
from state.fields import MISSING
from state.position import ANYWHERE, Asked, Place, Position, is_within
from state.scopes import RUN
from state.statistics import Summary
from state.stores import UNBOUND, Bounds, FieldRow, Segment, Store, from_json

FORGETS = "The log in memory keeps the latest rounds only; give a run_dir to keep them all."

FEW = 1_000
"""So many writes are looked at to see what a log keeps of them."""

_END = 2**62
"""After the last record of any run."""


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

    def __init__(self, store: Store, *, rolled_back: bool = False) -> None:
        """Those that count; or those that were `rolled_back`, as the run was resumed from a checkpoint before them."""
        self.store = store.view()
        tables = store.tables()
        self._wants_gone = False
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
        self._gone: list[tuple[int, int]] = []  # numbers of records that were rolled back, as (first, end)
        resumed = {number for number, slot in enumerate(self.slots) if slot.kind == "resume"}
        self._gone = [(cast(int, record.value), record.seq) for record in self.read(resumed)] if resumed else []
        self._wants_gone = rolled_back

    def writes(self, fields: Collection[str | None]) -> set[int]:
        """The slots that write one of these fields."""
        return {n for n, slot in enumerate(self.slots) if slot.kind == "write" and slot.field in fields}

    def reads(self, actor: str) -> list[str]:
        """The fields and parts that an actor declares to read."""
        return [slot.field for slot in self.slots if slot.kind == "read" and slot.actor == actor and slot.field]

    def marks(self, scopes: Collection[str] | None = None) -> set[int]:
        """The slots that tell of a scope opened or closed: of all scopes, or of these and of the run."""
        marks = ((n, slot.evidence) for n, slot in enumerate(self.slots) if slot.kind in ("open", "close"))
        return {n for n, scope in marks if scopes is None or scope in scopes or scope == RUN}

    def resolve(self, name: str) -> set[str]:
        """The fields a name stands for: itself and what lies below it, else the part that it lies below."""
        want_text(name, "The log")
        found = {field for field in self.fields if f"{field}.".startswith(f"{name}.")}
        if found:
            return found
        part = name
        while part and part not in self.fields:
            part = part.rpartition(".")[0]
        if not part or any(field.startswith(f"{part}.") for field in self.fields):  # a part that there is not
            raise UnknownField(name, self.fields, who="The log")
        return {part}

    def read(
        self,
        slots: Collection[int] | None = None,
        *,
        since: int | None = None,
        before: int | None = None,
        backward: bool = False,
        nonfinite: bool = False,
        asked: Asked = ANYWHERE,
        beyond: Bounds = UNBOUND,
    ) -> Iterator[Record]:
        """The records of these slots (all of them by default) in rounds from `since` on, with numbers below `before`.

        With `nonfinite` only those of rounds in which some value is NaN or infinite, with `asked` of rounds at such
        places. With `beyond` at least those of rounds in which one of them is past a bound.
        """
        wanted = self.wanted(slots, backward=backward)
        chosen = {template: [self.slots[self._templates[template][n]] for n in row] for template, row in wanted.items()}
        where: dict[str, Any] = {"since": since, "before": before, "backward": backward, "nonfinite": nonfinite}
        read, counts, end = self._read, self.counts, _END if before is None else before
        for seq, t_ns, place, template, values in self.store.segments(wanted, asked=asked, beyond=beyond, **where):
            are_all = self.is_whole and seq + len(self._templates[template]) <= end
            for index, slot, value in zip(wanted[template], chosen[template], values, strict=True):
                if are_all or (seq + index < end and counts(seq + index)):
                    shown = read(slot.kind, value) if type(value) is list else value
                    yield Record(seq + index, t_ns, place, slot, shown)

    def wanted(self, slots: Collection[int] | None = None, *, backward: bool = False) -> dict[int, list[int]]:
        """Where in the segments of each template records of these slots stand; only templates that have some."""
        found: dict[int, list[int]] = {}
        for template, row in enumerate(self._templates):
            indices = [index for index, slot in enumerate(row) if slots is None or slot in slots]
            if indices:
                found[template] = indices[::-1] if backward else indices
        return found

    def segments(self) -> Iterator[Segment]:
        """The segments whose records are wanted, as the store has them."""
        return (segment for segment in self.store.segments() if self.counts(segment[0]))

    def slots_of(self, template: int) -> tuple[int, ...]:
        """The numbers of the slots that a template stands for."""
        return self._templates[template]

    def unfold(self, segment: Segment) -> list[Record]:
        """All records of a segment."""
        seq, t_ns, place, template, values = segment
        slots = [self.slots[number] for number in self._templates[template]]
        read = (self._read(slot.kind, value) for slot, value in zip(slots, values, strict=True))
        return [
            Record(seq + n, t_ns, place, slot, value) for n, (slot, value) in enumerate(zip(slots, read, strict=True))
        ]

    def value(self, kind: str, value: Any) -> object:
        """What a store holds in a slot of this kind, as it is read."""
        return self._read(kind, value)

    def find(self, asked: Asked) -> tuple[Place, int]:
        """The place of the last round asked for, and the number of the first record after it.

        Raises:
            StateError: there is no such round.
        """
        epoch, phase, batch = asked
        if batch is not None and phase is None:  # the first phase that has such a batch
            phase = next((place[1] for _, place, _ in self._rounds(asked=asked) if place[1] is not None), None)
        for seq, place, template in self._rounds(asked=(epoch, phase, batch), backward=True):
            return place, seq + len(self._templates[template])
        seen: dict[tuple[int | None, str | None], int | None] = {}  # the last batch of each phase
        for _, place, _, _ in self.store.stored():
            seen[place[:2]] = place[2] if place[2] is not None else seen.get(place[:2])
        raise StateError(_told_missing(asked, seen) + (f" {FORGETS}" if self.store.dropped else ""))

    def epoch_begins(self, place: Place, end: int) -> int:
        """The number of the first record of the epoch of a place, of those that lead up to record `end`."""
        begin = 0
        for seq, other, _ in self._rounds(before=end, backward=True, are_all=True):
            if other[0] != place[0]:
                break
            begin = seq
        return begin

    def batches(self) -> Iterator[tuple[Place, int]]:
        """The place and the template of the segments in batches that count."""
        return ((place, template) for _, place, template in self._rounds() if place[2] is not None)

    def _rounds(self, *, are_all: bool = False, **where: Any) -> Iterator[tuple[int, Place, int]]:
        """The number, place and template of segments that count, or of all."""
        no_values = {template: () for template in range(len(self._templates))}
        for seq, _, place, template, _ in self.store.segments(no_values, **where):
            if are_all or self.counts(seq):
                yield seq, place, template

    def end(self) -> int:
        """The number that comes after the last record there is."""
        last = next(self._rounds(backward=True, are_all=True), None)
        return 0 if last is None else last[0] + len(self._templates[last[2]])

    def times(self, asked: Asked, before: int) -> Mapping[int, int]:
        """How many segments of each template count, at such places, before record `before`."""
        if self.is_whole:
            return self.store.times(asked, before)
        return Counter(template for _, _, template in self._rounds(asked=asked, before=before))

    def timed(self) -> Iterator[tuple[Place, str, int | None]]:
        """Where who was entered (None) and left after how many nanoseconds, in order, for each time that was timed."""
        wanted = self.wanted({number for number, slot in enumerate(self.slots) if slot.kind in ("enter", "exit")})
        for seq, _, place, template, values in self.store.segments(wanted):
            for index, value in zip(wanted[template], values, strict=True):
                slot = self.slots[self._templates[template][index]]
                if self.counts(seq + index) and (slot.kind == "enter" or value[1] is not None):
                    yield place, slot.actor, None if slot.kind == "enter" else value[1]

    @property
    def is_whole(self) -> bool:
        """Whether all records are wanted: none was rolled back."""
        return not self._gone and not self._wants_gone

    def slots_in(self, template: int) -> list[NamedSlot]:
        """The slots of a template, in order."""
        return [self.slots[number] for number in self._templates[template]]

    def keys_of(self, template: int) -> list[tuple[Any, ...]]:
        """Who writes what in a round, in order."""
        slots = (self.slots[number] for number in self._templates[template])
        return [(slot.actor, slot.kind, slot.field, slot.evidence) for slot in slots]

    def unfolded(self, template: int, stored: Any, place: Place) -> list[Record]:
        """The records of one round as it is stored. Their numbers and times are left out."""
        slots = [self.slots[number] for number in self._templates[template]]
        values = from_json(stored) if isinstance(stored, str) else stored
        return [Record(0, 0, place, s, self._read(s.kind, v)) for s, v in zip(slots, values, strict=True)]

    def texts(self) -> list[str]:
        """The texts that stand for values, by number."""
        return self._metas

    @cached_property
    def is_full(self) -> bool:
        """Whether some write was measured with a fingerprint, as at level "full"."""
        first = islice(self.read(self.writes(self.fields)), FEW)
        return any(isinstance(one.value, Summary) and one.value.fingerprint is not None for one in first)

    def counts(self, seq: int) -> bool:
        """Whether a record is one of those that are wanted."""
        return any(first <= seq < end for first, end in self._gone) is self._wants_gone

    def _read(self, kind: str, value: Any) -> object:
        if not isinstance(value, list):
            return value
        if kind == "exit":
            return ended(*value)
        text, *numbers = value
        if kind != "write" or not isinstance(text, int):
            return value
        return Summary(self._metas[text], *numbers) if numbers else self._metas[text]


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
