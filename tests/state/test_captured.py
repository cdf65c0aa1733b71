"""Captured: each kind of component takes back what it had, and goes on as if nothing had been."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import lr_scheduler as schedulers

from state import State, TrainState, field
from state.bundle import read_bundle, write_bundle
from state.errors import SnapshotError
from state.snapshot import Restoration, Snapshot

Parameters = Iterator[nn.Parameter]
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
    "Adam, amsgrad": lambda ps: torch.optim.Adam(ps, lr=0.1, amsgrad=True),
    "Adam, fused": lambda ps: torch.optim.Adam(ps, lr=0.1, fused=True),
    "AdamW, foreach": lambda ps: torch.optim.AdamW(ps, lr=0.1, foreach=True),
    "AdamW, Tensor lr": lambda ps: torch.optim.AdamW(ps, lr=torch.tensor(0.1)),
    "LBFGS": lambda ps: torch.optim.LBFGS(ps, lr=0.1, max_iter=3),
    **{
        name: lambda ps, name=name: getattr(torch.optim, name)(ps, lr=0.1)
        for name in ("Adadelta", "Adagrad", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "Adafactor")
    },
}
SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 2, 4]),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, max_lr=0.3, total_steps=12),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.1, 0.2, step_size_up=3),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda n: 1 / (n + 1)),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, total_iters=3), schedulers.CosineAnnealingLR(o, 9)], [3]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, total_iters=3), schedulers.ExponentialLR(o, 0.9)], optimizer=o
    ),
}


class Full(TrainState):
    schedule: Any = field(default=None, description="a scheduler")


def given_back(state: State, other: State, folder: Path, **options: Any) -> None:
    """Take `other` to what `state` holds, by a checkpoint on the disk."""
    snapshot = Snapshot.of(state, grads=("model",))
    write_bundle(folder / "0001", snapshot.tensors, {"state": snapshot.document})
    bundle = read_bundle(folder / "0001")
    restoration = Restoration.of(other, Snapshot(bundle.tensors, bundle.documents["state"]), **options)
    restoration.apply()
    restoration.apply_generators()


def made(model: nn.Module, optimizer: Callable[[Any], Optimizer], schedule: Any = None) -> Full:
    held = optimizer(model.parameters())
    return Full(model=model, optimizer=held, schedule=None if schedule is None else schedule(held))


def train(state: Any, updates: int) -> None:
    for number in range(updates):
        inputs = torch.linspace(-1, 1, 12).reshape(3, 4) + state.updates

        def closure(inputs: Tensor = inputs) -> float:
            state.optimizer.zero_grad()
            loss = (state.model(inputs) ** 2).mean()
            loss.backward()
            return float(loss.detach())

        state.optimizer.step(closure)
        state.updates += 1
        if state.schedule is not None:
            plateau = isinstance(state.schedule, schedulers.ReduceLROnPlateau)
            state.schedule.step(1.0 + number) if plateau else state.schedule.step()


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif not callable(ours):
        assert type(ours) is type(theirs) and ours == theirs


def assert_goes_on_alike(make: Callable[[], Full], folder: Path) -> None:
    """Three updates, then three more; and the same with another State taken up in the middle."""
    state, other = make(), make()
    train(state, 3)
    train(other, 1)
    given_back(state, other, folder)
    for one in (state, other):
        train(one, 3)
    assert_same(other.model.state_dict(), state.model.state_dict())
    assert_same(other.optimizer.state_dict(), state.optimizer.state_dict())
    if state.schedule is not None:
        assert_same(other.schedule.state_dict(), state.schedule.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_goes_on_as_it_would_have(name: str, tmp_path: Path) -> None:
    assert_goes_on_alike(lambda: made(nn.Linear(4, 2), OPTIMIZERS[name]), tmp_path)


def test_state_of_another_dtype_than_the_parameter_keeps_it(tmp_path: Path) -> None:
    """bfloat16 weights with moments in float32, which Optimizer.load_state_dict would cast."""

    def make() -> Full:
        state = made(nn.Linear(4, 2).bfloat16(), OPTIMIZERS["Adam, amsgrad"])
        for parameter in state.model.parameters():
            zeros = torch.zeros_like(parameter, dtype=torch.float32)
            state.optimizer.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": zeros, "count": 3}
        return state

    state, other = make(), make()
    next(iter(state.optimizer.state.values()))["exp_avg"].fill_(0.1)
    given_back(state, other, tmp_path)
    assert_same(other.optimizer.state_dict(), state.optimizer.state_dict())
    assert {kept["exp_avg"].dtype for kept in other.optimizer.state.values()} == {torch.float32}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_goes_on_as_it_would_have(name: str, tmp_path: Path) -> None:
    if name == "CyclicLR":
        optimizer = OPTIMIZERS["SGD"]
    else:
        optimizer = OPTIMIZERS["AdamW, foreach"]
    assert_goes_on_alike(lambda: made(nn.Linear(4, 2), optimizer, SCHEDULERS[name]), tmp_path)


def two_layers(optimizer: Callable[[nn.Sequential], Optimizer]) -> Full:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    return Full(model=model, optimizer=optimizer(model))


def test_groups_go_on_with_their_own_settings(tmp_path: Path) -> None:
    def grouped(model: nn.Sequential) -> Optimizer:
        groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "betas": (0.5, 0.9)}]
        return torch.optim.Adam(groups, lr=0.01)

    assert_goes_on_alike(lambda: two_layers(grouped), tmp_path)


def test_group_that_was_added_later_is_there_again(tmp_path: Path) -> None:
    def first(model: nn.Sequential) -> Optimizer:
        return torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)

    state, other = two_layers(first), two_layers(first)
    state.optimizer.add_param_group({"params": state.model[1].parameters(), "lr": 0.5})
    train(state, 2)
    given_back(state, other, tmp_path)
    for one in (state, other):
        train(one, 2)
    assert_same(other.optimizer.state_dict(), state.optimizer.state_dict())
    assert_same(other.model.state_dict(), state.model.state_dict())


def test_state_goes_to_the_parameter_of_its_name_in_whatever_order(tmp_path: Path) -> None:
    def in_order(model: nn.Sequential) -> Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def reversed_order(model: nn.Sequential) -> Optimizer:
        return torch.optim.SGD(reversed(list(model.parameters())), lr=0.1, momentum=0.9)

    state, other = two_layers(in_order), two_layers(reversed_order)
    train(state, 2)
    given_back(state, other, tmp_path)
    for (_, ours), (_, theirs) in zip(other.model.named_parameters(), state.model.named_parameters(), strict=True):
        assert_same(other.optimizer.state[ours], state.optimizer.state[theirs])


class Odd(nn.Module):
    """Tied weights, a buffer that no state_dict has, extra state, and a layer that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.hidden += 1
        outputs: Tensor = self.second(self.first(inputs)) + self.frozen(inputs)
        return outputs

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        if state["calls"] < 0:
            raise ValueError("no calls of less than none")
        self.calls = state["calls"]


def test_module_takes_back_all_that_can_change_the_result(tmp_path: Path) -> None:
    state, other = made(Odd(), OPTIMIZERS["SGD"]), made(Odd(), OPTIMIZERS["SGD"])
    train(state, 2)
    state.model.first.eval()
    state.model.second.bias.requires_grad_(False)
    given_back(state, other, tmp_path)
    ours, theirs = other.model, state.model
    assert (ours.calls, ours.hidden.tolist()) == (2, [2.0, 2.0])
    assert ours.second.weight is ours.first.weight
    assert [part.training for part in ours.modules()] == [part.training for part in theirs.modules()]
    for mine, yours in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, yours) and mine.requires_grad == yours.requires_grad
        assert (mine.grad is None) == (yours.grad is None)
        assert mine.grad is None or torch.equal(mine.grad, yours.grad)


def test_what_was_given_back_is_nobody_elses(tmp_path: Path) -> None:
    """A second State from one snapshot does not change with the first."""
    state = made(nn.Linear(4, 2), OPTIMIZERS["AdamW, Tensor lr"])
    train(state, 2)
    snapshot = Snapshot.of(state).cloned()
    first, second = (made(nn.Linear(4, 2), OPTIMIZERS["AdamW, Tensor lr"]) for _ in range(2))
    for one in (first, second):
        Restoration.of(one, snapshot).apply()
    train(first, 3)
    first.optimizer.param_groups[0]["lr"].fill_(9)
    assert_same(second.optimizer.state_dict(), state.optimizer.state_dict())


def test_clone_does_not_change_with_the_run() -> None:
    state = made(nn.Linear(4, 2), OPTIMIZERS["SGD"])
    train(state, 1)
    snapshot = Snapshot.of(state, grads=("model",)).cloned()
    before = {name: one.clone() for group in snapshot.tensors.values() for name, one in group.items()}
    train(state, 2)
    assert_same({name: one for group in snapshot.tensors.values() for name, one in group.items()}, before)


def test_two_names_of_one_tensor_are_one_in_a_clone_too() -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    found = Snapshot.of(made(module, OPTIMIZERS["SGD"])).cloned().tensors["model"]
    assert found["0.weight"] is found["1.weight"]
    assert (
        torch.equal(found["0.weight"], module[0].weight) and found["0.weight"].data_ptr() != module[0].weight.data_ptr()
    )


def test_clone_leaves_to_the_writer_what_cannot_be_stored() -> None:
    module = nn.Module()
    module.register_buffer("graph", torch.eye(2).to_sparse())
    found = Snapshot.of(made(nn.Sequential(nn.Linear(2, 2), module), OPTIMIZERS["SGD"])).cloned()
    assert found.tensors["model"]["1.graph"].is_sparse


def test_gradients_that_are_cleared_are_left_out_and_none_afterwards(tmp_path: Path) -> None:
    state, other = (made(nn.Linear(4, 2), OPTIMIZERS["SGD"]) for _ in range(2))
    for one in (state, other):
        train(one, 1)
    snapshot = Snapshot.of(state, grads=("model",), cleared={id(state.model.weight)})
    Restoration.of(other, snapshot).apply()
    assert other.model.weight.grad is None
    assert torch.equal(other.model.bias.grad, state.model.bias.grad)


def test_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    state, other = made(nn.Linear(4, 2), OPTIMIZERS["SGD"]), made(nn.Linear(4, 2), OPTIMIZERS["RMSprop"])
    with pytest.raises(SnapshotError, match="optimizer: it was a SGD then, and is a RMSprop now"):
        given_back(state, other, tmp_path)


def test_optimizer_of_other_parameters_is_refused_by_their_names(tmp_path: Path) -> None:
    state = two_layers(lambda model: torch.optim.SGD(model[0].parameters(), lr=0.1))
    other = two_layers(lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(SnapshotError, match=r"it has nothing for \['model.1.weight', 'model.1.bias'\]"):
        given_back(state, other, tmp_path)


def test_scaler_goes_on_with_its_scale(tmp_path: Path) -> None:
    class Scaled(TrainState):
        scaler: torch.amp.GradScaler

    def make() -> Scaled:
        model = nn.Linear(4, 2)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        return Scaled(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), scaler=scaler)

    state, other = make(), make()
    state.scaler.scale(torch.ones(1))
    state.scaler.update(4.0)
    given_back(state, other, tmp_path)
    assert other.scaler.state_dict() == state.scaler.state_dict() and other.scaler.get_scale() == 4.0
