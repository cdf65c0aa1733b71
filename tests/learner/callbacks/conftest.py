"""A small classification problem: three classes, batches of 8, 8 and 5; and the Learner the tests of callbacks use."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner import Learner

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def batches() -> Batches:
    """Three training batches; the last one is short."""
    return [(torch.randn(n, 4), torch.randint(0, 3, (n,))) for n in (8, 8, 5)]


@pytest.fixture
def make(batches: Batches) -> Callable[..., Learner]:
    """Makes a Learner on the CPU: SGD on a linear model, validated on the first two training batches."""

    def make_learner(*callbacks: Any, **options: Any) -> Learner:
        torch.manual_seed(1)
        model = options.pop("model", None) or nn.Linear(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        given = {"train": batches, "valid": batches[:2], "device": "cpu"} | options
        loss_fn = given.pop("loss_fn", F.cross_entropy)
        return Learner(model, loss_fn, optimizer, callbacks=callbacks, **given)

    return make_learner
