"""Schedules: told of at the end of a run where they are as long as it in one unit and moved in another."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from learner import InvariantWarning, Learner, supervised
from learner.callbacks import Schedule
from tests.learner.invariants.breaking import learner_of, network

Make = Callable[[Optimizer], LRScheduler]
NAME = "a schedule is planned in what it moves by"


def warmed_up(optimizer: Optimizer, length: int) -> LRScheduler:
    both: list[LRScheduler] = [LinearLR(optimizer, total_iters=2), CosineAnnealingLR(optimizer, T_max=length - 2)]
    return SequentialLR(optimizer, both, milestones=[2])


def told(learner: Learner, **limit: Any) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InvariantWarning)
        learner.fit(**limit or {"epochs": 3})
    return [row.evidence for row in learner.log.violations()]


def scheduled(make: Make, *, accumulate: int = 1, per: Any = "update") -> Learner:
    """Six batches in each pass, so three updates where two are accumulated."""
    return learner_of(network(), Schedule(make, per=per), stages=supervised(accumulate=accumulate))


@pytest.mark.parametrize(
    ("make", "accumulate", "per"),
    [
        (lambda optimizer: CosineAnnealingLR(optimizer, T_max=18), 2, "update"),
        (lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=18), 2, "update"),
        (lambda optimizer: PolynomialLR(optimizer, total_iters=18), 2, "update"),
        (lambda optimizer: warmed_up(optimizer, 18), 2, "update"),
        (lambda optimizer: CosineAnnealingLR(optimizer, T_max=3), 1, "update"),
    ],
    ids=["batches", "one cycle", "polynomial", "warm-up", "epochs by update"],
)
def test_schedule_that_moves_by_another_unit_than_it_was_planned_in_is_told_of(
    make: Make, accumulate: int, per: str
) -> None:
    assert told(scheduled(make, accumulate=accumulate, per=per)) == [NAME]


@pytest.mark.parametrize(
    ("make", "accumulate", "per"),
    [
        (lambda optimizer: CosineAnnealingLR(optimizer, T_max=9), 2, "update"),
        (lambda optimizer: CosineAnnealingLR(optimizer, T_max=18), 1, "update"),
        (lambda optimizer: CosineAnnealingLR(optimizer, T_max=3), 1, "epoch"),
        (lambda optimizer: CosineAnnealingLR(optimizer, T_max=18), 1, "epoch"),  # the first 3 epochs of 18
        (lambda optimizer: CosineAnnealingLR(optimizer, T_max=40), 2, "update"),
        (lambda optimizer: LinearLR(optimizer, total_iters=3), 1, "update"),
        (lambda optimizer: StepLR(optimizer, 3), 1, "update"),
        (lambda optimizer: warmed_up(optimizer, 9), 2, "update"),
    ],
)
def test_schedule_that_moves_by_what_it_was_planned_in_is_no_finding(make: Make, accumulate: int, per: str) -> None:
    assert told(scheduled(make, accumulate=accumulate, per=per)) == []


def test_run_that_is_a_part_of_what_was_planned_is_no_finding() -> None:
    learner = scheduled(lambda optimizer: CosineAnnealingLR(optimizer, T_max=9), accumulate=2)
    assert [told(learner, epochs=1) for _ in range(3)] == [[], [], []]


def test_single_update_of_a_single_batch_is_no_finding() -> None:
    learner = scheduled(lambda optimizer: CosineAnnealingLR(optimizer, T_max=1))
    assert told(learner, batches=1) == [] and isinstance(learner.state.optimizer, torch.optim.SGD)
