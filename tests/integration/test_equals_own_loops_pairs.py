"""Two models that train against each other, each with its optimizer: bit for bit as by hand."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.utils.data import DataLoader

from learner import Callback, Learner, TrainState, after, field, stage
from stages import (
    Backward,
    Chain,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Repeat,
    Train,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
)

GAN = Path(__file__).parents[2] / "docs/examples/gan.py"


def test_adversarial_pair_with_three_critic_updates_for_one_of_the_generator(proves_equal: Any) -> None:
    pytest.importorskip("sklearn", reason="the example needs scikit-learn")
    gan = SimpleNamespace(**runpy.run_path(str(GAN)))

    def build() -> SimpleNamespace:
        state = gan.make_state()
        names = ("generator", "critic", "optimizer", "critic_optimizer")
        parts = {name: getattr(state, name) for name in names}
        return SimpleNamespace(**parts, state=state, train=DataLoader(torch.randn(40, 2) + 3, 8, shuffle=True))

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(3):
            for real in parts.train:
                for _ in range(3):
                    parts.critic_optimizer.zero_grad()
                    fake = parts.generator(torch.randn_like(real)).detach()
                    loss = F.softplus(-parts.critic(real)).mean() + F.softplus(parts.critic(fake)).mean()
                    loss.backward()
                    parts.critic_optimizer.step()
                    losses.append(loss.detach())
                parts.optimizer.zero_grad()
                loss = F.softplus(-parts.critic(parts.generator(torch.randn_like(real)))).mean()
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        learner = Learner.from_state(parts.state, gan.make_tree(), train=parts.train)
        learner.after("critic/step")(lambda state: losses.append(state.critic_loss.detach()))
        learner.after("batch/generator")(lambda state: losses.append(state.loss.detach()))
        learner.fit(epochs=3)
        assert (parts.state.updates, parts.state.critic_updates) == (15, 45)
        return losses

    proves_equal(build, by_hand, staged)


class PairState(TrainState):
    generator: nn.Module
    critic: nn.Module
    critic_optimizer: Optimizer
    critic_updates: int = 0
    real: Tensor = field(scope="batch")
    fake: Tensor = field(scope="batch")


@stage(state=PairState, writes=("fake",), touches=("rng", "generator.buffers"))
def make_fake(generator: nn.Module, real: Tensor) -> Tensor:
    fake: Tensor = generator(torch.randn_like(real))
    return fake


@stage(state=PairState, writes=("loss",), touches=("rng",))
def distance(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    loss: Tensor = critic(fake.detach()).mean() - critic(real).mean()
    return loss


@stage(state=PairState, writes=("loss",), touches=("rng",))
def fakes_up(critic: nn.Module, fake: Tensor) -> Tensor:
    loss: Tensor = -critic(fake).mean()
    return loss


class Bounded(Callback):
    """After each update of the critic its weights are clipped, and its learning rate follows a schedule."""

    def fields(self) -> dict[str, Any]:
        schedule = field(factory=lambda state: StepLR(state.critic_optimizer, step_size=4, gamma=0.5))
        return {"critic_schedule": (LRScheduler, schedule)}

    @after("critic/step/update", writes=("critic.params",))
    def clip(self, critic: nn.Module) -> None:
        for parameter in critic.parameters():
            parameter.data.clamp_(-0.1, 0.1)

    @after("critic/step/update", writes=("critic_optimizer.hyper", "critic_schedule.state"))
    def anneal(self, critic_schedule: LRScheduler) -> None:
        critic_schedule.step()


def test_critic_with_clipped_weights_and_a_schedule_of_its_own_validated_every_epoch(proves_equal: Any) -> None:
    def build() -> SimpleNamespace:
        generator = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        return SimpleNamespace(
            generator=generator,
            critic=critic,
            optimizer=torch.optim.RMSprop(generator.parameters(), lr=0.01),
            critic_optimizer=torch.optim.RMSprop(critic.parameters(), lr=0.02),
            train=DataLoader(torch.randn(22, 2) + 3, batch_size=8, shuffle=True),
            valid=DataLoader(torch.randn(9, 2) + 3, batch_size=4),
        )

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        generator, critic, losses = parts.generator, parts.critic, []
        schedule = StepLR(parts.critic_optimizer, step_size=4, gamma=0.5)
        for _ in range(3):
            for real in parts.train:
                for _ in range(2):
                    parts.critic_optimizer.zero_grad()
                    loss = critic(generator(torch.randn_like(real)).detach()).mean() - critic(real).mean()
                    loss.backward()
                    parts.critic_optimizer.step()
                    for parameter in critic.parameters():
                        parameter.data.clamp_(-0.1, 0.1)
                    schedule.step()
                    losses.append(loss.detach())
                parts.optimizer.zero_grad()
                loss = -critic(generator(torch.randn_like(real))).mean()
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
            generator.eval()
            critic.eval()
            with torch.no_grad():
                for real in parts.valid:
                    losses.append(critic(generator(torch.randn_like(real))).mean() - critic(real).mean())
            generator.train()
            critic.train()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        step = Chain(ClearGradients(), make_fake, distance, Backward(), Update(), forbids=("generator.grads",))
        step = step.bind(model="critic", optimizer="critic_optimizer", updates="critic_updates")
        generator = Chain(ClearGradients(), make_fake, fakes_up, Backward(), Update(), forbids=("critic.params",))
        batch = FitBatch(Unpack("real"), critic=Repeat(2, step=step), generator=generator.bind(model="generator"))
        look = Validate(Fetch(), ValidateBatch(Unpack("real"), make_fake, distance))
        names = ("generator", "critic", "optimizer", "critic_optimizer")
        learner = Learner.from_state(
            PairState(**{name: getattr(parts, name) for name in names}),
            Train(Epoch(Fit(Fetch(), batch), look)),
            train=parts.train,
            valid=parts.valid,
            callbacks=[Bounded()],
        )
        losses: list[Tensor] = []
        for slot in ("critic/step", "batch/generator", "validate/batch"):
            learner.after(slot)(lambda state: losses.append(state.loss.detach()))
        learner.fit(epochs=3)
        assert (learner.state.updates, learner.state.critic_updates) == (9, 18)
        return losses

    proves_equal(build, by_hand, staged)
