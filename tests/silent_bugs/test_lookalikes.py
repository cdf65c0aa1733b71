"""Training that looks like a silent bug and is none: it runs without a finding, an error, a warning or a stray row.

More of them are proven equal to loops by hand in tests/integration: accumulation, LBFGS closures, two optimizers, half
precision that skips updates, averaged weights that are lent, a frozen teacher; tied weights are with the guard's tests.
"""

import warnings
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, update_bn

from learner import Callback, Learner, TrainState, after, before, field, stage
from learner.callbacks import ClipGradients, Schedule
from tests.silent_bugs.harness import Mode, network, samples, watched


def with_batch_norm() -> nn.Sequential:
    """A network with statistics of its own."""
    return network(4, nn.BatchNorm1d(8))


def averaged_weights_whose_statistics_are_made_anew() -> Learner:
    class SwaState(TrainState):
        averaged: nn.Module = field(factory=lambda state: AveragedModel(state.model))

    class Swa(Callback):
        @after("epoch", state=SwaState, writes=("averaged.params", "averaged.buffers"))
        def average(self, averaged: AveragedModel, model: nn.Module) -> None:
            averaged.update_parameters(model)

        @after("/", state=SwaState, reads=("train_loader",), writes=("averaged.buffers",), touches=("averaged.mode",))
        def renew(self, averaged: AveragedModel, train_loader: Any) -> None:
            update_bn(train_loader, averaged)

    model = with_batch_norm()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=[Swa()])


def backbone_that_is_frozen_and_thawed() -> Learner:
    class Thaw(Callback):
        @after("epoch", first="1 epochs", writes=("model.mode", "optimizer.hyper"))
        def thaw(self, model: nn.Sequential, optimizer: Optimizer) -> None:
            model[:2].requires_grad_(True).train()
            optimizer.add_param_group({"params": [*model[:2].parameters()], "lr": 0.01})

    model = with_batch_norm()
    optimizer = torch.optim.Adam(model[2:].parameters(), lr=0.1)
    model.train()
    model[:2].requires_grad_(False).eval()
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=[Thaw()])


def teacher_that_follows_its_student() -> Learner:
    class TeacherState(TrainState):
        teacher: nn.Module = field(factory=lambda state: deepcopy(state.model).requires_grad_(False))

    @stage(state=TeacherState, writes=("loss",), touches=("teacher.buffers",))
    def agreement(outputs: Tensor, targets: Tensor, inputs: Tensor, teacher: nn.Module) -> Tensor:
        return F.mse_loss(outputs, targets) + F.mse_loss(outputs, teacher(inputs))

    class Follow(Callback):
        @after("update", state=TeacherState, writes=("teacher.params",))
        def follow(self, teacher: nn.Module, model: nn.Module) -> None:
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)

    model = with_batch_norm()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=[Follow()])
    learner.swap("gradient/loss", agreement)
    return learner


def fused_optimizer_with_clipping_and_a_warm_up() -> Learner:
    def warm_up(optimizer: Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1.0, update / 4))  # from rate 0

    model = with_batch_norm()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    callbacks = [ClipGradients(0.5), Schedule(warm_up)]
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=callbacks)


def weights_that_are_normed_in_the_forward_pass() -> Learner:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2))


def inputs_that_are_attacked() -> Learner:
    class Attack(Callback):
        @before("gradient", writes=("inputs",), touches=("model.buffers",))
        def attack(self, model: nn.Module, loss_fn: Any, inputs: Tensor, targets: Tensor) -> Tensor:
            attacked = inputs.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss_fn(model(attacked), targets), attacked)
            return inputs + 0.1 * gradient.sign()

    model = with_batch_norm()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=[Attack()])


def layer_that_gets_no_gradient_in_some_batches() -> Learner:
    class Skipping(nn.Module):
        """Leaves out a branch for batches whose mean is negative."""

        def __init__(self) -> None:
            super().__init__()
            self.always, self.sometimes = nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, inputs: Tensor) -> Any:
            return self.always(inputs) + (self.sometimes(inputs) if inputs.mean() > 0 else 0)

    model = Skipping()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2))


def head_that_is_made_anew_by_design() -> Learner:
    class Reset(Callback):
        @before("epoch", every="2 epochs", writes=("model.params",), touches=("rng",))
        def reset(self, model: nn.Sequential) -> None:
            last = model[-1]
            assert isinstance(last, nn.Linear)
            last.reset_parameters()

    model = with_batch_norm()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=[Reset()])


LOOKALIKES = [
    averaged_weights_whose_statistics_are_made_anew,
    backbone_that_is_frozen_and_thawed,
    teacher_that_follows_its_student,
    fused_optimizer_with_clipping_and_a_warm_up,
    weights_that_are_normed_in_the_forward_pass,
    inputs_that_are_attacked,
    layer_that_gets_no_gradient_in_some_batches,
    head_that_is_made_anew_by_design,
]


@pytest.mark.parametrize("mode", ["plain", "debug"])
@pytest.mark.parametrize("build", LOOKALIKES, ids=lambda build: build.__name__)
def test_no_alarm(build: Any, mode: Mode) -> None:
    with warnings.catch_warnings(record=True) as caught, watched("summary", mode):
        warnings.simplefilter("always")
        learner = build()
        learner.fit(epochs=3)
    assert learner.outcome.ok and not learner.check()
    assert not [str(one.message) for one in caught]
    assert not learner.log.where(actor="external") and not learner.log.where(evidence="undeclared")
