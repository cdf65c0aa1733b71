"""Runs that are stopped more than once, in the middle of a limit, on the way out, or with other things in State."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from learner import (
    Callback,
    Cancel,
    Learner,
    TensorBatches,
    TrainState,
    after,
    before,
    field,
    stage,
)
from learner.checkpoints import Checkpoints
from learner.testing import toy_learner
from stages import Epoch, Fetch, Fit, FitBatch, Train, Unpack
from tests.integration.resuming.programs import Always, Program
from tests.integration.resuming.stopping import Make, Undisturbed, differences, result_of

steps = pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
"""Which of the points: every fourth from the last, or all."""


def assert_goes_on_from(make: Make, folder: Path, step: int, *, points: int, **limit: Any) -> None:
    whole = Undisturbed(make, folder, **limit)
    assert len(whole.points) == points
    for point in whole.points[::-step]:
        assert whole.differences(point) == [], f"stopped at checkpoint {point.number}, {point.run()['standing']}"


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


@stage(writes=("critic.grads", "critic.params", "critic_optimizer.state"))
def critic_update(critic: nn.Module, critic_optimizer: Optimizer, real: Tensor, fake: Tensor) -> None:
    critic_optimizer.zero_grad()
    loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
    loss.backward(inputs=list(critic.parameters()))
    critic_optimizer.step()


@stage(writes=("loss", "generator.grads", "generator.params", "optimizer.state", "updates"))
def generator_update(
    generator: nn.Module, critic: nn.Module, optimizer: Optimizer, fake: Tensor, updates: int
) -> tuple[Tensor, int]:
    optimizer.zero_grad()
    loss = F.softplus(-critic(fake)).mean()
    loss.backward(inputs=list(generator.parameters()))
    optimizer.step()
    return loss, updates + 1


def two_models(run_dir: Path) -> Learner:
    torch.manual_seed(1)
    generator, critic = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    first, second = (torch.optim.Adam(one.parameters(), lr=0.01) for one in (generator, critic))
    state = GanState(generator=generator, critic=critic, optimizer=first, critic_optimizer=second)
    data = TensorBatches(torch.randn(11, 2) + 3, batch_size=4, shuffle=True)
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack("real"), make_fake, critic_update, generator_update))))
    torch.seed()
    return Learner.from_state(state, tree, train=data, callbacks=[Always(keep=None)], run_dir=run_dir, seed=3)


@steps
def test_two_models_with_two_optimizers_go_on_from_every_point(step: int, tmp_path: Path) -> None:
    assert_goes_on_from(two_models, tmp_path, step, points=8, epochs=2)


class CarryState(TrainState):
    hidden: Tensor | None = field(scope="phase", default=None)
    seen: Tensor = field(scope="epoch")


@before("gradient", state=CarryState, reads=("hidden", "inputs"), writes=("hidden", "inputs"))
def carry(hidden: Tensor | None, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What is carried from batch to batch of a phase."""
    mean = inputs.mean() if hidden is None else 0.5 * hidden + 0.5 * inputs.mean()
    return mean, inputs + mean


@before("fit", state=CarryState, writes=("seen",))
def begin_epoch(epoch: int) -> Tensor:
    return torch.full((2,), float(epoch))


@before("update", state=CarryState, writes=("inputs",))
def use_epoch(seen: Tensor, inputs: Tensor) -> Tensor:
    return inputs * seen[0]


def toy(*callbacks: Any) -> Make:
    """Makes a learner of y = 3x; the second column of the targets tells which samples they are."""

    def make(run_dir: Path) -> Learner:
        inputs = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
        train = TensorBatches(
            inputs, torch.cat([3 * inputs, torch.arange(20.0)[:, None]], 1), batch_size=5, shuffle=True
        )
        given: dict[str, Any] = {"loss_fn": lambda outputs, targets: F.mse_loss(outputs, targets[:, :1])}
        torch.seed()
        given |= {"train": train, "valid": [(inputs, inputs.expand(-1, 2) * 3)], "run_dir": run_dir, "seed": 3}
        return toy_learner(callbacks=[*callbacks, Always(keep=None)], **given)

    return make


@steps
def test_values_of_the_phase_and_the_epoch_go_on(step: int, tmp_path: Path) -> None:
    assert_goes_on_from(toy(carry, begin_epoch, use_epoch), tmp_path, step, points=10, epochs=2)


@steps
@pytest.mark.parametrize(("limit", "points"), [({"batches": 6}, 8), ({"updates": 6}, 8), ({"batches": 4}, 5)])
def test_limit_inside_an_epoch_is_reached_from_every_point(
    step: int, limit: dict[str, int], points: int, tmp_path: Path
) -> None:
    assert_goes_on_from(toy(), tmp_path, step, points=points, **limit)


@dataclass(frozen=True)
class Stop(Callback):
    """Cancels `scope` in the second batch of the first epoch, after its update."""

    scope: str

    @after("fit/batch")
    def stop(self, state: Any) -> None:
        if state.epoch == 0 and state.batch_index == 1:
            raise Cancel(self.scope, "seen enough")


@steps
@pytest.mark.parametrize(("scope", "points"), [("batch", 10), ("phase", 8), ("epoch", 8), ("run", 3)])
def test_cancel_on_its_way_goes_on_to_where_it_ends(step: int, scope: str, points: int, tmp_path: Path) -> None:
    assert_goes_on_from(toy(Stop(scope)), tmp_path, step, points=points, epochs=2)


class Killed(Exception):
    pass


def killing(batch: int) -> Callable[[Any], None]:
    def kill(state: Any) -> None:
        if state.batch_index == batch:
            raise Killed

    return kill


def test_run_that_is_stopped_after_every_batch_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Each time it goes on by one batch, to the next checkpoint, and is stopped again."""
    program = Program("SampleBatches", epochs=1, lends=False)
    whole = Undisturbed(program.make, tmp_path, epochs=1)
    family = whole.stopped_at(whole.points[0])
    for batch in (2, 3):
        learner = program.make(family)

        learner.before("fit/batch")(killing(batch))
        with pytest.raises(Killed):
            learner.fit(epochs=1, resume="auto")
        learner.close()
        newest = Checkpoints(family / "0001").newest()
        assert newest is not None and newest[0].name == f"{batch:04d}"
    learner = program.make(family)
    learner.fit(epochs=1, resume="auto")
    assert differences(result_of(learner), whole.result) == []


def test_one_checkpoint_serves_twice(tmp_path: Path) -> None:
    program = Program("TensorBatches", epochs=1)
    whole = Undisturbed(program.make, tmp_path, epochs=1)
    for name in ("first", "second"):
        learner = program.make(tmp_path / name)
        learner.fit(epochs=1, resume=whole.points[1].path)
        assert differences(result_of(learner), whole.result) == []


def test_same_learner_goes_back_and_goes_on(tmp_path: Path) -> None:
    """load() of an earlier checkpoint takes back all that came after it."""
    program = Program("TensorBatches", epochs=1)
    learner = program.make(tmp_path)
    learner.fit(epochs=1)
    want = result_of(learner)
    assert learner.run_dir is not None
    for point in list(Checkpoints(learner.run_dir))[:2]:
        learner.fit(epochs=1, resume=point.path)
        assert differences(result_of(learner), want) == []
