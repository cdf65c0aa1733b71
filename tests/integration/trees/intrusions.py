"""Intrusions: the ways to change something in place, each with the one part of State that it changes."""

import random
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import nn

from tests.integration.trees.components import World

Route = Callable[[World], Any]


def _in_place(world: World) -> None:
    with torch.no_grad():
        world.model.weight.mul_(2).add_(1)


def _one_unit_of_one_element(world: World) -> None:
    one = world.model.weight.data
    one[0] = torch.nextafter(one[0], torch.tensor(1e9))


def _other_memory(world: World) -> None:
    world.model.weight.data = world.model.weight.detach() + 1


def _by_numpy(world: World) -> None:
    world.model.bias.detach().numpy()[1] += 1


def _whole_storage(world: World) -> None:
    world.model.weight.data.untyped_storage().fill_(64)


def _from_vector(world: World) -> None:
    nn.utils.vector_to_parameters(torch.arange(5.0) + 1, world.model.parameters())


def other_object(world: World) -> None:
    made = nn.Parameter(world.model.weight.detach().clone())
    made.grad = world.model.weight.grad
    world.model.weight = made


def _by_an_optimizer(world: World, **how: bool) -> None:
    parameter = nn.Parameter(world.model.bias.detach())  # another object, the same memory
    parameter.grad = torch.ones(3)
    torch.optim.SGD([parameter], lr=0.5, **how).step()


def _swapped(world: World) -> None:
    other = nn.Parameter(torch.full((2,), 9.0))
    other.grad = world.model.weight.grad
    torch.utils.swap_tensors(world.model.weight, other)


def _loaded(world: World) -> None:
    world.model.load_state_dict({"bias": torch.full((3,), 8.0)}, strict=False)


def _grads_set(world: World) -> None:
    world.model.weight.grad = torch.full((2,), 7.0)


def _statistics(world: World) -> None:
    nn.functional.batch_norm(torch.randn(4, 2, generator=torch.Generator()), world.model.seen, torch.ones(2), training=True)


def _flag(world: World) -> None:
    world.model.bias.requires_grad_(not world.model.bias.requires_grad)


def _new_group(world: World) -> None:
    world.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


ROUTES: list[tuple[str, Route]] = [
    ("model.params", _in_place),
    ("model.params", _one_unit_of_one_element),
    ("model.params", _other_memory),
    ("model.params", _by_numpy),
    ("model.params", _whole_storage),
    ("model.params", _from_vector),
    ("model.params", other_object),
    ("model.params", lambda world: _by_an_optimizer(world, foreach=True)),
    ("model.params", lambda world: _by_an_optimizer(world, fused=True)),
    ("model.params", _swapped),
    ("model.params", _loaded),
    ("model.grads", _grads_set),
    ("model.buffers", lambda world: world.model.seen.data.sub_(3)),
    ("model.buffers", lambda world: world.model.register_buffer("more", torch.zeros(1))),
    ("model.buffers", _statistics),
    ("model.mode", lambda world: world.model.train(not world.model.training)),
    ("model.mode", _flag),
    ("optimizer.hyper", lambda world: world.optimizer.param_groups[0].update(momentum=0.5)),
    ("optimizer.hyper", _new_group),
    ("optimizer.state", lambda world: world.optimizer.state[world.model.bias].update(step=torch.ones(()))),
    ("tally.state", lambda world: world.tally.count.add_(0.5)),
    ("tally.state", lambda world: world.tally.load_state_dict({"count": torch.tensor(-1.0)})),
    ("rng", lambda world: torch.rand(())),
    ("rng", lambda world: random.random()),
    ("rng", lambda world: numpy.random.rand()),
    ("rng", lambda world: torch.manual_seed(9)),
]
