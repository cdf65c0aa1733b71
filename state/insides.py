"""Insides: what is in a part of a component, or in a field, by dotted name: the tensors and the plain values."""

import enum
from collections.abc import Hashable, Iterable, Mapping
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from state.contents import Eye
from state.parts import optimized

COLLECTIONS = (dict, tuple, list, Mapping)
"""What a field may hold tensors in."""

_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device})
_MOST = 1_000
_SCALER = ("_scale", "_growth_tracker", "_growth_factor", "_backoff_factor", "_growth_interval")


class Inside(NamedTuple):
    """Names, and for each a tensor or a plain value that nobody else can change. An empty name: the field itself."""

    names: list[str]
    values: list[Any]


class Tree:
    """The submodules, parameters and buffers of a module when it was made; `is_current` tells whether they still are.

    A parameter that several modules hold stands there under each name.

    Attributes:
        root: the module.
        modules: it and its submodules.
        params: the parameters by dotted name.
        buffers: the buffers by dotted name.
    """

    __slots__ = ("root", "modules", "params", "buffers", "_below", "_modes")

    def __init__(self, root: nn.Module) -> None:
        named = {f"{name}." if name else "": module for name, module in root.named_modules()}
        self.root = root
        self.modules = list(named.values())
        self.params = _owned((prefix, module._parameters) for prefix, module in named.items())
        self.buffers = _owned((prefix, module._buffers) for prefix, module in named.items())
        flags = [f"{prefix}training" for prefix in named]
        self._modes = flags + [f"{name}.requires_grad" for name in self.params.names]
        self._below = self._found()

    def is_current(self) -> bool:
        """Whether the module and all below it hold the same objects as then."""
        now, then = self._found(), self._below
        return len(now) == len(then) and all(map(is_, now, then))

    def part(self, name: str) -> Inside:
        """What is in `params`, `buffers` or `grads`."""
        return self.params if name == "params" else self.buffers if name == "buffers" else self.grads()

    def grads(self) -> Inside:
        """The gradients of the parameters; None where there is none."""
        return Inside(self.params.names, [each.grad if each.is_leaf else None for each in self.params.values])

    def flags(self) -> list[bool]:
        """The training flag of each submodule, then requires_grad of each parameter."""
        flags = [module.training for module in self.modules]
        return flags + [parameter.requires_grad for parameter in self.params.values]

    def mode(self) -> Inside:
        """The flags by name: `0.training`, `0.weight.requires_grad`."""
        return Inside(self._modes, self.flags())

    def _found(self) -> list[Any]:
        found: list[Any] = []
        for module in self.modules:
            found += module._modules.values()
            found += module._parameters.values()
            found.append(None)  # so that nothing moves from one kind to the next unseen
            found += module._buffers.values()
        return found


def hyper(optimizer: Optimizer) -> Inside:
    """What the parameter groups hold, one value for each where they are several; of parameters their identities."""
    groups = [
        {
            name: value if type(value) in _ATOMS else tuple(map(id, value)) if name == "params" else frozen(value)
            for name, value in group.items()
        }
        for group in optimizer.param_groups
    ]
    if len(groups) == 1:
        return Inside(list(groups[0]), list(groups[0].values()))
    names = list(dict.fromkeys(name for group in groups for name in group))
    return Inside(names, [tuple(group.get(name) for group in groups) for name in names])


def is_fixed(optimizer: Optimizer) -> bool:
    """Whether no hyper-parameter can change in place, as lists and tensors can."""
    values = [value for group in optimizer.param_groups for name, value in group.items() if name != "params"]
    return all(type(value) in _ATOMS or (isinstance(value, tuple) and _is_flat(value)) for value in values)


def optimizer_state(optimizer: Optimizer) -> Inside:
    """What the optimizer keeps for each parameter, by the parameter's number: `0.exp_avg`."""
    found = Inside([], [])
    numbers = {id(owner): str(number) for number, owner in enumerate(optimized(optimizer))}
    for index, (owner, kept) in enumerate(optimizer.state.items()):
        name = owner if isinstance(owner, str) else numbers.get(id(owner), f"other{index}")
        _gather(kept, name, found)
    return found


def stateful(component: Any) -> Inside | None:
    """What `state_dict` gives. None if it raises, or if a gradient scaler was not used yet.

    Metrics of torchmetrics leave their sums out of `state_dict`, and scalers on an accelerator wait for it: of these it
    is the tensors themselves.
    """
    found = Inside([], [])
    try:
        if isinstance(component, nn.Module):
            for name, module in component.named_modules():
                sums = {key: getattr(module, key) for key in getattr(module, "_defaults", ())}
                _gather({**sums, **module._parameters, **module._buffers}, name, found)
        elif isinstance(component, torch.amp.GradScaler):
            if component._scale is None:
                return None
            _gather({name: getattr(component, name) for name in _SCALER}, "", found)
        else:
            _gather(component.state_dict(), "", found)
    except Exception:  # of foreign code: it does not support this, or not now
        return None
    return found


def in_field(value: Any) -> Inside | None:
    """A tensor, or what a tuple, list or mapping with tensors holds at any depth.

    None if there are no tensors, or more than a thousand entries: that is no batch, and reading it would take long.
    """
    if isinstance(value, Tensor):
        return Inside(["", "requires_grad"], [value, value.requires_grad])
    found = Inside([], [])
    try:
        kinds = set(map(type, value.values() if isinstance(value, Mapping) else value))
        if len(value) > _MOST or (kinds and not any(issubclass(kind, (Tensor, *COLLECTIONS)) for kind in kinds)):
            return None
        _gather(value, "", found)
    except Exception:  # it holds itself, or a mapping of somebody's cannot be read now
        return None
    return found if not kinds or any(isinstance(each, Tensor) for each in found.values) else None


def frozen(value: Any) -> Any:
    """A plain value as nobody can change it, fit to be compared by ==.

    Tensors are read on the CPU only: elsewhere that would be a device sync. Of objects without an equality of their own
    only the type counts.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, tuple | list):
        return tuple(value if _is_flat(value) else map(frozen, value))
    if isinstance(value, Tensor):
        bits = Eye(reads=True).read(value) if value.is_cpu else None
        return (value.dtype, str(value.device), (id(value), value._version) if bits is None else bits)
    if isinstance(value, Mapping):
        return tuple((frozen(key), frozen(below)) for key, below in value.items())
    if isinstance(value, set | frozenset):
        return frozenset(value)
    if kind.__module__ == "numpy" and hasattr(value, "tobytes"):
        return (str(value.dtype), value.shape, value.tobytes())
    has_equality = isinstance(value, enum.Enum) or any("__eq__" in vars(each) for each in kind.__mro__[:-1])
    return value if has_equality and isinstance(value, Hashable) else f"a {kind.__qualname__}"


def _is_flat(value: Iterable[Any]) -> bool:
    return _ATOMS.issuperset(map(type, value))


def _owned(holders: Iterable[tuple[str, Mapping[str, Tensor | None]]]) -> Inside:
    found = {f"{prefix}{name}": each for prefix, held in holders for name, each in held.items() if each is not None}
    return Inside(list(found), list(found.values()))


def _gather(value: Any, name: str, found: Inside) -> None:
    """Add to `found` what is in `value`, below `name`."""
    if isinstance(value, Mapping):
        below: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, tuple | list) and not _is_flat(value):
        below = enumerate(value)
    else:
        found.names.append(name)
        found.values.append(value if isinstance(value, Tensor) else frozen(value))
        return
    prefix = f"{name}." if name else ""
    for key, each in below:
        if isinstance(each, Tensor):  # the common case, without a call
            found.names.append(f"{prefix}{key}")
            found.values.append(each)
        else:
            _gather(each, f"{prefix}{key}", found)
