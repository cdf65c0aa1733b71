"""The random number generators that a loader holds itself."""

import json
import random
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from learner.own_generators import generators_of, set_states, states_of


def test_generators_go_by_stable_names_and_are_found_once() -> None:
    shared = torch.Generator()
    sampler = RandomSampler(range(10), generator=shared)
    assert list(generators_of(DataLoader([1], sampler=sampler, generator=shared))) == ["generator"]  # type: ignore[arg-type]
    assert list(generators_of(DataLoader([1], sampler=sampler))) == ["sampler.generator"]  # type: ignore[arg-type]
    assert list(generators_of([1])) == []


@pytest.mark.parametrize(
    "generator",
    [
        random.Random(1),
        numpy.random.default_rng(1),
        numpy.random.RandomState(1),
        numpy.random.Generator(numpy.random.MT19937(1)),
        numpy.random.Generator(numpy.random.Philox(1)),
    ],
    ids=lambda generator: str(type(getattr(generator, "bit_generator", generator)).__name__),
)
def test_states_of_own_generators_are_plain_and_can_be_set_again(generator: Any) -> None:
    loader = SimpleNamespace(own=generator)
    draw = generator.gauss if isinstance(generator, random.Random) else generator.normal
    draw(0, 1)  # two Gaussian numbers are made at once, and one is kept
    states = json.loads(json.dumps(states_of(loader)))
    expected = [draw(0, 1) for _ in range(3)]
    set_states(loader, states)
    assert [draw(0, 1) for _ in range(3)] == expected
