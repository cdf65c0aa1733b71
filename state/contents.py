"""Contents: what tells apart tensors and the bits in them."""

from collections.abc import Callable, Iterable
from ctypes import string_at
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

FEW = 65_536
"""The number of bytes up to which a tensor's contents are kept as they are. Of longer ones a digest is kept."""

SLICE = 16_384
"""The number of bytes that are read in a turn where there are more than FEW."""

_ROW = 2_048  # lanes of 64 bits: what stays in a core's cache while its columns are added up
_DIRECT = 8_192  # so many lanes are weighted one by one
_ROWS = 256  # that are taken at a time, so that what is made of them is small
_ODD = -0x61C8864680B583EB  # 2**64 over the golden ratio, as int64
_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))  # Steele et al. 2014


class Seen(NamedTuple):
    """What a look keeps of a tensor: which one it is, what it is besides its values, and what tells those apart.

    Attributes:
        identity: of the object.
        memory: the data pointer; None if there is none.
        version: the version counter; None if there is none.
        form: dtype, shape and device.
        bits: what tells its contents apart, if they were read: see `Eye.read`.
        turn: the number of the slice that they are of; None if they are of all of it.
    """

    identity: int
    memory: int | None
    version: int | None
    form: tuple[Any, ...]
    bits: bytes | bytearray | None
    turn: int | None = None


class Eye:
    """Sees the tensors of one look: each of them once, and those on an accelerator by one transfer at the end.

    Nothing about a tensor changes by being seen.
    """

    __slots__ = ("_known", "_promised", "_reads", "_turn")

    def __init__(self, reads: bool, turn: int | None = None) -> None:
        """With `reads` it also reads what is in them; with `turn` only that slice of those of more than FEW bytes."""
        self._reads = reads
        self._turn = turn
        self._known: dict[int, tuple[Seen, Tensor]] = {}  # with the tensor, lest another one gets its identity
        self._promised: dict[torch.device, list[tuple[bytearray, Tensor]]] = {}

    def see(self, tensor: Tensor) -> Seen:
        """What tells a tensor apart from others and from itself at another time."""
        identity = id(tensor)
        known = self._known.get(identity)
        if known is not None:
            return known[0]
        try:
            memory, turn = tensor.data_ptr(), None
            bits: bytes | bytearray | None = None
            if self._reads:
                size = tensor.nbytes  # what most tensors are is read here, without a call
                is_dense = memory and tensor.is_contiguous() and tensor.untyped_storage().nbytes() >= size
                turn = self._turn if is_dense and size > FEW else None
                start, end = (0, size) if turn is None else slice_at(turn, size)
                if is_dense and tensor.is_cpu and end - start <= FEW:
                    bits = string_at(memory + start, end - start)
                else:
                    bits = self.read(tensor if turn is None else tensor.detach().view(-1).view(torch.uint8)[start:end])
            seen = Seen(identity, memory, tensor._version, (tensor.dtype, tensor.shape, tensor.device), bits, turn)
        except Exception:  # inference tensors have no version, sparse ones no memory, lazy ones no shape
            form = tuple(_asked(tensor, attrgetter(name)) for name in ("dtype", "shape", "device"))
            version = _asked(tensor, attrgetter("_version"))
            bits = self.read(tensor) if self._reads else None
            seen = Seen(identity, _asked(tensor, Tensor.data_ptr), version, form, bits)
        self._known[identity] = (seen, tensor)
        return seen

    def see_copy(self, tensor: Tensor) -> Seen:
        """The same of a tensor that was made for the asking, another one the next time: what is in it counts alone.

        On the CPU it is read in any case.
        """
        seen = self.see(tensor)
        bits = self.read(tensor) if tensor.is_cpu and not self._reads else seen.bits
        return Seen(0, None, None, seen.form, bits, seen.turn)

    def read(self, tensor: Tensor) -> bytes | bytearray | None:
        """What tells tensors of one shape and dtype apart: their bytes if these are few, else the eight of a `digest`.

        Of a tensor on an accelerator they are there after `finish`. None where there are no bytes to view: sparse, on
        the meta device, of a lazy module, without storage, a subclass that holds other tensors.
        """
        try:
            if tensor.is_cpu:
                return bytes_of(_condensed(tensor))
            return None if tensor.is_meta else self._promise(tensor)
        except Exception:  # what a layout or a subclass raises where there is nothing to view
            return None

    def finish(self) -> None:
        """Transfer what was promised."""
        for promises in self._promised.values():
            rest = memoryview(bytes_of(torch.cat([condensed for _, condensed in promises]).cpu()))
            for promised, condensed in promises:
                promised += rest[: len(condensed)]
                rest = rest[len(condensed) :]
        self._promised.clear()

    def _promise(self, tensor: Tensor) -> bytearray:
        condensed, promised = _condensed(tensor), bytearray()
        self._promised.setdefault(tensor.device, []).append((promised, condensed))
        return promised


def slice_at(turn: int, size: int) -> tuple[int, int]:
    """Where the slice begins and ends whose turn it is, of `size` bytes. After the last one comes the first."""
    start = turn % -(-size // SLICE) * SLICE
    return start, min(start + SLICE, size)


def bytes_of(tensor: Tensor) -> bytes:
    """The bytes of a contiguous tensor on the CPU.

    Raises:
        ValueError: there is no memory behind it: its storage was freed, or never was.
    """
    size, memory = tensor.nbytes, tensor.data_ptr()
    if size and not (memory and tensor.untyped_storage().nbytes() >= size):
        raise ValueError("There is no memory behind this tensor.")
    return string_at(memory, size)


def digest(tensor: Tensor) -> Tensor:
    """Sixty-four bits for the contents of a tensor, on its device: a 0-d int64.

    The bytes are taken as lanes of 64 bits. Many of them are laid out in rows, and of the rows and of the columns the
    sums are taken, and once more those of the upper halves, where floats have their signs. Sums, and few lanes, are
    multiplied by odd numbers of their places and added modulo 2**64. So a change of one lane shows, but once in 2**32;
    several go unseen by chance, or where they leave the sum of each row and each column as it was.

    Does not depend on device and strides; what is not contiguous is copied.
    """
    with torch.no_grad():
        data = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
        data = data.clone() if data.storage_offset() % 8 else data
        end = len(data) // 8 * 8
        if end == len(data):
            return _digest(data.view(torch.int64))
        rest = data[end:].to(torch.int64)
        return _digest(torch.cat([_digest(data[:end].view(torch.int64)).view(1), rest, rest.new_tensor([len(rest)])]))


def fingerprint(component: nn.Module) -> str:
    """Sixteen hexadecimal digits for the parameters' contents: their digests, each mixed with size and place.

    One that stands in several places counts in each, so that layers that are tied are no others than equal ones.
    Parameters without contents (of a lazy module, on the meta device) and sparse ones count by their place only.
    """

    def told(parameter: Tensor) -> tuple[int, int]:
        size = -1 if is_lazy(parameter) or parameter.is_meta else parameter.numel()
        return (int(digest(parameter)) if size > 0 and parameter.layout == torch.strided else 0), size

    return combined(told(one) for _, one in component.named_parameters(remove_duplicate=False))


def combined(digests: Iterable[tuple[int, int]]) -> str:
    """Sixteen hexadecimal digits for several tensors in order: the digest and the number of elements of each."""
    total = 0
    for value, size in digests:
        total = ((total ^ value) * _ODD + size + 1) % 2**64
    return f"{total:016x}"


def _condensed(tensor: Tensor) -> Tensor:
    """The bytes of a tensor if these are few, else those of its digest, on its device.

    Raises:
        ValueError: there is no memory behind it.
    """
    if tensor.nbytes and not tensor.untyped_storage().nbytes():
        raise ValueError("There is no memory behind this tensor.")
    with torch.no_grad():
        short = tensor.detach().resolve_conj().resolve_neg() if tensor.nbytes <= FEW else digest(tensor)
        return short.contiguous().view(-1).view(torch.uint8)


def _digest(lanes: Tensor) -> Tensor:
    """The digest of whole numbers."""
    if len(lanes) <= _DIRECT:
        lower, upper = _weights(lanes.device)
        weighted: Tensor = lanes * lower[: len(lanes)] + (lanes >> 32) * upper[: len(lanes)]
        return weighted.sum()
    rows = lanes[: len(lanes) // _ROW * _ROW].view(-1, _ROW)
    columns, ends = rows.new_zeros(2, _ROW), []
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        for column, part in zip(columns, (some, some >> 32), strict=True):
            column += part.sum(0)
            ends.append(part.sum(1))
    return _digest(torch.cat([columns.view(-1), *ends, lanes[rows.numel() :]]))


@cache
def _weights(device: torch.device) -> Tensor:
    """Two rows of odd numbers without a pattern, the same on every device."""
    mixed = torch.arange(1, 2 * _DIRECT + 1, dtype=torch.int64, device="cpu") * _ODD
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> shift)) * factor
    return (mixed | 1).view(2, _DIRECT).to(device)


def _asked(tensor: Tensor, question: Callable[[Tensor], Any]) -> Any:
    try:
        return question(tensor)
    except Exception:
        return None
