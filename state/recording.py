"""What the runner writes into: the hot end of the change log.

`write` and `mark` add a slot and a value to a list; `cut` turns the list into a segment. The sequence of slots is
looked up among those met before: templates are learned, not declared, and a round that deviates has another one.
"""

import threading
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from state.errors import LogWarning
from state.fields import MISSING
from state.position import Place
from state.stores import ActorRow, FieldRow, Segment, SlotRow, Store, Tables, intern, to_json

Level = Literal["off", "writes", "summary"]

SAVE_SEGMENTS = 256
SAVE_NS = 500_000_000
MAX_TEMPLATES = 1_000
MAX_METAS = 10_000
MAX_TEXT = 200
MAX_KEYS = 8

PLAIN: frozenset[type] = frozenset({bool, float, int, type(None)})


class Recording:
    """The records of one run on their way to a store.

    Any thread may read the log while one thread writes: `write` and `mark` add slot and value in a single operation, so
    neither another thread nor a signal finds one without the other; `cut` and `flush` hold a lock.

    Attributes:
        position: (epoch, phase, batch, update) of what is being written; the runner sets it after `cut`.
        lost: segments that the store could not take.
    """

    __slots__ = (
        *("position", "lost", "_store", "_level", "_levels", "_tables", "_actors", "_fields", "_bare"),
        *(
            "_flat",
            "_pending",
            "_seq",
            "_clock_ns",
            "_saved_ns",
            "_lock",
            "_shapes",
            "_lengths",
            "_texts",
            "_on_device",
        ),
    )

    def __init__(self, store: Store, level: Level = "summary", levels: Mapping[str, Level] | None = None) -> None:
        """Record into `store`; `levels` sets single fields apart, each with its parts."""
        self.position: Place = (None, None, None, None)
        self.lost = 0
        self._store = store
        self._level: Level = level
        self._levels = dict(levels or {})
        self._tables: Tables = store.tables()  # a store that holds something is continued
        self._actors = {row.path: number for row, number in self._tables.actors.items()}
        self._fields = {row.name: number for row, number in self._tables.fields.items()}
        self._bare: set[int] = set()  # slots at level "writes"
        self._flat: list[Any] = []  # slot, value, slot, value, ...
        self._pending: list[Segment] = []
        last = next(store.segments(backward=True), None)
        self._seq = last[0] + len(last[4]) if last else 0
        self._saved_ns = time.perf_counter_ns()
        self._clock_ns = time.time_ns() - self._saved_ns
        self._lock = threading.RLock()
        self._shapes: dict[object, list[int]] = {}  # the values that stand for a tensor's shape, dtype and device
        self._lengths: dict[tuple[type, int], list[int]] = {}  # for a tuple or list
        self._texts: dict[str, list[int]] = {}  # and for a text
        self._on_device = False  # whether scalars of a device were ever written

    def actor(self, path: str, kind: str, source: str) -> int:
        """Register who acts: kind "stage", "hook" or "reserved", source "qualname file:line".

        A second registration holds from then on; what the first one wrote keeps its source.
        """
        number = self._actors[path] = intern(self._tables.actors, ActorRow(_utf8(path), kind, _utf8(source)))
        return number

    def field(self, name: str, scope: str, type: str, description: str, default: object = MISSING) -> int:
        """Register a field, or a part of a component; a second registration holds from then on."""
        text = None if default is MISSING else to_json(self._summary(default))
        row = FieldRow(_utf8(name), scope, type, _utf8(description), text)
        number = self._fields[name] = intern(self._tables.fields, row)
        return number

    def slot(self, actor: str, kind: str, field: str | None, evidence: str) -> int | None:
        """The number to write with: kind "write", "enter", "exit", "open" or "close"; None when this is not recorded.

        Entering and leaving a stage (`field` None) have the level of all that is not set apart: at "off" they are not
        recorded, though single fields may be. Opening and closing a scope are recorded wherever anything is, since the
        records of fields are read by them. Whoever asks for a slot has to skip what would be written to None.
        """
        level = self._level if field is None else self.level_of(field)
        if level == "off" and not (kind in ("open", "close") and set(self._levels.values()) - {"off"}):
            return None
        number = None if field is None else self._fields[field]
        slot = intern(self._tables.slots, SlotRow(self._actors[actor], kind, number, evidence))
        if level == "writes" and kind == "write":
            self._bare.add(slot)
        return slot

    def write(self, slot: int, value: object) -> None:
        """Record a summary of `value`, never `value` itself unless it is plain. Does not wait for a device."""
        if self._bare and slot in self._bare:
            value = None
        elif type(value) not in PLAIN:
            value = self._summary(value)
        self._flat.extend((slot, value))

    def pen(self, slot: int) -> tuple[Callable[[Any], None], Collection[type], Callable[[Any], object]]:
        """`write` in pieces, for who writes one slot often.

        The function that takes (slot, value, slot, value, ...), as `mark` for many; the types of values that are
        recorded as they are; and the function that gives what is recorded of any other.
        """
        if slot in self._bare:
            return self._flat.extend, (), _nothing
        return self._flat.extend, PLAIN, self._summary

    def mark(self, slot: int, value: object) -> None:
        """Record `value` as it is: a string, a number, None, or a list of two or more of these.

        For an exit: [outcome, duration in ns or None, reason or None]; the reason of "cancelled" begins with who did it
        and what ends by it, "actor (scope): why".
        """
        self._flat.extend((slot, value))

    def cut(self) -> None:
        """End the segment. Nothing happens when nothing was written."""
        flat = self._flat
        if not flat:
            return
        with self._lock:
            size = len(flat)  # another thread may add behind this
            slots, values = tuple(flat[:size:2]), flat[1:size:2]
            del flat[:size]
            now = time.perf_counter_ns()
            template = self._tables.templates.get(slots)
            if template is None and len(self._tables.templates) >= MAX_TEMPLATES:
                self._split(slots, values, now)
            elif slots:
                template = intern(self._tables.templates, slots) if template is None else template
                seq, self._seq = self._seq, self._seq + len(values)  # first: a signal here may not give a number twice
                self._pending.append((seq, now + self._clock_ns, self.position, template, values))
            if len(self._pending) >= SAVE_SEGMENTS or now - self._saved_ns > SAVE_NS:
                self._save()

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

    def level_of(self, field: str) -> Level:
        """What is kept of a field or part: its own level, else that of what it is part of, else that of the rest."""
        name = field
        while name and name not in self._levels:
            name = name.rpartition(".")[0]
        return self._levels.get(name, self._level)

    def _split(self, slots: tuple[int, ...], values: list[Any], now: int) -> None:
        """Store a segment as one-slot segments: with them the number of templates is bounded by that of the slots."""
        for slot, value in zip(slots, values, strict=True):
            template = intern(self._tables.templates, (slot,))
            seq, self._seq = self._seq, self._seq + 1
            self._pending.append((seq, now + self._clock_ns, self.position, template, [value]))

    def _save(self) -> None:
        try:
            if self._on_device:
                self._read_scalars(self._pending)
            self._store.write(self._tables, self._pending)
        except Exception as error:  # whatever a disk does: training goes on without its log
            self._lose(error)
        else:
            self._pending.clear()
        self._saved_ns = time.perf_counter_ns()

    def _lose(self, error: Exception) -> None:
        is_first = not self.lost
        self.lost += len(self._pending)
        self._pending.clear()
        if is_first and self.lost:
            told = "Training goes on; `lost` counts the segments that are missing."
            message = f"The change log in {self._store.name!r} could not be written: {error}. {told}"
            warnings.warn(LogWarning(message), stacklevel=4)

    def _summary(self, value: Any) -> object:
        """What the log keeps of `value`: a plain value, or [number of a text]."""
        try:
            if isinstance(value, Tensor):
                shape = value.shape
                if not shape and type(value).__torch_dispatch__ is Tensor.__torch_dispatch__:
                    return self._scalar(value)
                key = (shape, value.dtype, value.device)
                return self._shapes.get(key) or self._shape(key)
            kind = type(value)
            if kind is tuple or kind is list:
                return self._lengths.get((kind, len(value))) or self._length(value)
            if isinstance(value, (str, complex)):
                text = str(value)
                return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
            if isinstance(value, (int, float)):  # IntEnum, numpy.float64
                return int(value) if isinstance(value, int) else float(value)
            return self._meta(_text(value))
        except Exception:  # a user's class may refuse any question: looking at it must not stop a run
            return self._meta(_name(type(value)))

    def _length(self, value: tuple[Any, ...] | list[Any]) -> list[int]:
        meta = self._meta(_text(value))
        if len(self._lengths) < MAX_METAS:
            self._lengths[type(value), len(value)] = meta
        return meta

    def _scalar(self, value: Tensor) -> object:
        if value.is_cpu:
            number = value.item()
            return number if type(number) in PLAIN else str(number)
        if value.is_meta:
            return self._shape((value.shape, value.dtype, value.device))
        self._on_device = True
        return value.detach().clone()  # read at the next save: now it would wait for the device

    def _shape(self, key: tuple[torch.Size, torch.dtype, torch.device]) -> list[int]:
        shape, dtype, device = key
        text = f"{dtype}{list(shape)}".removeprefix("torch.")
        meta = self._meta(text if device.type == "cpu" else f"{text} {device}")
        if len(self._shapes) < MAX_METAS:
            self._shapes[key] = meta
        return meta

    def _meta(self, text: str) -> list[int]:
        return self._texts.get(text) or self._new_text(text)

    def _new_text(self, text: str) -> list[int]:
        plain = text.encode("ascii", "backslashreplace").decode()
        if len(self._texts) >= MAX_METAS:  # texts are bounded: past that the kind, without shape, length or keys
            return [intern(self._tables.metas, plain.partition("[")[0].partition("(")[0])]
        meta = self._texts[text] = [intern(self._tables.metas, plain)]
        return meta

    def _read_scalars(self, segments: list[Segment]) -> None:
        """Put numbers in the place of device scalars, with one transfer per device and dtype."""
        waiting: dict[tuple[torch.device, torch.dtype], list[tuple[list[Any], int]]] = {}
        for _, _, _, _, values in segments:
            for index, value in enumerate(values):
                if isinstance(value, Tensor):
                    waiting.setdefault((value.device, value.dtype), []).append((values, index))
        for (device, dtype), places in waiting.items():
            try:
                numbers = [_plain(n) for n in torch.stack([values[index] for values, index in places]).tolist()]
            except RuntimeError:  # the device has failed: the training code will say so, the log keeps the rest
                numbers = [self._shape((torch.Size(), dtype, device))] * len(places)
            for (values, index), number in zip(places, numbers, strict=True):
                values[index] = number


def _utf8(text: str) -> str:
    """Text that any file can hold: a path may have bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _nothing(value: object) -> None:
    """What level "writes" keeps of a value."""


def _plain(number: object) -> object:
    return number if type(number) in PLAIN else str(number)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _text(value: object) -> str:
    """One short line for a collection or an object: keys, a length, or the name of its class."""
    if isinstance(value, dict):
        keys = [key if type(key) is str else type(key).__name__ for key in islice(value, MAX_KEYS)]
        if len(value) > MAX_KEYS:
            keys.append("...")
        return f"{type(value).__name__}({', '.join(keys)})"[:MAX_TEXT]
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}[{len(value)}]"
    return _name(type(value))
