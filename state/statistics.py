"""Statistics: a few numbers for the contents of tensors, and a fingerprint that tells contents apart."""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from state.contents import combined, digest

_SUMMED = (torch.float32, torch.float64)
"""The kinds of numbers whose squares are added up as they are."""


class Summary(NamedTuple):
    """What the log has of a tensor, or of all tensors in a part, at the levels "stats" and "full".

    Attributes:
        text: dtype, shape and device; of a part how many tensors and numbers it has.
        low, high, mean: of a tensor's elements, of complex ones the absolute values; None for a part.
        norm: the 2-norm of all elements.
        fingerprint: 16 hexadecimal digits for the bits of all elements; None at "stats".
        where: the first tensor in a part whose norm is not finite; None if there is none, or for a field.
    """

    text: str
    low: float | None
    high: float | None
    mean: float | None
    norm: float | None
    fingerprint: str | None = None
    where: str | None = None

    @property
    def is_finite(self) -> bool:
        """Whether no element is NaN or infinite. (Elements beyond 1e19 give an infinite norm in float32 as well.)"""
        return all(math.isfinite(number) for number in (self.low, self.high, self.norm) if number is not None)

    def __str__(self) -> str:
        told = [f"{self.text} #{self.fingerprint[:8]}" if self.fingerprint else self.text]
        if self.low is not None and self.high is not None:
            told.append(f"{self.low:.4g} to {self.high:.4g}")
        named = (("mean", self.mean), ("norm", self.norm))
        told += [f"{name} {value:.4g}" for name, value in named if value is not None]
        return ", ".join(told + ([f"{self.where} is not finite"] if self.where else []))


class Measured(NamedTuple):
    """Numbers of tensors that may be on a device still.

    Attributes:
        bits: int64: of a field low, high, mean and norm as float64, of a part each tensor's norm; then the digests.
        names: of the tensors of a part; None for a field.
        sizes: how many elements the tensors have, where there are digests.
    """

    bits: Tensor
    names: Sequence[str] | None
    sizes: Sequence[int] | None

    def read(self, bits: Sequence[int]) -> list[Any]:
        """What comes after the text in a `Summary`, from `bits` on the CPU."""
        count = 4 if self.names is None else len(self.names)
        numbers = list(struct.unpack(f"{count}d", struct.pack(f"{count}q", *bits[:count])))
        sizes = self.sizes
        fingerprint = None if sizes is None else combined(zip(bits[count:], sizes, strict=True))
        if self.names is None:
            return [*numbers, fingerprint, None]
        where = next((name for name, n in zip(self.names, numbers, strict=True) if not math.isfinite(n)), None)
        return [None, None, None, math.hypot(*numbers), fingerprint, where]


def measured_field(value: Tensor, *, fingerprint: bool) -> Measured | None:
    """Statistics of one tensor; None if it has no elements to read."""
    if not value.numel() or value.is_meta:
        return None
    with torch.no_grad():
        numbers = _real(value.detach())
        low, high = torch.aminmax(numbers)
        found = torch.stack([low, high, numbers.mean(), torch.linalg.vector_norm(numbers)]).double().view(torch.int64)
        if not fingerprint:
            return Measured(found, None, None)
        return Measured(torch.cat([found, digest(value).view(1)]), None, [value.numel()])


def measured_part(names: Sequence[str], tensors: Sequence[Tensor], *, fingerprint: bool) -> Measured:
    """Statistics of all tensors in a part, of which there is at least one."""
    with torch.no_grad():
        device, kinds = tensors[0].device, {(each.device, each.dtype) for each in tensors}
        if len(kinds) == 1 and tensors[0].dtype in _SUMMED:
            norms = list(torch._foreach_norm([each.detach() for each in tensors]))  # in one go
        else:
            norms = [torch.linalg.vector_norm(_real(each.detach())).to(device, torch.float64) for each in tensors]
        found = torch.stack(norms).to(torch.float64).view(torch.int64)
        if not fingerprint:
            return Measured(found, names, None)
        digests = torch.stack([digest(each).to(device) for each in tensors])
        return Measured(torch.cat([found, digests]), names, [each.numel() for each in tensors])


def _real(tensor: Tensor) -> Tensor:
    """Elements that can be added up: float32 or float64."""
    if tensor.is_complex():
        return tensor.abs()
    if tensor.dtype in _SUMMED:
        return tensor
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.float64)
