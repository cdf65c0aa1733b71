"""The staged loop is the loop you would have written by hand, bit for bit: weights, optimizer, losses, random draws.

Each program is written twice, from the same parts. The hand-written loop is first shown to be deterministic.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner, Stage, TrainState


@pytest.mark.parametrize("audit", ["off", "writes", "summary"])
def test_mlp_with_adamw_and_a_shuffling_loader(audit: Any, proves_equal: Any, losses_of: Any) -> None:
    def build() -> SimpleNamespace:
        data = TensorDataset(torch.randn(50, 6), torch.randint(0, 3, (50,)))
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        return SimpleNamespace(model=model, optimizer=optimizer, train=DataLoader(data, batch_size=8, shuffle=True))

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(4):
            parts.model.train()
            for inputs, targets in parts.train:
                parts.optimizer.zero_grad()
                loss = F.cross_entropy(parts.model(inputs), targets)
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = Learner(parts.model, F.cross_entropy, parts.optimizer, train=parts.train, device="cpu", audit=audit)
        losses: list[Tensor] = losses_of(learner, 4)
        return losses

    proves_equal(build, by_hand, staged)


def test_conv_net_with_batchnorm_and_dropout_validated_every_epoch(proves_equal: Any, losses_of: Any) -> None:
    def build() -> SimpleNamespace:
        images, labels = torch.randn(40, 1, 6, 6), torch.randint(0, 4, (40,))
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 4)
        )
        return SimpleNamespace(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            train=DataLoader(TensorDataset(images[:30], labels[:30]), batch_size=8, shuffle=True),
            valid=DataLoader(TensorDataset(images[30:], labels[30:]), batch_size=4),
        )

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        model, losses = parts.model, []
        for _ in range(3):
            model.train()
            for inputs, targets in parts.train:
                parts.optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), targets)
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
            model.eval()
            with torch.no_grad():
                losses += [F.cross_entropy(model(inputs), targets) for inputs, targets in parts.valid]
            model.train()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = Learner(
            parts.model, F.cross_entropy, parts.optimizer, train=parts.train, valid=parts.valid, device="cpu"
        )
        losses: list[Tensor] = losses_of(learner, 3)
        return losses

    proves_equal(build, by_hand, staged)


@dataclass(frozen=True)
class SharpnessAware(Stage):
    """Gradient at the worst point within rho (Foret et al. 2021)."""

    rho: float = 0.05
    reads = ("model", "model.grads", "loss_fn", "inputs", "targets")
    writes = ("outputs", "loss", "model.grads")
    touches = ("model.params", "model.buffers", "rng")
    inline = ("forward", "loss", "backward")

    def run(self, state: TrainState) -> None:
        with state.stage("forward"):
            state.outputs = state.model(state.inputs)
        with state.stage("loss"):
            state.loss = state.loss_fn(state.outputs, state.targets)
        with state.stage("backward"):
            state.loss.backward()
        sharpen(state.model, state.loss_fn, state.inputs, state.targets, self.rho)


def sharpen(model: nn.Module, loss_fn: Any, inputs: Tensor, targets: Tensor, rho: float) -> None:
    """From the gradient here to the gradient at the worst point within rho."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
    moves = [p.grad * (rho / (norm + 1e-12)) for p in parameters if p.grad is not None]
    with torch.no_grad():
        torch._foreach_add_(parameters, moves)
    model.zero_grad()
    loss_fn(model(inputs), targets).backward()
    with torch.no_grad():
        torch._foreach_sub_(parameters, moves)


def test_sharpness_aware_minimisation_in_the_slot_gradient(proves_equal: Any, losses_of: Any) -> None:
    def build() -> SimpleNamespace:
        data = TensorDataset(torch.randn(40, 5), torch.randint(0, 3, (40,)))
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return SimpleNamespace(model=model, optimizer=optimizer, train=DataLoader(data, batch_size=8, shuffle=True))

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(3):
            for inputs, targets in parts.train:
                parts.optimizer.zero_grad()
                loss = F.cross_entropy(parts.model(inputs), targets)
                loss.backward()
                sharpen(parts.model, F.cross_entropy, inputs, targets, 0.05)
                parts.optimizer.step()
                losses.append(loss.detach())
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = Learner(parts.model, F.cross_entropy, parts.optimizer, train=parts.train, device="cpu")
        seen: list[float] = []
        learner.after("gradient/loss", every="2 batches")(lambda state: seen.append(state.loss.item()))
        learner.swap("gradient", SharpnessAware(rho=0.05))
        losses = losses_of(learner, 3)
        assert seen == [loss.item() for loss in losses[1::2]], "the hook on the swapped slot stays where it was"
        return losses

    proves_equal(build, by_hand, staged)
