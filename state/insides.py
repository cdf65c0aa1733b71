"""Insides: what is in a part of a component, or in a field, by dotted name: the tensors and the plain values."""

import enum
from collections.abc import Hashable, Iterable, Mapping
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from state.contents import contents

_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device})
_BELOW = ("_modules", "_parameters", "_buffers")  # where a module has what it holds
_SCALER = ("_scale", "_growth_tracker", "_growth_factor", "_backoff_factor", "_growth_interval")


COLLECTIONS = (tuple, list, Mapping)
"""What a field may hold tensors in."""


class Inside(NamedTuple):
    """Names, and for each a tensor as it is, or a plain value that no one else can change. No name is "the value"."""

    names: list[str]
    values: list[Any]


class Tree:
    """The insides of a module as they stood when it was made; `is_current` says whether they stand so still.

    Tied parameters have every name that leads to them.
    """

    __slots__ = ("root", "params", "buffers", "_modules", "_below", "_mode")

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        named = {f"{name}." if name else "": module for name, module in root.named_modules()}
        self._modules = list(named.values())
        self._below = self._found()
        self.params = _owned((prefix, module._parameters) for prefix, module in named.items())
        self.buffers = _owned((prefix, module._buffers) for prefix, module in named.items())
        flags = [f"{prefix}training" for prefix in named]
        self._mode = flags + [f"{name}.requires_grad" for name in self.params.names]

    def is_current(self) -> bool:
        """Whether submodules, parameters and buffers are the same objects. No more reading of names than needed."""
        pairs = zip(self._found(), self._below, strict=True)
        return all(len(now) == len(then) and all(map(is_, now, then)) for now, then in pairs)

    def part(self, name: str) -> Inside:
        """What is in the part of this name, if the tree is current."""
        return getattr(self, name) if name in ("params", "buffers") else getattr(self, name)()

    def grads(self) -> Inside:
        """The gradients of the parameters; None where there is none."""
        return Inside(self.params.names, [each.grad if each.is_leaf else None for each in self.params.values])

    def mode(self) -> Inside | None:
        """The training flag of each submodule, and requires_grad of each parameter; None if the names are not right."""
        flags = [module.training for module in self._modules]
        for module in self._modules:
            flags += [each.requires_grad for each in module._parameters.values() if each is not None]
        return Inside(self._mode, flags) if len(flags) == len(self._mode) else None

    def _found(self) -> list[list[Any]]:
        modules = self._modules
        return [[each for module in modules for each in module.__dict__[kind].values()] for kind in _BELOW]


def hyper(optimizer: Optimizer) -> Inside:
    """What the parameter groups hold, one value per group where there are several; of parameters the identities."""
    groups = [
        {
            name: value if type(value) in _ATOMS else _ids(value) if name == "params" else frozen(value)
            for name, value in group.items()
        }
        for group in optimizer.param_groups
    ]
    if len(groups) == 1:
        return Inside(list(groups[0]), list(groups[0].values()))
    names = list(dict.fromkeys(name for group in groups for name in group))
    return Inside(names, [tuple(group.get(name) for group in groups) for name in names])


def optimizer_state(optimizer: Optimizer, names: Mapping[int, str]) -> Inside:
    """What the optimizer keeps for each parameter, by the name in `names` (by identity), else by its number."""
    found = Inside([], [])
    for index, (owner, entry) in enumerate(optimizer.state.items()):
        _gather(entry, owner if isinstance(owner, str) else names.get(id(owner), str(index)), found)
    return found


def stateful(component: Any) -> Inside | None:
    """What `state_dict` gives. None if it raises, or if a gradient scaler was not used yet.

    Metrics of torchmetrics leave their sums out of `state_dict`, and scalers on an accelerator wait for it: of those the
    tensors themselves.
    """
    found = Inside([], [])
    try:
        if isinstance(component, nn.Module):
            for prefix, module in component.named_modules():
                own = {name: getattr(module, name) for name in getattr(module, "_defaults", ())}
                _gather({**own, **module._parameters, **module._buffers}, prefix, found)
        elif isinstance(component, torch.amp.GradScaler):
            if component._scale is None:
                return None
            _gather({name: getattr(component, name) for name in _SCALER}, "", found)
        else:
            _gather(component.state_dict(), "", found)
    except Exception:  # of foreign code: it does not support this, or not now
        return None
    return found


def collection(value: Any) -> Inside | None:
    """A tensor, or what a tuple, list or mapping with tensors holds at any depth; None if there are no tensors."""
    if isinstance(value, Tensor):
        return Inside([""], [value])
    if value and _ATOMS.issuperset(map(type, value.values() if isinstance(value, Mapping) else value)):
        return None
    found = Inside([], [])
    try:
        _gather(value, "", found)
    except RecursionError:  # it holds itself
        return None
    return found if not value or any(isinstance(each, Tensor) for each in found.values) else None


def frozen(value: Any) -> Any:
    """A plain value as nobody can change it, and so that it can be compared with another one by ==.

    Tensors are read on the CPU only: elsewhere that would be a device sync. Of objects that have no equality of their
    own only the type counts.
    """
    kind = type(value)
    if kind in _ATOMS or isinstance(value, enum.Enum):
        return value
    if isinstance(value, Tensor):
        bits = contents([value])[0] if value.is_cpu else None
        return (value.dtype, str(value.device), bits or (id(value), value._version))
    if isinstance(value, tuple | list):
        return tuple(map(frozen, value))
    if isinstance(value, Mapping):
        return tuple((frozen(key), frozen(below)) for key, below in value.items())
    if isinstance(value, set | frozenset):
        return frozenset(value)
    if kind.__module__ == "numpy":
        return (str(value.dtype), value.shape, value.tobytes())
    return value if isinstance(value, Hashable) and kind.__eq__ is not object.__eq__ else f"a {kind.__qualname__}"


def _owned(holders: Iterable[tuple[str, Mapping[str, Tensor | None]]]) -> Inside:
    found = {f"{prefix}{name}": each for prefix, held in holders for name, each in held.items() if each is not None}
    return Inside(list(found), list(found.values()))


def _gather(value: Any, name: str, found: Inside) -> None:
    """Add what is in `value` to `found`, below `name`."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            _gather(below, f"{name}.{key}" if name else str(key), found)
    elif isinstance(value, tuple | list) and not _ATOMS.issuperset(map(type, value)):
        for index, below in enumerate(value):
            _gather(below, f"{name}.{index}" if name else str(index), found)
    else:
        found.names.append(name)
        found.values.append(value if isinstance(value, Tensor) else frozen(value))


def _ids(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    return tuple(map(id, tensors))
