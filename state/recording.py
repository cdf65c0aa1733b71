"""What the runner writes into: the hot end of the change log.

`write` and `mark` add a slot and a value to a list; `cut` turns the list into a segment. The sequence of slots is
looked up among those met before: templates are learned, not declared, and a round that deviates has another one.
"""

import threading
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from torch import Tensor

from state.errors import LogWarning, short
from state.fields import MISSING
from state.insides import Inside
from state.levels import Level
from state.position import Place
from state.stores import ActorRow, FieldRow, Segment, SlotRow, Store, Tables, intern, to_json
from state.summaries import PLAIN, Summaries

PartPen = Callable[[Callable[[], Inside | None]], object]
"""Gives what is to be marked of a part, from a function that looks at it."""

SAVE_SEGMENTS = 256
SAVE_NS = 500_000_000
MAX_TEMPLATES = 1_000


class Recording:
    """The records of one run on their way to a store.

    Any thread may read the log while one thread writes: `write` and `mark` add slot and value in a single operation, so
    neither another thread nor a signal finds one without the other; `cut` and `flush` hold a lock.

    Attributes:
        position: (epoch, phase, batch, update) of what is being written; the runner sets it after `cut`.
        lost: segments that the store could not take.
    """

    __slots__ = (
        *("position", "lost", "_store", "_level", "_levels", "_tables", "_actors", "_fields", "_summaries", "_keeps"),
        *("_flat", "_pending", "_seq", "_clock_ns", "_saved_ns", "_lock", "_gap"),
    )

    def __init__(self, store: Store, level: str = "summary", levels: Mapping[str, str] | None = None) -> None:
        """Record into `store`; `levels` sets single fields apart, each with its parts.

        Raises:
            StateError: there is no such level.
        """
        self.position: Place = (None, None, None, None)
        self.lost = 0
        self._gap: tuple[int, str] | None = None  # how many records are missing, and why, until that is on record
        self._store = store
        self._level = Level.of(level)
        self._levels = {name: Level.of(one) for name, one in (levels or {}).items()}
        self._tables: Tables = store.tables()  # a store that holds something is continued
        self._actors = {row.path: number for row, number in self._tables.actors.items()}
        self._fields = {row.name: number for row, number in self._tables.fields.items()}
        self._summaries = Summaries(self._tables.metas)
        self._keeps: dict[int, Callable[[Any], object]] = {}  # what is kept of values, by slot; else "summary"
        self._flat: list[Any] = []  # slot, value, slot, value, ...
        self._pending: list[Segment] = []
        last = next(store.segments(backward=True), None)
        self._seq = last[0] + len(last[4]) if last else 0
        self._saved_ns = time.perf_counter_ns()
        self._clock_ns = time.time_ns() - self._saved_ns
        self._lock = threading.RLock()

    @property
    def store(self) -> Store:
        """Where it goes."""
        return self._store

    def actor(self, path: str, kind: str, source: str) -> int:
        """Register who acts: kind "stage", "hook" or "reserved", source "qualname file:line".

        A second registration holds from then on; what the first one wrote keeps its source.
        """
        number = self._actors[path] = intern(self._tables.actors, ActorRow(_utf8(path), kind, _utf8(source)))
        return number

    def reads(self, actor: str, names: Collection[str]) -> None:
        """Register what an actor declares to read: a slot of kind "read" for each field or part, never written to."""
        self._declare(actor, "read", names)

    def touches(self, actor: str, names: Collection[str]) -> None:
        """Register what an actor declares to touch: a slot of kind "touch" for each part, never written to."""
        self._declare(actor, "touch", names)

    def may_write(self, actor: str, names: Collection[str]) -> None:
        """Register the parts that an actor declares to write, also those it never will: slots of kind "may write"."""
        self._declare(actor, "may write", names)

    def settings(self, actor: str, values: Mapping[str, object]) -> None:
        """Register the settings of an actor: a slot of kind "setting" for each, "max_norm=1.0", never written to."""
        for name, value in values.items():
            intern(self._tables.slots, SlotRow(self._actors[actor], "setting", None, _utf8(f"{name}={short(value)}")))

    def _declare(self, actor: str, kind: str, names: Collection[str]) -> None:
        for name in names:
            while name and name not in self._fields:  # what lies below a part is told by the part
                name = name.rpartition(".")[0]
            if name:
                intern(self._tables.slots, SlotRow(self._actors[actor], kind, self._fields[name], "declared"))

    def field(self, name: str, scope: str, type: str, description: str, default: object = MISSING) -> int:
        """Register a field, or a part of a component; a second registration holds from then on."""
        text = None if default is MISSING else to_json(self._summaries.short(default))
        row = FieldRow(_utf8(name), _utf8(scope), _utf8(type), _utf8(description), text)
        number = self._fields[name] = intern(self._tables.fields, row)
        return number

    def slot(self, actor: str, kind: str, field: str | None, evidence: str, line: str | None = None) -> int | None:
        """The number to write with; None when this is not recorded. Kinds: "write", "enter", "exit", "open", "close",
        "broken" (an invariant, with its name as the evidence), "seen" (what a writer was seen to change of a part).
        `line` is where a person does it, "qualname file:line", and counts for this slot only.

        Entering and leaving a stage (`field` None) have the level of all that is not set apart: at "off" they are not
        recorded, though single fields may be. Opening and closing a scope are recorded wherever anything is, since the
        records of fields are read by them. Whoever asks for a slot has to skip what would be written to None.
        """
        level = self._level if field is None else self.level_of(field)
        is_for_readers = kind in ("open", "close") and any(one.name != "off" for one in self._levels.values())
        if level.name == "off" and not is_for_readers:
            return None
        number = None if field is None else self._fields[field]
        who = self._actors[actor]
        if line is not None:
            who = intern(self._tables.actors, ActorRow(actor, "reserved", _utf8(line)))
        slot = intern(self._tables.slots, SlotRow(who, kind, number, _utf8(evidence)))
        if level.name not in ("off", "summary") and kind == "write":
            self._keeps[slot] = _nothing if level.name == "writes" else partial(self._measured, level)
        return slot

    def write(self, slot: int, value: object) -> None:
        """Record a summary of `value`, never `value` itself unless it is plain. Does not wait for a device."""
        _, plain, keep = self.pen(slot)
        self._flat.extend((slot, value if type(value) in plain else keep(value)))

    def pen(self, slot: int) -> tuple[Callable[[Any], None], Collection[type], Callable[[Any], object]]:
        """`write` in pieces, for who writes one slot often.

        The function that takes (slot, value, slot, value, ...), as `mark` for many; the types of values that are
        recorded as they are; and the function that gives what is recorded of any other.
        """
        keep = self._keeps.get(slot, self._summaries.short)
        return self._flat.extend, () if keep is _nothing else PLAIN, keep

    def part_pen(self, name: str) -> PartPen | None:
        """For who writes a part: the function that gives what is to be marked, looking at the part only if it has to.

        None at levels where nothing is kept of it but that it was written.
        """
        level = self.level_of(name)
        has_numbers_of_use = level.name == "stats" and not name.endswith(".state")  # the norm of moments tells little
        if level.name != "full" and not has_numbers_of_use:
            return None

        def measured(look: Callable[[], Inside | None]) -> object:
            inside = look() if level.is_due(self.position[2]) else None
            return None if inside is None else self._summaries.part(inside, fingerprint=level.name == "full")

        return measured

    def mark(self, slot: int, value: object) -> None:
        """Record `value` as it is: a string, a number, None, or a list of two or more of these.

        For an exit: [outcome, duration in ns or None, reason or None]; the reason of "cancelled" begins with who did it
        and what ends by it, "actor (scope): why".
        """
        self._flat.extend((slot, value))

    def cut(self) -> None:
        """End the segment. Nothing happens when nothing was written."""
        flat = self._flat
        with self._lock:
            seq, size = self._seq, len(flat)  # another thread may add behind this
            if not size:
                return
            slots, values = tuple(flat[:size:2]), flat[1:size:2]
            now = time.perf_counter_ns()
            template = self._tables.templates.get(slots)
            if template is None and len(self._tables.templates) >= MAX_TEMPLATES:
                segments = self._split(slots, values, now)
            else:
                template = intern(self._tables.templates, slots) if template is None else template
                segments = [(seq, now + self._clock_ns, self.position, template, values)]
            end = seq + len(values)
            if self._seq != seq:
                return  # a signal handler, or a finalizer, has read the log meanwhile and cut this
            del flat[:size]  # from here to the end of the next call no signal is looked at: nothing is lost, or twice
            self._seq = end
            self._pending.extend(segments)
            if len(self._pending) >= SAVE_SEGMENTS or now - self._saved_ns > SAVE_NS:
                self._save()

    def end(self) -> int:
        """The number that the next record gets; all before it are in the store."""
        self.flush()
        return self._seq

    def roll_back(self, actor: str, end: int) -> None:
        """Go on from where the next record had the number `end`: those after it stay, and count no longer."""
        slot = intern(self._tables.slots, SlotRow(self._actors[actor], "resume", None, ""))
        self.flush()
        self.mark(slot, end)
        self.flush()

    def recent(self, count: int) -> list[str]:
        """The last writes of the open segment, as an error's note tells them: "train/.../loss wrote loss = 0.25"."""
        numbers = {number: row for row, number in self._tables.slots.items()}
        actors, fields, texts = list(self._tables.actors), list(self._tables.fields), list(self._tables.metas)
        told = []
        for slot, value in zip(self._flat[::2], self._flat[1::2], strict=False):
            row = numbers[slot]
            if row.kind == "write" and row.field is not None:
                text = texts[value[0]] if isinstance(value, list) else "" if isinstance(value, Tensor) else str(value)
                shown = f" = {text}" if value is not None and text else ""
                told.append(f"{actors[row.actor].path} wrote {fields[row.field].name}{shown}")
        return told[-count:]

    def flush(self) -> None:
        """Hand everything written so far to the store, the open segment included."""
        with self._lock:
            self.cut()
            self._save()

    def close(self) -> None:
        """Flush, and close the store."""
        self.flush()
        self._store.close()

    def _measured(self, level: Level, value: Any) -> object:
        if not level.is_due(self.position[2]):
            return self._summaries.short(value)
        return self._summaries.measured(value, fingerprint=level.name == "full")

    def level_of(self, field: str) -> Level:
        """What is kept of a field or part: its own level, else that of what it is part of, else that of the rest."""
        name = field
        while name and name not in self._levels:
            name = name.rpartition(".")[0]
        return self._levels.get(name, self._level)

    def _split(self, slots: tuple[int, ...], values: list[Any], now: int) -> list[Segment]:
        """A segment as one-slot segments: with them the number of templates is bounded by that of the slots."""
        templates, time_ns = self._tables.templates, now + self._clock_ns
        pairs = enumerate(zip(slots, values, strict=True), self._seq)
        return [(seq, time_ns, self.position, intern(templates, (slot,)), [value]) for seq, (slot, value) in pairs]

    def _save(self) -> None:
        try:
            if self._summaries.is_waiting:
                self._summaries.fetched([values for *_, values in self._pending])
            self._store.write(self._tables, self._pending)
        except Exception as error:  # whatever a disk does: training goes on without its log
            self._lose(error)
        else:
            self._pending.clear()
            self._tell_gap()
        self._saved_ns = time.perf_counter_ns()

    def _lose(self, error: Exception) -> None:
        is_first = not self.lost
        self.lost += len(self._pending)
        missing = sum(len(values) for *_, values in self._pending)
        if missing:
            self._gap = missing + (self._gap[0] if self._gap is not None else 0), str(error)
        self._pending.clear()
        if is_first and self.lost:
            told = "Training goes on; `lost` counts the segments that are missing."
            message = f"The change log in {self._store.name!r} could not be written: {error}. {told}"
            warnings.warn(LogWarning(message), stacklevel=4)

    def _tell_gap(self) -> None:
        """Put on record, once the store takes something again, that records before it are missing."""
        if self._gap is None:
            return
        missing, why = self._gap
        slot = intern(self._tables.slots, SlotRow(self.actor("log", "reserved", ""), "gap", None, ""))
        template = intern(self._tables.templates, (slot,))
        told = f"{missing:,} record{'s are' if missing > 1 else ' is'} missing: {_utf8(why)}"
        now = time.perf_counter_ns() + self._clock_ns
        seq, self._seq = self._seq, self._seq + 1
        with suppress(Exception):  # there is no room for this one: then it is told the next time
            self._store.write(self._tables, [(seq, now, self.position, template, [told])])
            self._gap = None


def _utf8(text: str) -> str:
    """Text that any file can hold: a path may have bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _nothing(value: object) -> None:
    """What level "writes" keeps of a value."""
