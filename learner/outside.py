"""Outside: what decides the result of a run and is kept by a stage or hook instead of by State."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stages import Assembly, Finding
from stages.stage import FunctionStage, Stage
from state import State

_DECIDING = (LRScheduler, Optimizer, GradScaler, torch.Generator)


def kept_outside(assembly: Assembly, state: State) -> list[Finding]:
    """A warning for each scheduler, optimizer, scaler or generator that a stage or hook has and State has not.

    What a function closes over counts, and so do the globals that it names and the attributes of its object.
    """
    held = set(map(id, state.__dict__.values()))
    found = []
    for path, source, things in _actors(assembly):
        for name, thing in things:
            if isinstance(thing, _DECIDING) and id(thing) not in held:
                told = (
                    f"{path} keeps {name!r}, a {type(thing).__name__}, which is not in State: no checkpoint has it, and"
                )
                ways = (
                    "the log does not tell what it does. Give it a field: fields() of the callback or stage brings one."
                )
                if isinstance(thing, LRScheduler):
                    ways = "the log does not tell where it is. Write Schedule(lambda optimizer: ...) instead."
                found.append(Finding("warning", "kept outside", (path,), f"{told} {ways} Its code: {source}."))
    return found


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
