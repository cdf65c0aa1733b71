"""The invariants that every Learner has: each is broken by one program, and holds in its near miss."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR
from torch.utils.data import DataLoader, Dataset

from learner import (
    Callback,
    Invariant,
    InvariantBroken,
    InvariantWarning,
    Learner,
    TrainState,
    after,
    around,
    field,
    stage,
)
from learner.callbacks import Schedule
from learner.invariants import defaults, schedules
from stages import ClearGradients, Epoch, Fetch, Fit, FitBatch, Forward, Loss, Train, Unpack, Update, When
from tests.learner.invariants import of_phases, of_updates  # noqa: F401  # they add their programs
from tests.learner.invariants.breaking import PROGRAMS, Build, learner_of, network


def test_best_weights_put_back_after_a_validation_are_no_finding() -> None:
    class Best(Callback):
        @after("validate", writes=("model.params",))
        def restore(self, model: nn.Module) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0.5)

    learner = learner_of(network(), Best())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.fit(epochs=2)
    assert not learner.log.violations()


def violations(learner: Learner) -> list[tuple[str, str]]:
    """What breaks in three epochs: (name of the invariant, who is named)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InvariantWarning)
        try:
            learner.fit(epochs=3)
        except InvariantBroken as error:
            assert str(error).startswith(error.actor)
    assert len(caught) <= len(learner.log.violations())
    return list(dict.fromkeys((row.evidence, row.actor) for row in learner.log.where(kind="broken")))


@pytest.mark.parametrize(("build", "name", "culprit"), PROGRAMS)
def test_it_is_found_once_with_its_culprit(build: Build, name: str, culprit: str) -> None:
    quiet = {one.name for one in defaults() if one.then == "record"} - {name}
    assert [one for one in violations(build(True)) if one[0] not in quiet] == [(name, culprit)]


@pytest.mark.parametrize(("build", "name", "culprit"), PROGRAMS)
@pytest.mark.parametrize("is_debugging", [False, True])
def test_its_near_miss_is_no_finding(build: Build, name: str, culprit: str, is_debugging: bool) -> None:
    learner = build(False)
    learner.debug(is_debugging)
    assert violations(learner) == []
    assert not learner.log.violations()


def test_every_invariant_has_a_program() -> None:
    assert {program.values[1] for program in PROGRAMS} == {one.name for one in defaults()}


def test_run_that_is_taken_back_may_draw_again_what_it_drew(tmp_path: Path) -> None:
    learner = learner_of(network(nn.Dropout(0.5)), run_dir=tmp_path / "run")
    learner.save(tmp_path / "start")
    learner.fit(epochs=1)
    learner.load(tmp_path / "start")
    learner.fit(epochs=1)
    assert not learner.log.where(kind="broken")


def test_second_fit_with_the_same_seed_may_draw_what_the_first_drew() -> None:
    learner = learner_of(network(nn.Dropout(0.5)))
    for _ in range(2):
        torch.manual_seed(7)
        learner.fit(epochs=1)
    assert not learner.log.where(kind="broken")


def quiet(learner: Learner, epochs: int = 2) -> bool:
    """Whether nothing is said, warned of or on record."""
    learner.fit(epochs=epochs)
    return not learner.log.violations()


def test_stage_that_clears_makes_and_steps_by_itself_may_find_gradients_of_another() -> None:
    class Pair(TrainState):
        critic: nn.Module
        critic_optimizer: torch.optim.Optimizer

    own = ("critic.grads", "critic.params", "critic_optimizer.state")

    @stage(state=Pair, writes=own, touches=("model.grads",))
    def criticise(model: nn.Module, critic: nn.Module, critic_optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
        critic_optimizer.zero_grad()
        critic(model(inputs)).mean().backward()
        critic_optimizer.step()

    @stage(state=Pair, writes=("model.grads", "model.params", "optimizer.state"), touches=("critic.grads",))
    def generate(model: nn.Module, critic: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
        optimizer.zero_grad()
        critic(model(inputs)).square().mean().backward()
        optimizer.step()

    model, critic = network(), nn.Linear(1, 1)
    state = Pair(
        model=model,
        critic=critic,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        critic_optimizer=torch.optim.SGD(critic.parameters(), lr=0.01),
    )
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), criticise, generate))))
    batches = [(torch.randn(8, 4), torch.ones(8, 1)) for _ in range(6)]
    assert quiet(Learner.from_state(state, stages=tree, train=batches))


def test_gradients_of_two_models_may_be_cleared_by_one_stage_and_made_and_used_by_one_each() -> None:
    class Pair(TrainState):
        other: nn.Module
        other_optimizer: torch.optim.Optimizer

    @stage(state=Pair, writes=("model.grads", "other.grads"))
    def clear(optimizer: torch.optim.Optimizer, other_optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        other_optimizer.zero_grad()

    @stage(state=Pair, writes=("model.grads", "model.params", "optimizer.state", "updates"))
    def one(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, updates: int) -> int:
        model(inputs).square().mean().backward()
        optimizer.step()
        return updates + 1

    @stage(state=Pair, writes=("other.grads", "other.params", "other_optimizer.state"))
    def two(other: nn.Module, other_optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
        other(inputs).square().mean().backward()
        other_optimizer.step()

    model, other = network(), network()
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.01) for one in (model, other)]
    state = Pair(model=model, other=other, optimizer=optimizers[0], other_optimizer=optimizers[1])
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), clear, one, two))))
    batches = [(torch.randn(8, 4), torch.ones(8, 1)) for _ in range(6)]
    assert quiet(Learner.from_state(state, stages=tree, train=batches))


def test_loss_that_is_summed_over_some_batches_may_have_their_graphs() -> None:
    class Sum(TrainState):
        total: Tensor = field(factory=lambda state: torch.zeros(()), scope="epoch")

    @stage(state=Sum, writes=("total",))
    def add(total: Tensor, loss: Tensor) -> Tensor:
        return total + loss

    @stage(state=Sum, writes=("model.grads", "total"))
    def backward(model: nn.Module, total: Tensor) -> Tensor:
        total.backward()
        return torch.zeros(())

    def is_full(batch_index: int) -> bool:
        return batch_index % 4 == 3

    last = When(is_full, ClearGradients(), backward, Update())
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), Forward(), Loss(), add, last))))
    model, batches = network(), [(torch.randn(8, 4), torch.ones(8, 1)) for _ in range(6)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert quiet(Learner(model, nn.functional.mse_loss, optimizer, train=batches, stages=tree))


def test_layer_that_waits_for_an_epoch_is_no_finding() -> None:
    class Wait(Callback):
        @after("gradient/backward", when=lambda state: state.epoch < 1, writes=("model.grads",))
        def hold(self, model: nn.Sequential) -> None:
            model[2].weight.grad = None

    assert quiet(learner_of(network(), Wait()))


@pytest.mark.parametrize(
    ("limit", "is_told"), [({"epochs": 1}, True), ({"epochs": 2}, True), ({"batches": 5}, False)], ids=str
)
def test_gradients_that_never_came_are_told_of_when_a_short_run_ends(limit: dict[str, int], is_told: bool) -> None:
    learner = of_updates.encoder_that_is_cut_off(True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InvariantWarning)
        learner.fit(**limit)
    assert any("had no gradient so far" in str(one.message) for one in caught) is is_told


def test_average_may_be_prepared_around_an_evaluation() -> None:
    class Average(TrainState):
        ema: nn.Module = field(factory=lambda state: deepcopy(state.model))

    class Lend(Callback):
        @around("validate", state=Average, touches=("ema.buffers",))
        def prepare(self, ema: nn.Sequential) -> Any:
            with torch.no_grad():
                ema[1].running_mean.add_(1.0)
            yield

    assert quiet(learner_of(network(nn.BatchNorm1d(8)), Lend()))


def test_what_is_loaded_is_the_doing_of_who_loads_it(tmp_path: Path) -> None:
    learner = learner_of(network(), Schedule(lambda optimizer: ExponentialLR(optimizer, 0.5)), run_dir=tmp_path / "run")
    learner.fit(batches=2)
    learner.save(tmp_path / "kept")
    learner.fit(batches=1)
    learner.load(tmp_path / "kept")
    for name in ("model.params", "optimizer.hyper.lr", "schedule.state.last_epoch"):
        assert learner.log.blame(name).actor == "user"
    learner.fit(epochs=1)
    assert not learner.log.violations()


def test_sparse_gradients_end_no_run() -> None:
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 1))
    batches = [(torch.randint(0, 10, (8,)), torch.randn(8, 1)) for _ in range(6)]
    learner = learner_of(model, train=batches)
    learner.debug()
    learner.fit(batches=5)
    assert learner.state.updates == 5 and not learner.log.violations()


def test_without_invariants_nothing_is_said_of_modules_in_a_plain_list() -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.blocks = nn.Linear(4, 1), [nn.Linear(4, 4), nn.Linear(4, 4)]

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.last(inputs))

    with pytest.warns(InvariantWarning, match="model.blocks is a list with 2 modules or parameters to be trained"):
        learner_of(Tower())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = learner_of(Tower(), invariants=())
    assert [one.kind for one in quiet.check()] == ["kept outside"]


@pytest.mark.parametrize("latest", [1, 2, 3, 5])
@pytest.mark.parametrize("is_bad", [True, False])
def test_rates_are_looked_back_at_from_a_point_where_all_updates_are_known(
    latest: int, is_bad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "LATEST", latest)
    found = violations(of_updates.rate_that_falls_with_every_batch_of_a_window(is_bad))
    assert bool(found) is (is_bad and latest > 2)


def test_lazy_module_is_trained_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch's, of lazy modules
        warnings.simplefilter("error", InvariantWarning)
        model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(1))
        learner_of(model).fit(epochs=3)


def chained() -> Learner:
    return learner_of(network(), Schedule(lambda o: ChainedScheduler([ConstantLR(o, 0.5), ExponentialLR(o, 0.9)])))


def variable_that_gets_its_value_later() -> Learner:
    @after("epoch", writes=("optimizer.hyper",))
    def decay(optimizer: torch.optim.Optimizer) -> None:
        optimizer.param_groups[0]["lr"] *= rate

    learner = learner_of(network(), decay)
    rate = 0.9
    return learner


class Rows(Dataset[Any]):
    """Rows that cannot be written, read into one array."""

    def __init__(self) -> None:
        self.rows = np.broadcast_to(np.arange(4, dtype=np.float32), (48, 4))
        self.out = np.zeros((8, 4), dtype=np.float32)

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        np.multiply(self.rows[:8], index + np.arange(8)[:, None], out=self.out)
        return torch.tensor(self.out), torch.tensor(self.out[:, :1])


def read_only_rows_put_together_in_one_array() -> Learner:
    return learner_of(network(), train=DataLoader(Rows(), batch_size=None))


def validation_that_shuffles_one_kind_of_targets() -> Learner:
    inputs = torch.randn(48, 4)
    data = [(row, torch.tensor([float(number % 2)])) for number, row in enumerate(inputs)]
    return learner_of(network(), valid=DataLoader(data, batch_size=24, shuffle=True))  # type: ignore[arg-type]


def live_view_from_the_beginning() -> Learner:
    model = network()

    class Norms(Callback):
        def __init__(self) -> None:
            self.live = model.state_dict()

        @after("epoch")
        def look(self, state: Any) -> None: ...

    return learner_of(model, Norms())


@pytest.mark.parametrize(
    "build",
    [
        chained,
        variable_that_gets_its_value_later,
        read_only_rows_put_together_in_one_array,
        validation_that_shuffles_one_kind_of_targets,
        live_view_from_the_beginning,
    ],
)
def test_what_is_right_is_trained_without_a_word(build: Callable[[], Learner]) -> None:
    learner = build()
    learner.debug()
    learner.fit(epochs=3)  # a warning is an error in these tests
    assert not learner.log.where(kind="broken")


def test_check_that_only_warns_ends_no_run_where_it_fails_itself() -> None:
    broken = Invariant("it can be asked", lambda epochs_done: epochs_done.nothing, after="/", then="warn")
    with pytest.warns(InvariantWarning, match="cannot be asked"):
        learner_of(network(), invariants=[broken]).fit(epochs=1)
