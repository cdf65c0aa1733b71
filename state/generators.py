"""Generators: the states of the random number generators, looked at without drawing from them."""

import random
import struct
import sys
from ctypes import string_at
from typing import Any

import torch

from state.contents import bytes_of

_PYTHON: Any = random.getstate.__self__  # type: ignore[attr-defined]  # the generator behind the functions of `random`
_TWISTER = 2_500  # bytes of a Mersenne Twister: 624 words and a position


class Generators:
    """The random number generators of torch, Python and numpy, looked at without drawing from them."""

    __slots__ = ("_python", "_spare", "_words")

    def __init__(self) -> None:
        self._python = _words_of_python()
        self._words = b""
        self._spare: float | None = None

    def look(self, *, contents: bool) -> dict[str, Any]:
        """The states by name: `torch`, and each `cuda:0` if CUDA is in use.

        Args:
            contents: whether `python` is looked at as well, and `numpy` if it is in use.
        """
        found: dict[str, Any] = {"torch": bytes_of(torch.get_rng_state())}
        for index, generator in enumerate(torch.cuda.default_generators):  # none until CUDA is in use
            found[f"cuda:{index}"] = bytes_of(generator.get_state())
        if contents:
            found["python"] = self._look_at_python()
            numpy = sys.modules.get("numpy.random")
            if numpy is not None:
                found["numpy"] = self._look_at_numpy(numpy)
        return found

    def _look_at_python(self) -> object:
        """The words of the generator behind the functions of `random`, and the spare one of two Gaussian numbers."""
        if self._python is None:
            return hash(random.getstate())
        return string_at(self._python, _TWISTER), _PYTHON.gauss_next

    def _look_at_numpy(self, numpy: Any) -> tuple[bytes, float | None]:
        """The same of numpy. Asking for the spare one is slow, and needed only if the words moved or there was one."""
        generator: Any = numpy.get_bit_generator() if hasattr(numpy, "get_bit_generator") else None
        if type(generator).__name__ != "MT19937":  # set by somebody, or numpy is older than 1.24
            return str(numpy.get_state(legacy=False)).encode(), None
        words = string_at(generator.ctypes.state_address, _TWISTER)
        if words != self._words or self._spare is not None:
            state = numpy.get_state(legacy=False)
            self._words, self._spare = words, state["gauss"] if state["has_gauss"] else None
        return words, self._spare


def _words_of_python() -> int | None:
    """Where the words of Python's generator are: asking for them makes 625 objects each time.

    CPython has them right behind the head of the object. None if they are not found there.
    """
    head = object.__basicsize__
    if sys.implementation.name != "cpython" or type(_PYTHON).__basicsize__ < head + _TWISTER:
        return None
    position, *words = struct.unpack("i624I", string_at(id(_PYTHON) + head, _TWISTER))
    return id(_PYTHON) + head if (*words, position) == random.getstate()[1] else None
