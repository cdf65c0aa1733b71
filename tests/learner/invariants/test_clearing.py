"""Gradients that are there already when others are added: told of where an update had used them, and nowhere else."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from learner import Callback, InvariantWarning, Learner, TrainState, after, around, stage, supervised
from stages import Epoch, Fetch, Fit, FitBatch, Train, Unpack, Update
from tests.learner.invariants.breaking import learner_of, network

Do = Callable[[nn.Module, Optimizer, Tensor, Tensor, int], Tensor]

NAME = "an update uses gradients that were made for it"


def whole(step: Do) -> Learner:
    """A Learner with one stage that does it all."""

    @stage(
        state=TrainState,
        writes=("loss", "model.grads", "model.params", "optimizer.state"),
        touches=("model.buffers",),
    )
    def whole_step(model: nn.Module, optimizer: Any, inputs: Tensor, targets: Tensor, batch_index: int) -> Tensor:
        return step(model, optimizer, inputs, targets, batch_index).detach()

    return learner_of(network(), stages=Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), whole_step)))))


def halves(step: Do) -> Learner:
    """A Learner with one stage for the gradient, which does not read it, and `Update`."""

    @stage(state=TrainState, writes=("loss", "model.grads"), touches=("model.buffers",))
    def gradient(model: nn.Module, optimizer: Any, inputs: Tensor, targets: Tensor, batch_index: int) -> Tensor:
        return step(model, optimizer, inputs, targets, batch_index).detach()

    return learner_of(network(), stages=Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), gradient, Update())))))


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    loss = F.mse_loss(model(inputs), targets)
    loss.backward()
    return loss


def piles_up(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    loss = loss_of(model, inputs, targets)
    optimizer.step()
    return loss


def piles_up_and_clips(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    loss = loss_of(model, inputs, targets)
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def clears_the_others(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    for parameter in [*model.parameters()][2:3]:
        parameter.grad = None
    return piles_up(model, optimizer, inputs, targets, index)


def only_adds(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    return loss_of(model, inputs, targets)


def broken(learner: Learner) -> list[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InvariantWarning)
        learner.fit(epochs=2)
    return list(dict.fromkeys((row.evidence, row.actor) for row in learner.log.where(kind="broken")))


@pytest.mark.parametrize("step", [piles_up, piles_up_and_clips, clears_the_others])
def test_gradients_that_pile_up_in_one_stage_are_told_of(step: Do) -> None:
    assert broken(whole(step)) == [(NAME, "train/epoch/fit/batch/whole_step")]


def test_gradients_that_pile_up_before_an_update_of_ours_are_told_of() -> None:
    assert broken(halves(only_adds)) == [(NAME, "train/epoch/fit/batch/gradient")]


def clears(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    optimizer.zero_grad()
    return piles_up(model, optimizer, inputs, targets, index)


def sets_to_zero(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    optimizer.zero_grad(set_to_none=False)
    return piles_up(model, optimizer, inputs, targets, index)


def sets_to_zero_afterwards(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int
) -> Tensor:
    loss = piles_up(model, optimizer, inputs, targets, index)
    optimizer.zero_grad(set_to_none=False)
    return loss


def steps_in_every_second(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int
) -> Tensor:
    loss = loss_of(model, inputs, targets)
    if index % 2:
        optimizer.step()
        optimizer.zero_grad()
    return loss


def sets_the_data_to_zero(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int
) -> Tensor:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.zero_()  # which moves no version counter
    return piles_up(model, optimizer, inputs, targets, index)


def keeps_a_part_afterwards(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int
) -> Tensor:
    loss = piles_up(model, optimizer, inputs, targets, index)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)
    return loss


def clamps_and_steps_in_every_second(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int
) -> Tensor:
    loss = steps_in_every_second(model, optimizer, inputs, targets, index)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.clamp_(-0.1, 0.1)
    return loss


def keeps_a_part(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(0.5)
    return piles_up(model, optimizer, inputs, targets, index)


def copies(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    loss = F.mse_loss(model(inputs), targets)
    for parameter, gradient in zip(model.parameters(), torch.autograd.grad(loss, [*model.parameters()]), strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.copy_(gradient)
    optimizer.step()
    return loss


def adds_twice(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
    optimizer.zero_grad()
    loss_of(model, inputs, targets)
    return piles_up(model, optimizer, inputs, targets, index)


@pytest.mark.parametrize(
    "step",
    [
        *(clears, sets_to_zero, sets_to_zero_afterwards, sets_the_data_to_zero),
        *(steps_in_every_second, clamps_and_steps_in_every_second),
        *(keeps_a_part, keeps_a_part_afterwards, copies, adds_twice),
    ],
)
@pytest.mark.parametrize("is_debugging", [False, True])
def test_gradients_that_are_cleared_or_go_on_by_intention_are_no_finding(step: Do, is_debugging: bool) -> None:
    learner = whole(step)
    learner.debug(is_debugging)
    assert broken(learner) == []


def test_weights_that_are_changed_while_gradients_gather_are_no_finding() -> None:
    class Noise(Callback):
        @around("gradient", restores=("model.params",), touches=("rng",))
        def lend(self, model: nn.Module) -> Any:
            own = deepcopy(model.state_dict())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            yield
            model.load_state_dict(own)

        @after("batch", within="fit", writes=("model.params",))
        def clamp(self, model: nn.Module) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.clamp_(-0.1, 0.1)

    assert broken(learner_of(network(), Noise(), stages=supervised(accumulate=3))) == []


def test_gradients_that_another_backward_leaves_and_the_next_step_clears_are_no_finding() -> None:
    class Two(TrainState):
        critic: nn.Module
        critic_optimizer: Optimizer

    @stage(state=Two, writes=("critic.grads", "critic.params", "critic_optimizer.state"))
    def critic_step(critic: nn.Module, critic_optimizer: Any, inputs: Tensor, model: nn.Module) -> None:
        critic_optimizer.zero_grad()
        critic(model(inputs).detach()).mean().backward()
        critic_optimizer.step()

    @stage(state=Two, writes=("loss", "model.grads", "critic.grads", "model.params", "optimizer.state"))
    def model_step(critic: nn.Module, optimizer: Any, inputs: Tensor, model: nn.Module) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = -critic(model(inputs)).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    models = {"model": network(), "critic": nn.Linear(1, 1)}
    optimizers = {name: torch.optim.SGD(one.parameters(), lr=0.05) for name, one in models.items()}
    given = {"optimizer": optimizers["model"], "critic_optimizer": optimizers["critic"]}
    train = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(6)]
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), critic_step, model_step))))
    assert broken(Learner(models, None, given, train=train, stages=tree)) == []


def test_watching_leaves_no_hook_behind_and_changes_no_bit() -> None:
    watched, plain = whole(piles_up), network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InvariantWarning)
        watched.fit(epochs=1)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    for index, (inputs, targets) in enumerate(watched.state.train_loader):
        piles_up(plain, optimizer, inputs, targets, index)
    ours = [*watched.state.model.parameters()]
    assert not any(one._post_accumulate_grad_hooks for one in ours)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain.parameters(), strict=True))


def test_a_stage_that_fails_in_a_round_leaves_a_learner_that_goes_on() -> None:
    calls = []

    def fails_once(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, index: int) -> Tensor:
        calls.append(index)
        if len(calls) == 2:
            raise ValueError("once")
        return clears(model, optimizer, inputs, targets, index)

    learner = whole(fails_once)
    with pytest.raises(ValueError, match="once"):
        learner.fit(epochs=1)
    assert broken(learner) == []
    assert not any(one._post_accumulate_grad_hooks for one in learner.state.model.parameters())
