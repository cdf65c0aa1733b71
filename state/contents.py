"""Contents: what tells apart the bits in tensors, and the states of the random number generators."""

import random
import sys
from ctypes import string_at
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

FEW = 65_536
"""The number of bytes up to which a tensor's contents are kept as they are. Of longer ones a digest is kept."""

_ROW = 32_768
_ROWS = {"cpu": 4}  # at a time: what stays in a core's cache; elsewhere few launches count for more
_MANY_ROWS = 512
_ODD = -0x61C8864680B583EB  # 2**64 over the golden ratio, as int64
_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))  # Steele et al. 2014
_MT19937_BYTES = 2_500  # 624 words and a position


class Reader:
    """Reads tensors for one look: those on the CPU at once, all those of an accelerator in one transfer at the end."""

    __slots__ = ("_promised",)

    def __init__(self) -> None:
        self._promised: dict[torch.device, list[tuple[bytearray, Tensor]]] = {}

    def read(self, tensor: Tensor) -> bytes | bytearray | None:
        """What tells tensors of one shape and dtype apart: their bytes if these are few, else the eight of a `digest`.

        Of a tensor on an accelerator they are there after `finish`. Nothing about the tensor changes. None where there
        are no bytes to view: sparse, on the meta device, of a lazy module, without storage, a subclass that holds other
        tensors.
        """
        try:
            if tensor.is_cpu:
                size = tensor.nbytes
                is_short = size <= FEW and tensor.is_contiguous()
                return _bytes(tensor, size) if is_short else _bytes(_condensed(tensor))
            return None if tensor.is_meta else self._promise(tensor)
        except Exception:  # what a layout or a subclass raises where there is nothing to view
            return None

    def _promise(self, tensor: Tensor) -> bytearray:
        condensed, promised = _condensed(tensor), bytearray()
        self._promised.setdefault(tensor.device, []).append((promised, condensed))
        return promised

    def finish(self) -> None:
        """Transfer what was promised."""
        for promises in self._promised.values():
            rest = memoryview(_bytes(torch.cat([condensed for _, condensed in promises]).cpu()))
            for promised, condensed in promises:
                promised += rest[: len(condensed)]
                rest = rest[len(condensed) :]
        self._promised.clear()


def digest(tensor: Tensor) -> Tensor:
    """Sixty-four bits for the contents of a tensor, on its device: a 0-d int64.

    The bytes are taken as lanes of 32 bits (16 or 8 where their number does not divide). Each is multiplied by an odd
    number of its place, and the products of a row are summed modulo 2**64; then the same with the sums of the rows. So
    a change of one lane in one row always shows. Others go unseen by chance, at worst once in 2**33, where only signs
    of floats change. (Weighted words of 64 bits would be blind to any two signs of float64.)

    Does not depend on device and strides; what is not contiguous is copied.
    """
    with torch.no_grad():
        data = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
        data = data.clone() if data.storage_offset() % 4 else data
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
    """The random number generators of torch, Python and numpy, looked at without drawing from them."""

    __slots__ = ("_spare", "_words")

    def __init__(self) -> None:
        self._words = b""
        self._spare: float | None = None

    def look(self, *, contents: bool) -> dict[str, Any]:
        """The states by name: `torch`; `cuda:0` and so on if CUDA is in use; with `contents` also `python`, and
        `numpy` if it is in use.
        """
        found: dict[str, Any] = {"torch": _bytes(torch.get_rng_state())}
        for index, generator in enumerate(torch.cuda.default_generators):  # none until CUDA is in use
            found[f"cuda:{index}"] = _bytes(generator.get_state())
        if contents:
            found["python"] = hash(random.getstate())  # of 625 numbers
            numpy = sys.modules.get("numpy.random")
            if numpy is not None:
                found["numpy"] = self._look_at_numpy(numpy)
        return found

    def _look_at_numpy(self, numpy: Any) -> tuple[bytes, float | None]:
        """The words of the generator, and the spare one of two Gaussian numbers that are drawn together.

        Asking for the spare one is slow, and it is needed only if the words moved or there was one.
        """
        generator = numpy.get_bit_generator()
        if type(generator).__name__ != "MT19937":
            return str(generator.state).encode(), None
        words = string_at(generator.ctypes.state_address, _MT19937_BYTES)
        if words != self._words or self._spare is not None:
            state = numpy.get_state(legacy=False)
            self._words, self._spare = words, state["gauss"] if state["has_gauss"] else None
        return words, self._spare


def _bytes(tensor: Tensor, size: int | None = None) -> bytes:
    """The bytes of a contiguous tensor on the CPU.

    Raises:
        ValueError: there is no memory behind it.
    """
    size = tensor.nbytes if size is None else size
    place = tensor.data_ptr()
    if size and not (place and tensor.untyped_storage().nbytes() >= size):
        raise ValueError("its storage was freed, or never was")
    return string_at(place, size)


def _condensed(tensor: Tensor) -> Tensor:
    """The bytes of a tensor if these are few, else those of its digest, on its device."""
    with torch.no_grad():
        short = tensor.detach().resolve_conj().resolve_neg() if tensor.nbytes <= FEW else digest(tensor)
        return short.contiguous().view(-1).view(torch.uint8)


def _digest(lanes: Tensor) -> Tensor:
    """The digest of whole numbers: that of the sums of rows and of what remains, if they are more than one row."""
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
