"""Outside: what decides the result of a run and is kept by a stage or hook instead of by State."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stages import Assembly, Finding
from stages.stage import FunctionStage, Stage
from state import State

_DECIDING = (LRScheduler, Optimizer, GradScaler, torch.Generator)


def kept_outside(assembly: Assembly, state: State) -> list[Finding]:
    """A warning for each scheduler, optimizer, scaler or generator that a stage or hook has and State has not, and for
    each module that a model uses and does not register.

    What a function closes over counts, and so do the globals that it names and the attributes of its object.
    """
    held = set(map(id, state.__dict__.values()))
    found = list(_unregistered(state))
    for path, source, things in _actors(assembly):
        for name, thing in things:
            if isinstance(thing, _DECIDING) and id(thing) not in held:
                told = f"{path} keeps {name!r}, a {type(thing).__name__}, which is not in State"
                missing = "no checkpoint has it, and the log does not tell what it does"
                is_moved = isinstance(thing, LRScheduler)
                ways = "Write Schedule(lambda optimizer: ...)." if is_moved else "Bring it as a field: fields()."
                found.append(
                    Finding("warning", "kept outside", (path,), f"{told}: {missing}. {ways} Its code: {source}.")
                )
    return found


def _unregistered(state: State) -> Iterator[Finding]:
    """Modules and parameters that wait to be trained in a plain list or dictionary of a module."""
    for field, root in state.components(nn.Module).items():
        known = {id(one) for one in (*root.modules(), *root.parameters())}
        for path, module in root.named_modules():
            for name, value in vars(module).items():
                things = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
                hidden = [one for one in things if isinstance(one, nn.Module | nn.Parameter) and id(one) not in known]
                if not name.startswith("_") and any(_is_trained(one) for one in hidden):
                    full = ".".join(part for part in (field, path, name) if part)
                    told = f"{full} is a {type(value).__name__} with {len(hidden)} modules or parameters to be trained"
                    missing = "PyTorch does not find them there: no optimizer, no checkpoint, no device"
                    ways = "Use nn.ModuleList, nn.ModuleDict or nn.ParameterList."
                    yield Finding("warning", "kept outside", (field,), f"{told}: {missing}. {ways}")


def _is_trained(one: nn.Module | nn.Parameter) -> bool:
    parameters = one.parameters() if isinstance(one, nn.Module) else [one]
    return any(parameter.requires_grad for parameter in parameters)


def _actors(assembly: Assembly) -> Iterator[tuple[str, str, list[tuple[str, Any]]]]:
    """Each stage and each hook that may change anything: its path, its source and what it has at hand."""
    for place in assembly.places:
        if place.has_own_code:
            yield place.path, place.contract.source, _of_stage(place.stage)
        for hung in place.hooks:
            if not hung.hook.observes:
                things = [*vars(hung.hook.callback).items(), *_of_function(hung.hook.call)]
                yield hung.path, hung.hook.contract.source, things


def _of_stage(stage: Stage) -> list[tuple[str, Any]]:
    run = vars(stage)["function"] if isinstance(stage, FunctionStage) else type(stage).run
    return [*vars(stage).items(), *_of_function(run)]


def _of_function(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """What a function finds in the scopes around it."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if not inspect.isfunction(plain):
        return []
    around = inspect.getclosurevars(plain)
    return [*around.nonlocals.items(), *around.globals.items()]
