"""Two models, two optimizers, one tree: an adversarial pair by stages written by hand."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from learner import Composite, Learner, TrainState, field, stage
from stages import Epoch, Fetch, Fit, FitBatch, Train, Unpack


class GanState(TrainState):
    generator: nn.Module
    critic: nn.Module
    critic_optimizer: Optimizer
    real: Tensor = field(scope="batch")
    fake: Tensor = field(scope="batch")
    critic_loss: Tensor = field(scope="batch")


@stage(state=GanState, writes=("fake",), touches=("rng",))
def make_fake(generator: nn.Module, real: Tensor) -> Tensor:
    fake: Tensor = generator(torch.randn_like(real))
    return fake


@stage(writes=("critic_loss",))
def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()


@stage(writes=("critic.grads", "critic.params", "critic_optimizer.state"))
def critic_update(critic: nn.Module, critic_optimizer: Optimizer, critic_loss: Tensor) -> None:
    critic_optimizer.zero_grad()
    critic_loss.backward(inputs=list(critic.parameters()))
    critic_optimizer.step()


@stage(writes=("loss",))
def generator_loss(critic: nn.Module, fake: Tensor) -> Tensor:
    return F.softplus(-critic(fake)).mean()


@stage(writes=("generator.grads", "generator.params", "optimizer.state", "updates"))
def generator_update(generator: nn.Module, optimizer: Optimizer, loss: Tensor, updates: int) -> int:
    optimizer.zero_grad()
    loss.backward(inputs=list(generator.parameters()))
    optimizer.step()
    return updates + 1


def test_two_models_train_in_one_tree_as_by_hand() -> None:
    data = [torch.randn(8, 2) + 3 for _ in range(6)]

    def parts() -> tuple[nn.Module, nn.Module, Optimizer, Optimizer]:
        torch.manual_seed(1)
        generator, critic = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        optimizers = [torch.optim.Adam(one.parameters(), lr=0.01) for one in (generator, critic)]
        return generator, critic, *optimizers

    generator, critic, optimizer, critic_optimizer = parts()
    for real in data * 2:
        fake = generator(torch.randn_like(real))
        critic_optimizer.zero_grad()
        (F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()).backward()
        critic_optimizer.step()
        optimizer.zero_grad()
        F.softplus(-critic(fake)).mean().backward()
        optimizer.step()
    by_hand = [*generator.parameters(), *critic.parameters()]

    own, judge, first, second = parts()
    state = GanState(generator=own, critic=judge, optimizer=first, critic_optimizer=second)
    critic_step = Composite(make_fake, critic_loss, critic_update)
    generator_step = Composite(generator_loss, generator_update)
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack("real"), critic_step=critic_step, generator_step=generator_step))))
    Learner.from_state(state, tree, train=data).fit(batches=12)
    assert all(map(torch.equal, by_hand, [*own.parameters(), *judge.parameters()]))
    assert state.updates == 12


def test_backward_fills_the_gradients_of_its_own_model_only() -> None:
    model, critic = nn.Linear(2, 2), nn.Linear(2, 1)

    @stage(writes=("loss",))
    def judged(outputs: Tensor, critic: nn.Module) -> Tensor:
        loss: Tensor = critic(outputs).mean()
        return loss

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [(torch.ones(3, 2), torch.ones(3, 2))]
    models = {"model": model, "critic": critic}
    learner = Learner(models, F.mse_loss, optimizer, train=data, device="cpu")
    learner.swap("gradient/loss", judged)
    learner.fit(epochs=1)
    assert model.weight.grad is not None
    assert all(parameter.grad is None for parameter in critic.parameters())
