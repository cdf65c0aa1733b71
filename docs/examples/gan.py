"""Program 4: two models, two optimizers, one tree. A generator learns two moons, with three critic
updates for each of its own.

`Backward` and `Update` are the stock stages, pointed at other fields by `bind`. What a critic step may never change is
forbidden, and found when the tree is built.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from learner import Learner, TrainState, field, stage
from stages import Backward, Chain, ClearGradients, Epoch, Fetch, Fit, FitBatch, Repeat, Train, Unpack, Update


class GanState(TrainState):
    """What an adversarial pair needs beside the usual. `optimizer` is the generator's."""

    generator: nn.Module
    critic: nn.Module
    critic_optimizer: Optimizer
    critic_updates: int = 0
    real: Tensor = field(scope="batch", description="samples, batch x 2")
    fake: Tensor = field(scope="batch", description="what the generator makes, batch x 2")
    critic_loss: Tensor = field(scope="batch", description="scalar")


@stage(state=GanState, writes=("fake",), touches=("rng",))
def make_fake(generator, real):
    """As many samples as there are real ones."""
    return generator(torch.randn_like(real))


@stage(state=GanState, writes=("critic_loss",))
def critic_loss(critic, real, fake):
    """The real ones up, the fakes down (Goodfellow et al. 2014, the softplus form)."""
    return F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()


@stage(state=GanState, writes=("loss",))
def generator_loss(critic, fake):
    """The fakes up: the non-saturating variant."""
    return F.softplus(-critic(fake)).mean()


def make_state() -> GanState:
    """Both models and their optimizers, the same each time."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
    return GanState(
        generator=generator,
        critic=critic,
        optimizer=torch.optim.Adam(generator.parameters(), lr=2e-3),
        critic_optimizer=torch.optim.Adam(critic.parameters(), lr=2e-3),
    )


def make_tree() -> Train:
    """Three critic steps, then one of the generator, on each batch."""
    critic = Chain(
        ClearGradients(),
        make_fake,
        critic_loss,
        Backward().bind(loss="critic_loss"),
        Update(),
        forbids=("generator.params", "generator.grads"),
    ).bind(model="critic", optimizer="critic_optimizer", updates="critic_updates")
    generator = Chain(ClearGradients(), make_fake, generator_loss, Backward(), Update()).bind(model="generator")
    return Train(Epoch(Fit(Fetch(), FitBatch(Unpack("real"), critic=Repeat(3, step=critic), generator=generator))))


if __name__ == "__main__":
    moons = torch.tensor(make_moons(512, noise=0.05, random_state=0)[0], dtype=torch.float32)
    loader = DataLoader(moons, batch_size=64, shuffle=True)
    learner = Learner.from_state(make_state(), make_tree(), train=loader)
    learner.fit(batches=200)
    state = learner.state
    print(f"{state.updates} updates of the generator, {state.critic_updates} of the critic")
    print(learner.log.blame("generator.params"))
    print(learner.log.blame("critic.params"))
