"""Undoing: what a State held, kept so that it can have it back when it takes up a checkpoint and something refuses."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from state.parts import parts_of
from state.state import State

Undo = Callable[[], None]


def remembered(state: State) -> Undo:
    """What gives a State back all that it holds now: a copy of what is changed in place, the rest as it is."""
    values, undos = dict(state.__dict__), [_remembered(value) for value in state.__dict__.values()]

    def undo() -> None:
        state.__dict__.clear()
        state.__dict__.update(values)
        for each in undos:
            each()

    return undo


def _remembered(value: Any) -> Undo:
    if isinstance(value, nn.Module):
        return _module(value)
    if isinstance(value, Optimizer):
        return _optimizer(value)
    if isinstance(value, nn.Parameter) and not is_lazy(value):
        return _tensors([value])
    if parts_of(type(value)):
        saved = deepcopy(value.state_dict())
        return lambda: value.load_state_dict(saved)
    return lambda: None


def _module(module: nn.Module) -> Undo:
    saved = deepcopy(module.state_dict())
    hidden = _tensors([value for value in module.buffers() if not is_lazy(value)])
    modes = [(part, part.training) for part in module.modules()]
    parameters = [(each, each.requires_grad, each.grad) for each in module.parameters()]

    def undo() -> None:
        module.load_state_dict(saved)
        hidden()
        for part, mode in modes:
            part.training = mode
        for parameter, is_trained, grad in parameters:
            parameter.requires_grad_(is_trained)
            parameter.grad = grad

    return undo


def _optimizer(optimizer: Optimizer) -> Undo:
    """What it keeps for a parameter is never filled, but exchanged for what the checkpoint has."""
    groups, kept = [(group, dict(group)) for group in optimizer.param_groups], dict(optimizer.state)

    def undo() -> None:
        optimizer.param_groups[:] = [group for group, _ in groups]
        for group, settings in groups:
            group.clear()
            group.update(settings)
        optimizer.state.clear()
        optimizer.state.update(kept)

    return undo


def _tensors(tensors: list[Tensor]) -> Undo:
    before = [tensor.detach().clone() for tensor in tensors]

    def undo() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)

    return undo
