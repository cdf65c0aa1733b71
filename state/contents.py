"""Contents: what tells apart the bits in tensors, and the states of the random number generators."""

import random
import sys
from collections.abc import Iterable
from ctypes import string_at
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

FEW = 65_536
"""The number of bytes up to which the contents of a tensor are kept as they are. Longer ones are kept as a digest."""

_ROW = 32_768
_ROWS = {"cpu": 4}  # at a time: what stays in a core's cache; elsewhere few launches count for more
_MANY_ROWS = 512
_ODD = -0x61C8864680B583EB  # 2**64 over the golden ratio, as int64
_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))  # Steele et al. 2014
_MT19937_BYTES = 2_500  # 624 words and a position


def contents(tensors: Iterable[Tensor]) -> list[bytes | None]:
    """For each tensor something that is equal if and only if its bits are, for tensors of one shape and dtype.

    The bytes themselves if they are few, else a digest of 64 bits. Nothing about a tensor changes, and one transfer
    is made per accelerator. None where there are no bytes to view: sparse tensors, tensors on the meta device, of a
    lazy module or without storage, and subclasses that hold other tensors.
    """
    found: list[bytes | None] = []
    remote: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for index, tensor in enumerate(tensors):
        found.append(None)
        try:
            if tensor.is_cpu:
                is_few = tensor.nbytes <= FEW and tensor.is_contiguous()
                found[index] = _read(tensor if is_few else _condensed(tensor))
            elif not tensor.is_meta:
                remote.setdefault(tensor.device, []).append((index, _condensed(tensor)))
        except Exception:  # what a layout or a subclass raises where it has no bytes
            continue
    for pieces in remote.values():
        start, joined = 0, _read(torch.cat([piece for _, piece in pieces]).cpu())
        for index, piece in pieces:
            found[index] = joined[start : start + len(piece)]
            start += len(piece)
    return found


def digest(tensor: Tensor) -> Tensor:
    """Sixty-four bits for the contents of a tensor, on its device: a 0-d int64.

    The bytes are taken as lanes of 32 bits (16 or 8 where their number does not divide), each lane times an odd weight
    of its place, summed modulo 2**64; the sums of rows are summed in the same way. Any change of one lane changes it.
    A change of several, the worst being signs alone, goes unseen once in 2**33. It depends on neither the device nor
    the strides. Differs from a plain weighted sum of 64-bit words, which is blind to pairs of signs of float64.
    """
    with torch.no_grad():
        data = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
        if data.storage_offset() % 4:
            data = data.clone()
        return _digest(data.view({0: torch.int32, 2: torch.int16}.get(len(data) % 4, torch.int8)))


def fingerprint(component: nn.Module) -> str:
    """Sixteen hexadecimal digits for the parameters' contents: their digests, each mixed with size and place.

    Parameters without contents (of a lazy module, on the meta device) and sparse ones count by their place only.
    """
    total = 0
    for parameter in component.parameters():
        size = -1 if is_lazy(parameter) or parameter.is_meta else parameter.numel()
        value = int(digest(parameter)) if size > 0 and parameter.layout == torch.strided else 0
        total = ((total ^ value) * _ODD + size + 1) % 2**64
    return f"{total:016x}"


class Generators:
    """Looks at the random number generators of torch, and of Python and numpy, without drawing from them."""

    __slots__ = ("_gauss", "_numpy")

    def __init__(self) -> None:
        self._numpy: bytes | None = None
        self._gauss: float | None = None

    def look(self, *, contents: bool) -> dict[str, Any]:
        """The states by name: `torch`, `cuda:0`, ... if CUDA is in use; with `contents` also `python`, and `numpy` if
        it is in use.
        """
        found: dict[str, Any] = {"torch": _read(torch.get_rng_state())}
        if torch.cuda.is_initialized():
            for index, generator in enumerate(torch.cuda.default_generators):
                found[f"cuda:{index}"] = _read(generator.get_state())
        if contents:
            found["python"] = random.getstate()
            numpy = sys.modules.get("numpy.random")
            if numpy is not None:
                found["numpy"] = self._look_at_numpy(numpy)
        return found

    def _look_at_numpy(self, numpy: Any) -> tuple[bytes, float | None]:
        """The words of the generator and the second of a pair of Gaussian numbers, if that is waiting to be drawn.

        Asking for the second is slow, so it is done only if the words moved, or if there was one.
        """
        generator = numpy.get_bit_generator()
        if type(generator).__name__ != "MT19937":
            return repr(generator.state).encode(), None
        words = string_at(generator.ctypes.state_address, _MT19937_BYTES)
        if words != self._numpy or self._gauss is not None:
            state = numpy.get_state(legacy=False)
            self._numpy, self._gauss = words, state["gauss"] if state["has_gauss"] else None
        return words, self._gauss


def _read(tensor: Tensor) -> bytes:
    """The bytes of a contiguous tensor on the CPU."""
    size, place = tensor.nbytes, tensor.data_ptr()
    if size and not (place and tensor.untyped_storage().nbytes() >= size):
        raise ValueError("its storage was freed, or never was")
    return string_at(place, size)


def _condensed(tensor: Tensor) -> Tensor:
    """The bytes of a tensor if these are few, else those of its digest."""
    short = tensor.detach().resolve_conj().resolve_neg() if tensor.nbytes <= FEW else digest(tensor)
    return short.contiguous().view(-1).view(torch.uint8)


def _digest(lanes: Tensor) -> Tensor:
    """The digest of integers: the sum of rows of them, and of what remains, are integers again."""
    device, weights = lanes.device, _weights(lanes.device)
    if len(lanes) <= _ROW:
        return (lanes * weights[: len(lanes)]).sum()
    rows = lanes[: len(lanes) // _ROW * _ROW].view(-1, _ROW)
    sums = torch.empty(len(rows) + 1, dtype=torch.int64, device=device)
    step = min(len(rows), _ROWS.get(device.type, _MANY_ROWS))
    products = torch.empty(step, _ROW, dtype=torch.int64, device=device)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        torch.mul(some, weights, out=products[: len(some)])
        torch.sum(products[: len(some)], 1, out=sums[start : start + len(some)])
    sums[-1] = _digest(lanes[rows.numel() :])
    return _digest(sums.view(torch.int32))


@cache
def _weights(device: torch.device) -> Tensor:
    """Odd numbers without a pattern, the same on every device."""
    mixed = torch.arange(1, _ROW + 1, dtype=torch.int64, device="cpu") * _ODD
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> shift)) * factor
    return (mixed | 1).to(device)
