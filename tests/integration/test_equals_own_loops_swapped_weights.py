"""Averaged weights, kept beside the model and put in its place for validation: bit for bit as by hand.

Also where validation ends early, by a Cancel of any width or by an error: the weights are back.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Callback, Cancel, Learner, Outcome, TrainState, after, around, field


def average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Draw `ema` towards `model`, its statistics too; counts are copied."""
    with torch.no_grad():
        for slow, fast in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            slow.lerp_(fast, 1 - decay) if slow.is_floating_point() else slow.copy_(fast)


class EmaState(TrainState):
    ema: nn.Module = field(factory=lambda state: deepcopy(state.model), description="the model, averaged over updates")


@dataclass(frozen=True)
class Ema(Callback):
    """Average the weights after each update, and validate with the average."""

    decay: float = 0.9

    @after("update", state=EmaState, writes=("ema.params", "ema.buffers"))
    def follow(self, ema: nn.Module, model: nn.Module, outcome: Outcome) -> None:
        if outcome.ok:
            average(ema, model, self.decay)

    @around("validate", state=EmaState, restores=("model.params", "model.buffers"))
    def lend(self, ema: nn.Module, model: nn.Module) -> Iterator[None]:
        own = deepcopy(model.state_dict())
        model.load_state_dict(ema.state_dict())
        yield
        model.load_state_dict(own)


def build() -> SimpleNamespace:
    inputs, targets = torch.randn(42, 5), torch.randint(0, 3, (42,))
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    return SimpleNamespace(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        train=DataLoader(TensorDataset(inputs[:30], targets[:30]), batch_size=8, shuffle=True),
        valid=DataLoader(TensorDataset(inputs[30:], targets[30:]), batch_size=4),
    )


class Broken(Exception):
    """What a person's own code raises in the middle of validation."""


def epoch_by_hand(parts: SimpleNamespace, losses: list[Tensor], *, last: int | None = None, skipped: int = -1) -> None:
    """One epoch; validation ends after batch `last`, and the loss of batch `skipped` is never computed."""
    model = parts.model
    for inputs, targets in parts.train:
        parts.optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        parts.optimizer.step()
        average(parts.ema, model, 0.9)
        losses.append(loss.detach())
    own = deepcopy(model.state_dict())
    model.load_state_dict(parts.ema.state_dict())
    model.eval()
    with torch.no_grad():
        for number, (inputs, targets) in enumerate(parts.valid):
            outputs = model(inputs)
            if number != skipped:
                losses.append(F.cross_entropy(outputs, targets))
            if number == last:
                break
    model.train()
    model.load_state_dict(own)


def learner_of(parts: SimpleNamespace, losses: list[Tensor]) -> Learner:
    """The same loop as stages."""
    data = {"train": parts.train, "valid": parts.valid}
    learner = Learner(parts.model, F.cross_entropy, parts.optimizer, **data, callbacks=[Ema()], device="cpu")
    for slot in ("gradient/loss", "validate_loss"):
        learner.after(slot)(lambda state: losses.append(state.loss.detach()))
    parts.ema = learner.state.ema  # compared afterwards
    return learner


def test_averaged_weights_validate_and_the_model_trains_on_with_its_own(proves_equal: Any) -> None:
    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        parts.ema = deepcopy(parts.model)
        for _ in range(3):
            epoch_by_hand(parts, losses)
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        learner = learner_of(parts, losses)
        learner.fit(epochs=3)
        draws = torch.get_rng_state()
        assert learner.validate() == {"valid_loss": learner.history[-1]["valid_loss"]}, "alone it is the same"
        del losses[-3:]
        torch.set_rng_state(draws)
        return losses

    proves_equal(build, by_hand, staged)


@pytest.mark.parametrize("scope", ["batch", "phase", "epoch", "run"])
def test_weights_are_back_when_a_validation_is_cancelled(scope: str, proves_equal: Any) -> None:
    """By a hook, after the forward pass of the second validation batch, in each epoch."""
    epochs = 1 if scope == "run" else 2
    ends = {"skipped": 1} if scope == "batch" else {"skipped": 1, "last": 1}

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        parts.ema = deepcopy(parts.model)
        for _ in range(epochs):
            epoch_by_hand(parts, losses, **ends)
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        learner = learner_of(parts, losses)

        @learner.after("validate/batch/forward")
        def cancel(state: Any) -> None:
            if state.batch_index == 1:
                raise Cancel(scope, "seen enough")

        learner.fit(epochs=2)
        assert learner.outcome.kind == ("cancelled" if scope == "run" else "ok")
        return losses

    proves_equal(build, by_hand, staged)


def test_weights_are_back_when_a_validation_fails_and_training_can_go_on(proves_equal: Any) -> None:
    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        parts.ema = deepcopy(parts.model)
        epoch_by_hand(parts, losses, last=1, skipped=1)
        epoch_by_hand(parts, losses)
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        learner = learner_of(parts, losses)

        @learner.after("validate/batch/forward")
        def fail(state: Any) -> None:
            if state.epochs_done == 0 and state.batch_index == 1:
                raise Broken

        with pytest.raises(Broken):
            learner.fit(epochs=1)
        learner.hooks.remove("fail")
        learner.fit(epochs=1)
        return losses

    proves_equal(build, by_hand, staged)
