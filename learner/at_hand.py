"""At hand: what a stage or hook finds beside State: attributes of its object, and what its function closes over."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from stages.callbacks import Hook
from stages.place import Place
from stages.stage import FunctionStage, Stage
from state.sources import is_of_library


def of_stage(stage: Stage) -> list[tuple[str, Any]]:
    """Names and values that a stage has at hand."""
    run = vars(stage)["function"] if isinstance(stage, FunctionStage) else type(stage).run
    return [*vars(stage).items(), *_of_function(run)]


def of_hook(hook: Hook) -> list[tuple[str, Any]]:
    """Names and values that a hook has at hand."""
    return [*vars(hook.callback).items(), *_of_function(hook.call)]


def of_users_hooks(root: Place) -> Iterator[tuple[str, str, list[tuple[str, Any]]]]:
    """Each hook in a tree that is no one of this library: its path, its source and what it has at hand."""
    seen = set[int]()
    for place in root.walk():
        for hung in place.hooks:
            source = hung.hook.contract.source
            if id(hung.hook) not in seen and not is_of_library(source):
                seen.add(id(hung.hook))
                yield hung.path, source, of_hook(hung.hook)


def _of_function(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """What a function finds in the scopes around it."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if not inspect.isfunction(plain):
        return []
    code, around = plain.__code__, plain.__globals__
    held = [(name, around[name]) for name in code.co_names if name in around]
    for name, cell in zip(code.co_freevars, plain.__closure__ or (), strict=True):
        with suppress(ValueError):  # a variable that gets its value later
            held.append((name, cell.cell_contents))
    return held
