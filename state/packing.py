"""Packing: values of State as plain JSON and named tensors, and back, without running any code that a file names."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from state.errors import SnapshotError

_PLAIN = (bool, int, float, str, type(None))
_KINDS: dict[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict, "ordered": OrderedDict}


class Packer:
    """Takes values apart: what is plain stays as it is, tensors go into `tensors` under the path of where they stood.

    A list stays a list. All else is a mapping whose first key says what it is: {"tensor": path}, {"moved": path} for
    one on an accelerator, {"array": path} for one of numpy, {"ints": path} for a long tuple of int, {"tuple": [...]},
    {"dict": [[key, value], ...]}. Where two values stand under one path, as those of the keys 1 and "1", the second has
    a "'" more.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def pack(self, value: Any, path: str) -> Any:
        """`value` as JSON can hold it.

        Raises:
            SnapshotError: it is none of these, naming the path and the class.
        """
        kind = type(value)
        if kind in _PLAIN:
            return value
        if isinstance(value, Tensor):
            return {"tensor" if value.is_cpu else "moved": self._keep(value.detach(), path)}
        if kind is list:
            return [self.pack(each, f"{path}.{number}") for number, each in enumerate(value)]
        if isinstance(value, Enum):
            return self.pack(value.value, path)
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind is deque:
            return {"deque": [self.pack(each, f"{path}.{n}") for n, each in enumerate(value)], "maxlen": value.maxlen}
        if kind is tuple and _is_row_of_ints(value):
            return {"ints": self._keep(torch.tensor(value, dtype=torch.int64, device="cpu"), path)}
        if isinstance(value, torch.Size):
            return {"size": list(value)}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if kind is Counter:
            return {"counter": self._pairs(value, path)}
        for word, container in _KINDS.items():
            if kind is container:
                is_mapping = issubclass(container, dict)
                return {word: self._pairs(value, path) if is_mapping else self.pack(_ordered(value), path)}
        return self._foreign(value, path)

    def _keep(self, tensor: Tensor, path: str) -> str:
        """Note a tensor; the path that it has."""
        while path in self.tensors:
            path += "'"
        self.tensors[path] = tensor
        return path

    def _pairs(self, value: Mapping[Any, Any], path: str) -> list[Any]:
        return [[self.pack(key, f"{path}.key"), self.pack(each, f"{path}.{key}")] for key, each in value.items()]

    def _foreign(self, value: Any, path: str) -> Any:
        """What numpy makes: its numbers and its arrays."""
        if hasattr(value, "dtype") and hasattr(value, "item"):
            if not getattr(value, "shape", None):
                return self.pack(value.item(), path)
            try:
                return {"array": self._keep(torch.from_numpy(value.copy()), path)}
            except TypeError as error:
                raise SnapshotError(f"{path!r} holds an array that a checkpoint cannot hold: {error}") from None
        told = "Give its field saved='volatile' with a reason, or its class `state_dict` and `load_state_dict`."
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise SnapshotError(f"{path!r} holds a {kind}, which a checkpoint cannot hold. {told}")


def unpack(packed: Any, tensors: Mapping[str, Tensor], device: torch.device | None = None) -> Any:
    """The value behind what `Packer.pack` gave, its tensors copied; what was on an accelerator comes to `device`.

    Raises:
        SnapshotError: it is not what that gives.
    """
    if isinstance(packed, list):
        return [unpack(each, tensors, device) for each in packed]
    if not isinstance(packed, dict):
        return packed
    try:
        (word, inner), *_ = packed.items()
        if word in ("tensor", "moved", "array"):
            found = tensors[inner]
            return found.numpy().copy() if word == "array" else found.to(device if word == "moved" else None, copy=True)
        if word == "ints":
            return tuple(tensors[inner].tolist())
        if word in _PAIRS:
            pairs = [(unpack(key, tensors, device), unpack(value, tensors, device)) for key, value in inner]
            return _PAIRS[word](pairs)
        if word == "bytes":
            return bytes.fromhex(inner)
        if word == "complex":
            return complex(*inner)
        if word == "dtype":
            found_type: torch.dtype = {str(one): one for one in _DTYPES}[f"torch.{inner}"]
            return found_type
        made = unpack(inner, tensors, device)
        return deque(made, packed["maxlen"]) if word == "deque" else _LISTS[word](made)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        raise SnapshotError(f"A checkpoint holds {str(packed)[:80]!r}, which stands for no value.") from None


_DTYPES = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
_LISTS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "size": torch.Size,
}
_PAIRS: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "dict": dict,
    "ordered": OrderedDict,
    "counter": lambda pairs: Counter(dict(pairs)),
}


def _is_row_of_ints(value: tuple[Any, ...]) -> bool:
    """Whether it is better off as a tensor, as the state of Python's generator is."""
    return len(value) >= 100 and {*map(type, value)} == {int} and -(2**63) <= min(value) <= max(value) < 2**63


def _ordered(value: Any) -> list[Any]:
    """The members of a set in an order that is the same in every process, if they have one."""
    if isinstance(value, tuple):
        return list(value)
    try:
        return sorted(value)
    except TypeError:
        return list(value)
