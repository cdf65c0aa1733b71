"""Documents: plain values as JSON text, exactly, and back."""

import json
import math
import struct
from typing import Any, Self

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 100
_MARK = "$"  # a mapping of one such key stands for what JSON has no way to say


def text_of(value: Any) -> bytes:
    """The one JSON text of a plain value: None, bool, int, float, str, and lists and string-keyed dicts of these.

    What JSON cannot say exactly is a mapping of one key: a float that is not finite by its 8 bytes,
    `{"$float": "7ff8000000000000"}`; an int of more than 64 bits, `{"$int": "0x1..."}`; and a mapping of one key that
    itself begins with "$", `{"$dict": {...}}`.

    Raises:
        ValueError: another type, a str that is no text, more than 100 levels, or more than 64 MiB; the message begins
            with where it is, as in "epochs[0].lr".
    """
    try:
        encoded = _encode(value, MAX_DEPTH)
    except _Misfit as misfit:
        place = misfit.place.removeprefix(".")
        place = place if len(place) <= 99 else f"{place[:96]}..."
        raise ValueError(f"{place}: {misfit}" if place else str(misfit)) from None
    text = json.dumps(encoded, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
    if len(text) > MAX_BYTES:
        raise ValueError(f"it takes {len(text)} bytes as JSON; at most {MAX_BYTES} are allowed")
    return text


def value_of(text: bytes) -> Any:
    """The value whose text this is, to the byte.

    Raises:
        ValueError: it is not what `text_of` writes for any value.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes; at most {MAX_BYTES} are allowed")
    try:
        value = _decode(json.loads(text.decode("ascii")))
        same = text_of(value) == text
    except RecursionError:
        raise ValueError(f"its lists and mappings are more than {MAX_DEPTH} deep") from None
    except (ValueError, TypeError, struct.error) as error:
        raise ValueError(f"it is no JSON of ours: {error}") from None
    if not same:  # a name twice, other spaces, a number written another way
        raise ValueError("it is JSON, but not as this library writes it")
    return value


def step(key: str) -> str:
    """A key as part of a path: `.lr`, or `['a key']` if it is no plain name."""
    return f".{key}" if key.isascii() and key.isidentifier() else f"[{key!a}]"


class _Misfit(Exception):
    """What JSON cannot say; the place of it is put together on the way out."""

    place = ""

    def below(self, step: str) -> Self:
        self.place = step + self.place
        return self


def _encode(value: Any, levels: int) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return _text(value)
    if kind is int:
        return value if value.bit_length() <= 64 else {f"{_MARK}int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {f"{_MARK}float": struct.pack(">d", value).hex()}
    if kind is not list and kind is not dict:
        raise _Misfit(f"it is of type {kind.__name__}; JSON has None, bool, int, float, str, list and dict")
    if not levels:
        raise _Misfit(f"lists and mappings are more than {MAX_DEPTH} deep")
    if kind is list:
        items: list[Any] = []
        for item in value:
            try:
                items.append(_encode(item, levels - 1))
            except _Misfit as misfit:
                raise misfit.below(f"[{len(items)}]") from None
        return items
    named: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str:
            raise _Misfit(f"the key {key!r} is of type {type(key).__name__}; JSON has str only")
        try:
            named[_text(key)] = _encode(item, levels - 1)
        except _Misfit as misfit:
            raise misfit.below(step(key)) from None
    return {f"{_MARK}dict": named} if _is_marked(named) else named


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not _is_marked(value):
        return {key: _decode(item) for key, item in value.items()}
    ((mark, inner),) = value.items()
    if mark == f"{_MARK}int":
        return int(inner, 16)
    if mark == f"{_MARK}float":
        return struct.unpack(">d", bytes.fromhex(inner))[0]
    if mark == f"{_MARK}dict" and isinstance(inner, dict):
        return {key: _decode(item) for key, item in inner.items()}
    raise ValueError(f"{mark!r} stands for nothing")


def _is_marked(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith(_MARK)


def _text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _Misfit(f"{value!r} is no text: half of a surrogate pair is in it") from None
    return value
