"""Differences: what two checkpoints do not have in common, tensor by tensor and value by value."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from state.bundle import Bundle, read_bundle
from state.documents import step, text_of
from state.errors import short

_NOTHING: Any = object()


@dataclass(frozen=True)
class Difference:
    """One place where two checkpoints differ.

    Attributes:
        file: the file that both or one have it in.
        entry: the name of the tensor, or the dotted path of the value; "" for the whole of it.
        left, right: dtype and shape, or the value, in one line; None where only the other has it.
        unequal: of tensors of one dtype and shape, how many elements differ in any bit; None otherwise.
        largest: the largest absolute difference of two elements as a float64; NaN if one of them is.
    """

    file: str
    entry: str
    left: str | None
    right: str | None
    unequal: int | None = None
    largest: float | None = None

    def __str__(self) -> str:
        entry = self.entry if self.entry.isprintable() else ascii(self.entry)
        where = f"{self.file}: {entry}" if entry else self.file
        if self.left is None or self.right is None:
            side, shown = ("first", self.left) if self.right is None else ("second", self.right)
            return f"{where}: only in the {side}: {shown}"
        if self.unequal is None:
            return f"{where}: {self.left}, {self.right}"
        most = "" if self.largest is None else f", by {self.largest:.6g} at most"
        return f"{where}: {self.unequal} elements of {self.left} differ{most}"


def diff_bundles(left: Path, right: Path) -> list[Difference]:
    """All differences of two bundles, both verified first: none means equal, bit for bit.

    Raises:
        CheckpointError: one of them cannot be read, or is damaged.
    """
    return differences(read_bundle(left), read_bundle(right))


def differences(one: Bundle, other: Bundle) -> list[Difference]:
    """All differences of two bundles that have been read."""
    found: list[Difference] = []
    for group in one.tensors | other.tensors:
        file = f"{group}.safetensors"
        if group in one.tensors and group in other.tensors:
            found += of_tensors(file, one.tensors[group], other.tensors[group])
        else:
            left_has, right_has = (_count(bundle.tensors.get(group)) for bundle in (one, other))
            found.append(Difference(file, "", left_has, right_has))
    for name in one.documents | other.documents:
        values = (bundle.documents.get(name, _NOTHING) for bundle in (one, other))
        found += _of_values(f"{name}.json", "", *values)
    return found


def of_tensors(file: str, left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Iterator[Difference]:
    """All differences of two groups of dense tensors."""
    for name in {**left, **right}:
        one, other = left.get(name, _NOTHING), right.get(name, _NOTHING)
        plain = _shown(file, name, one, other)
        if plain.left != plain.right:
            yield plain
            continue
        unequal = _bytes(one).ne(_bytes(other)).any(-1)
        if unequal.any():
            yield replace(plain, unequal=int(unequal.sum()), largest=_largest(one, other))


def _bytes(tensor: Tensor) -> Tensor:
    """A row of bytes for each element."""
    return tensor.reshape(-1, 1).view(torch.uint8)


def _largest(left: Tensor, right: Tensor) -> float | None:
    """The largest absolute difference, None where there is no arithmetic for a dtype."""
    wide = torch.complex128 if left.is_complex() else torch.float64
    try:
        return float((left.to(wide) - right.to(wide)).abs().max())
    except (NotImplementedError, RuntimeError):
        return None


def _of_values(file: str, path: str, left: Any, right: Any) -> Iterator[Difference]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in left | right:
            below = (path + step(key)).removeprefix(".")
            yield from _of_values(file, below, left.get(key, _NOTHING), right.get(key, _NOTHING))
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _of_values(file, f"{path}[{index}]", one, other)
    elif left is _NOTHING or right is _NOTHING or text_of(left) != text_of(right):
        yield _shown(file, path, left, right)


def _count(tensors: dict[str, Tensor] | None) -> str | None:
    return None if tensors is None else f"{len(tensors) or 'no'} tensors"


def _shown(file: str, entry: str, left: Any, right: Any) -> Difference:
    one, other = (None if value is _NOTHING else short(value) for value in (left, right))
    return Difference(file, entry, one, other)
