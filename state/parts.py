"""Parts of a component: what of an object in State can change in place, by the type of the object."""

from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

RNG = "rng"
"""The random number generators (torch, numpy, Python): a component of every State."""

_PLAIN_TYPES = (bool, int, float, complex, str, bytes, type(None), list, tuple, dict)
_MODULE = ("params", "grads", "buffers", "mode")
_OPTIMIZER = ("state", "hyper")
_STATEFUL = ("state",)
PARTS = (*_MODULE, *_OPTIMIZER)
"""The parts that any component may have."""

_METRIC = ("update", "compute", "reset")  # what a module has that counts, as the metrics of torchmetrics
_OWN_KEYS = ("params", "param_names")  # of a parameter group: all else is a hyper-parameter


def parts_of(kind: Any) -> tuple[str, ...]:
    """The parts of objects of type `kind`; none for plain values.

    `params`, `grads`, `buffers` and `mode` (train/eval and requires_grad flags) of a module; `state` and `hyper`
    (scalars of the parameter groups) of an optimizer; `state` of anything else that has `state_dict` and
    `load_state_dict`, and of a module with `update`, `compute` and `reset`: a metric, or a collection of metrics.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType, Annotated):
        members = get_args(kind)[:1] if origin is Annotated else get_args(kind)
        return tuple(dict.fromkeys(part for member in members for part in parts_of(member)))
    if not isinstance(kind, type):
        return ()
    if issubclass(kind, nn.Module):
        return _STATEFUL if all(hasattr(kind, verb) for verb in _METRIC) else _MODULE
    if issubclass(kind, torch.optim.Optimizer):
        return _OPTIMIZER
    return _STATEFUL if hasattr(kind, "state_dict") and hasattr(kind, "load_state_dict") else ()


def is_saveable(annotation: Any) -> bool:
    """Whether a checkpoint can hold values of this type: plain ones, collections of these, tensors, components."""
    if annotation in (Any, None) or annotation in _PLAIN_TYPES:
        return True
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return is_saveable(members[0])
    if origin is Literal:
        return True
    if origin in (Union, UnionType, list, tuple, dict):
        return all(is_saveable(member) for member in members if member is not Ellipsis)
    return isinstance(annotation, type) and (issubclass(annotation, Tensor | Enum) or bool(parts_of(annotation)))


def scalars(component: Any, part: str) -> dict[str, Any]:
    """The plain values of a part, by the name below it: `hyper` gives `lr`, `weight_decay`, ...; `mode` gives `train`.

    A hyper-parameter that differs between parameter groups is given as text, one value per group. The `state` of a
    learning rate scheduler gives `last_epoch`, `_last_lr`, ...; other parts, made of tensors, have none. Reads no
    tensor from a device: a learning rate that is a Tensor there is given as "on cuda:0".
    """
    if component is None:
        return {}
    if part == "hyper":
        groups = component.param_groups
        names = [name for name in dict.fromkeys(name for group in groups for name in group) if name not in _OWN_KEYS]
        return {name: _common([group.get(name) for group in groups]) for name in names}
    if part == "mode":
        frozen = sum(not parameter.requires_grad for parameter in component.parameters())
        modes = {module.training for module in component.modules()}
        return {"train": modes.pop() if len(modes) == 1 else "mixed", "frozen": frozen}
    if part == "state" and isinstance(component, LRScheduler):
        plain = (item for item in vars(component).items() if item[0] == "_last_lr" or not item[0].startswith("_"))
        rates = {name: value if isinstance(value, list) else [value] for name, value in plain}
        return {name: _common(each) for name, each in rates.items() if each and all(map(_is_number, each))}
    return {}


def optimized(*optimizers: Optimizer) -> list[Tensor]:
    """The parameters of all groups of these optimizers, in order."""
    return [parameter for one in optimizers for group in one.param_groups for parameter in group["params"]]


def modes_before(module: nn.Module, moved: Collection[str]) -> dict[str, Any]:
    """The `scalars` of `mode` as they were before these flags moved: "training", "0.bias.requires_grad"."""

    def was(name: str, flag: str, now: bool) -> bool:
        return now != ((f"{name}.{flag}" if name else flag) in moved)

    modes = {was(name, "training", each.training) for name, each in module.named_modules()}
    frozen = sum(not was(name, "requires_grad", each.requires_grad) for name, each in module.named_parameters())
    return {"train": modes.pop() if len(modes) == 1 else "mixed", "frozen": frozen}


def trained(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, nn.Parameter]]:
    """The parameters of these modules that are to be trained: (name of the module, name in it, parameter)."""
    for field, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield field, name, parameter


def tensors(component: Any) -> Iterator[Tensor]:
    """The tensors a component owns: parameters and buffers of a module, parameters of an optimizer."""
    if isinstance(component, nn.Module):
        yield from component.parameters()
        yield from component.buffers()
    elif isinstance(component, torch.optim.Optimizer):
        for group in component.param_groups:
            yield from group["params"]
    elif isinstance(component, Tensor):
        yield component


def _common(values: list[Any]) -> Any:
    """One value for all groups, or text that lists them."""
    plain = [_plain(value) for value in values]
    if all(value is plain[0] or _equal(value, plain[0]) for value in plain):
        value = plain[0]
        return value if isinstance(value, int | float | str | bool | None) else str(value)
    return ", ".join(str(value) for value in plain)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | str) or (isinstance(value, Tensor) and value.numel() == 1)


def _plain(value: Any) -> Any:
    """A hyper-parameter without tensors; the content of one on a device would cost a sync."""
    if isinstance(value, Tensor):
        on_cpu = value.device.type == "cpu"
        return (value.item() if value.numel() == 1 else value.tolist()) if on_cpu else f"on {value.device}"
    return tuple(_plain(each) for each in value) if isinstance(value, tuple | list) else value


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # an array has no one answer
        return False
