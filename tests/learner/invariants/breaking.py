"""What the programs that break an invariant are made of."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learner import (
    Learner,
)
from learner.invariants import defaults

Build = Callable[[bool], Learner]
Program = tuple[Build, str, str]

PROGRAMS: list[Any] = []


def breaks(name: str, culprit: str) -> Callable[[Build], Build]:
    """A function that makes a Learner that breaks the invariant of this name, or its near miss."""

    def add(build: Build) -> Build:
        assert name in {one.name for one in defaults()}
        PROGRAMS.append(pytest.param(build, name, culprit, id=build.__name__))
        return build

    return add


def network(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *extra, nn.ReLU(), nn.Linear(8, 1))


def learner_of(model: nn.Module, *callbacks: Any, train: Iterable[Any] | None = None, **settings: Any) -> Learner:
    inputs = torch.randn(6, 8, 4)
    batches = [(batch, batch.sum(1, keepdim=True)) for batch in inputs]
    optimizer = settings.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.05)
    loss_fn = settings.pop("loss_fn", F.mse_loss)
    valid = settings.pop("valid", batches[:2])
    return Learner(model, loss_fn, optimizer, train=train or batches, valid=valid, callbacks=callbacks, **settings)
