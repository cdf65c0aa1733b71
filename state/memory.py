"""Memory: room for copies of tensors, kept from one copy to the next."""

import mmap
import os
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor

_LINE = 64  # bytes: a tensor begins where a line of the cache does
_HUGE = 2 * 2**20


class Memory:
    """One piece of memory, which grows with what it has to hold and is given out again and again.

    What a first copy costs is mostly the system's work of finding pages and clearing them. Of huge pages, where the
    system has them, it finds 512 at once.
    """

    def __init__(self) -> None:
        self._whole: mmap.mmap | None = None

    def like(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """For each of these dense tensors one of its shape and dtype on the CPU, contiguous, with any content.

        What was given out before is given out again: nobody may need it any more.
        """
        tensors = list(tensors)
        begins, size = [], 0
        for tensor in tensors:
            begins.append(size)
            size += -(-tensor.numel() * tensor.itemsize // _LINE) * _LINE
        if self._whole is None or len(self._whole) < size + _HUGE:
            self._whole = None  # given back first, if nobody holds tensors in it
            self._whole = _mapped(size + _HUGE)
        first = -torch.frombuffer(self._whole, dtype=torch.uint8).data_ptr() % _HUGE
        return [
            torch.frombuffer(self._whole, dtype=one.dtype, count=one.numel(), offset=first + begin).view(one.shape)
            if one.numel()
            else torch.empty(one.shape, dtype=one.dtype, device="cpu")
            for one, begin in zip(tensors, begins, strict=True)
        ]


def _mapped(size: int) -> mmap.mmap:
    if os.name == "nt":
        return mmap.mmap(-1, size)
    whole = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # not every system has huge pages
        whole.madvise(mmap.MADV_HUGEPAGE)
    return whole
