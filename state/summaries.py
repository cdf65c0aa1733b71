"""Summaries: what the log keeps of a value, by level."""

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from state.insides import COLLECTIONS, Inside, in_field
from state.statistics import Measured, measured_field, measured_part
from state.stores import intern

MAX_METAS = 10_000
MAX_TEXT = 200
MAX_KEYS = 8

PLAIN: frozenset[type] = frozenset({bool, float, int, type(None)})


class Summaries:
    """What the log keeps of values: a plain value, or the number of a text that stands for it.

    A value that is no plain one becomes [text]; at the levels "stats" and "full" a tensor becomes
    [text, low, high, mean, norm, fingerprint, where], as `Summary` has it.

    Attributes:
        is_waiting: whether a value was given that is on a device still, and is read by `fetched`.
    """

    __slots__ = ("is_waiting", "_metas", "_shapes", "_lengths", "_texts")

    def __init__(self, metas: dict[str, int]) -> None:
        """`metas` gives each text its number, and grows."""
        self.is_waiting = False
        self._metas = metas
        self._shapes: dict[object, list[int]] = {}  # the values that stand for a tensor's shape, dtype and device
        self._lengths: dict[tuple[type, int], list[int]] = {}  # for a tuple or list
        self._texts: dict[str, list[int]] = {}  # and for a text

    def short(self, value: Any) -> object:
        """At level "summary": a plain value, or what stands for dtype, shape and device, keys or length, or a class."""
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

    def measured(self, value: Any, *, fingerprint: bool) -> object:
        """At level "stats", or "full" with a fingerprint: numbers for a tensor, and for the tensors in a collection."""
        short = self.short(value)
        if type(short) is not list:
            return short
        try:
            if isinstance(value, Tensor):
                found = measured_field(value, fingerprint=fingerprint)
            else:
                inside = in_field(value) if isinstance(value, COLLECTIONS) else None
                found = None if inside is None else _measured_all(inside, fingerprint)
        except Exception:  # sparse, on the meta device, or a subclass that holds other tensors
            found = None
        return short if found is None else [*short, *self._now(found)]

    def part(self, inside: Inside, *, fingerprint: bool) -> object:
        """The same for all tensors in a part."""
        try:
            found = _measured_all(inside, fingerprint)
        except Exception:
            found = None
        if found is None:
            return None
        sizes = [each.numel() for each in inside.values if isinstance(each, Tensor)]
        return [*self._meta(f"{len(sizes)} tensors, {sum(sizes):,} numbers"), *self._now(found)]

    def fetched(self, values: list[list[Any]]) -> None:
        """Put numbers in the place of what is on a device, with one transfer per device and dtype."""
        rows = [value for row in values for value in row if type(value) is list and type(value[-1]) is Measured]
        for device in {value[-1].bits.device for value in rows}:
            here = [value for value in rows if value[-1].bits.device == device]
            bits = iter(torch.cat([value[-1].bits for value in here]).tolist())
            for value in here:
                found = value.pop()
                value += found.read(list(islice(bits, len(found.bits))))
        waiting: dict[tuple[torch.device, torch.dtype], list[tuple[list[Any], int]]] = {}
        for row in values:
            for index, value in enumerate(row):
                if isinstance(value, Tensor):
                    waiting.setdefault((value.device, value.dtype), []).append((row, index))
        for (device, dtype), places in waiting.items():
            try:
                numbers = [_plain(n) for n in torch.stack([row[index] for row, index in places]).tolist()]
            except RuntimeError:  # the device has failed: the training code will say so, the log keeps the rest
                numbers = [self._shape((torch.Size(), dtype, device))] * len(places)
            for (row, index), number in zip(places, numbers, strict=True):
                row[index] = number

    def _now(self, found: Measured) -> list[Any]:
        """What was measured, or where that would wait for a device, how to read it."""
        if found.bits.is_cpu:
            return found.read(found.bits.tolist())
        self.is_waiting = True
        return [found]

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
        self.is_waiting = True
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
            return [intern(self._metas, plain.partition("[")[0].partition("(")[0])]
        meta = self._texts[text] = [intern(self._metas, plain)]
        return meta


def _measured_all(inside: Inside, fingerprint: bool) -> Measured | None:
    pairs = [(n, v) for n, v in zip(inside.names, inside.values, strict=True) if isinstance(v, Tensor)]
    there = [(name, value) for name, value in pairs if value.numel() and not value.is_meta]
    if not there:
        return None
    return measured_part([name for name, _ in there], [value for _, value in there], fingerprint=fingerprint)


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
