"""Captured: what a checkpoint holds of the components of a State, and how they take it back.

Each kind of component has two functions. One gives plain JSON, and its tensors to a Packer. The other checks what was
given against the live object, and answers with a function that makes it so and cannot be refused any more; before it,
with what the object's own `load_state_dict` is to take, which may refuse it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from state.errors import SnapshotError
from state.packing import Packer, unpack
from state.parts import optimized

Apply = Callable[[], None]
Load = tuple[str, Any, Any]
"""A field, its object, and the state that is to be loaded by the object itself."""

Tensors = Mapping[str, Tensor]


_OWN = ("load_state_dict", "_load_from_state_dict")
"""The methods by which a module class takes its state in a way of its own."""


def capture_module(
    module: nn.Module, name: str, packer: Packer, *, grads: bool, cleared: Collection[int] = ()
) -> tuple[dict[str, Tensor], Any]:
    """The tensors of its `state_dict`, and the rest: what that leaves out, modes, gradients if they are asked for, save
    those of the parameters whose ids are in `cleared`."""
    saved = module.state_dict()
    tensors = {key: value.detach() for key, value in saved.items() if isinstance(value, Tensor)}
    others = {key: packer.pack(value, f"{name}.{key}") for key, value in saved.items() if key not in tensors}
    buffers = dict(module.named_buffers(remove_duplicate=False))
    parameters = dict(module.named_parameters(remove_duplicate=False))
    rest: dict[str, Any] = {
        "others": others,
        "buffers": {key: packer.pack(value, f"{name}.{key}") for key, value in buffers.items() if key not in saved},
        "eval": [key for key, part in module.named_modules() if not part.training],
        "frozen": [key for key, value in parameters.items() if not value.requires_grad],
    }
    if grads:
        found = {key: value.grad for key, value in parameters.items() if id(value) not in cleared}
        rest["grads"] = {
            key: packer.pack(grad, f"{name}.{key}.grad") for key, grad in found.items() if grad is not None
        }
    return tensors, rest


def restore_module(
    module: nn.Module, name: str, saved: Tensors, rest: Any, tensors: Tensors
) -> tuple[list[Load], Apply]:
    """Check names, shapes and dtypes, and answer with what loads them.

    Raises:
        SnapshotError: they are not those of the module; all differences together.
    """
    live = module.state_dict()
    buffers = dict(module.named_buffers(remove_duplicate=False))
    given: dict[str, Any] = {**saved, **{key: unpack(value, tensors) for key, value in rest["others"].items()}}
    hidden = {key: unpack(value, tensors) for key, value in rest["buffers"].items()}
    grads = {key: unpack(value, tensors) for key, value in rest.get("grads", {}).items()}
    problems = _differences(name, live, given)
    problems += _differences(name, {key: value for key, value in buffers.items() if key not in live}, hidden)
    if problems:
        raise SnapshotError("; ".join(problems))
    evaluated, frozen = set(rest["eval"]), set(rest["frozen"])
    may_refuse = bool(rest["others"]) or any(
        not getattr(type(part), method).__module__.startswith("torch.") for part in module.modules() for method in _OWN
    )

    def apply() -> None:
        if not may_refuse:
            module.load_state_dict(given)
        with torch.no_grad():
            for key, value in hidden.items():
                buffers[key].copy_(value)
        for key, part in module.named_modules():
            part.training = key not in evaluated
        for key, parameter in module.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(key not in frozen)
            grad = grads.get(key)
            parameter.grad = None if grad is None else grad.to(parameter.device, copy=True)

    return [(name, module, given)] if may_refuse else [], apply


def capture_optimizer(optimizer: Optimizer, name: str, names: Mapping[int, str], packer: Packer) -> Any:
    """Its groups, and what it keeps for each parameter, under the parameters' names."""

    def told(parameter: Tensor) -> str:
        return names.get(id(parameter)) or _unnamed(optimizer, parameter)

    groups = [
        {
            "params": [told(parameter) for parameter in group["params"]],
            "hyper": {
                key: packer.pack(value, f"{name}.{number}.{key}") for key, value in group.items() if key != "params"
            },
        }
        for number, group in enumerate(optimizer.param_groups)
    ]
    kept = {
        told(parameter): {key: packer.pack(value, f"{name}.{told(parameter)}.{key}") for key, value in each.items()}
        for parameter, each in optimizer.state.items()
    }
    return {"class": type(optimizer).__name__, "groups": groups, "state": kept}


def restore_optimizer(
    optimizer: Optimizer, name: str, found: Any, named: Mapping[str, Tensor], tensors: Tensors
) -> Apply:
    """Check that State has all parameters that it updated then, and answer with what gives each its own back.

    Raises:
        SnapshotError: it has not, or the optimizer updates others, or is of another class.
    """
    if (now := type(optimizer).__name__) != found["class"]:
        raise SnapshotError(f"{name}: it was a {found['class']} then, and is a {now} now")
    live = {id(p): names for names, p in named.items()}
    ours = [live.get(id(p)) or _unnamed(optimizer, p) for p in optimized(optimizer)]
    known = {**named, **{_unnamed(optimizer, p): p for p in optimized(optimizer)}}
    theirs = [one for group in found["groups"] for one in group["params"]]
    missing = [one for one in ours if one not in theirs]
    unknown = [one for one in theirs if one not in known]
    if missing or unknown:
        told = [f"it has nothing for {missing[:3]}"] if missing else []
        told += [f"it updated {unknown[:3]}, which State does not have"] if unknown else []
        raise SnapshotError(f"{name}: {', and '.join(told)}")
    groups = [
        {
            "params": [known[one] for one in group["params"]],
            **{key: unpack(value, tensors, known[group["params"][0]].device) for key, value in group["hyper"].items()},
        }
        for group in found["groups"]
    ]
    states: dict[Tensor, dict[str, Any]] = {}
    owners = {one: known[one] for one in theirs}
    for one, kept in found["state"].items():
        parameter = owners[one]
        states[parameter] = {key: unpack(value, tensors, parameter.device) for key, value in kept.items()}

    def apply() -> None:
        while len(optimizer.param_groups) > len(groups):
            optimizer.param_groups.pop()
        for number, group in enumerate(groups):
            if number == len(optimizer.param_groups):
                optimizer.param_groups.append(group)
            else:
                optimizer.param_groups[number].update(group)
        optimizer.state.clear()
        optimizer.state.update(states)

    return apply


def capture_stateful(thing: Any, name: str, packer: Packer) -> Any:
    """Its `state_dict`; of a metric of torchmetrics also how often it was updated, which that leaves out."""
    found: dict[str, Any] = {"state": packer.pack(dict(thing.state_dict()), name)}
    if isinstance(count := getattr(thing, "_update_count", None), int):
        found["updates"] = count
    return found


def restore_stateful(
    thing: Any, name: str, found: Any, tensors: Tensors, device: torch.device | None
) -> tuple[Load, Apply]:
    """Answer with what it is to load, and what sets the rest."""

    def apply() -> None:
        if "updates" in found:
            thing._update_count, thing._computed = found["updates"], None
        if isinstance(
            thing, torch.amp.GradScaler
        ):  # in the middle of a window the backward that makes its scale is over
            thing.scale(torch.zeros((), device=device))

    return (name, thing, unpack(found["state"], tensors, device)), apply


def load_all(loads: Iterable[Load]) -> None:
    """Let objects load their states.

    Raises:
        SnapshotError: one of them refuses; all have what they had before.
    """
    before: list[tuple[Any, Any]] = []
    for name, thing, state in loads:
        before.append((thing, deepcopy(thing.state_dict())))
        try:
            thing.load_state_dict(state)
        except Exception as error:
            for other, own in reversed(before):
                other.load_state_dict(own)
            told = f"{name}: {type(thing).__name__} does not take what the checkpoint has: {error}"
            raise SnapshotError(f"{told}. Nothing was changed.") from error


def _differences(name: str, live: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    problems = [f"{name}.{key} is missing in it" for key in live if key not in given]
    problems += [f"{name}.{key} is in it and not in the module" for key in given if key not in live]
    for key, value in live.items():
        other = given.get(key)
        if isinstance(value, Tensor) and isinstance(other, Tensor) and not is_lazy(value):
            if (value.shape, value.dtype) != (other.shape, other.dtype):
                problems.append(f"{name}.{key} is {_form(other)} in it and {_form(value)} here")
    return problems


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}".removeprefix("torch.")


def _unnamed(optimizer: Optimizer, parameter: Tensor) -> str:
    """A parameter that no module of State has goes by its place in the optimizer."""
    for number, group in enumerate(optimizer.param_groups):
        for place, one in enumerate(group["params"]):
            if one is parameter:
                return f"#{number}.{place}"
    raise SnapshotError("An optimizer keeps state for a parameter that is in none of its groups.")
