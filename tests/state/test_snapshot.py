"""Snapshots: everything in a State is taken and given back, or what does not fit is named and nothing has changed."""

import random
from collections import deque
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from learner.callbacks.mean import RunningMean
from state import State, TrainState, field
from state.bundle import read_bundle, write_bundle
from state.errors import SnapshotError
from state.schema import build
from state.snapshot import Restoration, Snapshot, read_generators, write_generators


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Rich(State):
    colour: Colour = Colour.RED
    pair: tuple[int, float] = (0, 0.0)
    table: Any = None
    best: float | None = None
    center: nn.Parameter | None = None


def on_disk(state: State, folder: Path) -> Snapshot:
    snapshot = Snapshot.of(state)
    write_bundle(folder / "0001", snapshot.tensors, {"state": snapshot.document})
    bundle = read_bundle(folder / "0001")
    return Snapshot(bundle.tensors, bundle.documents["state"])


def test_values_of_every_kind_come_back(tmp_path: Path) -> None:
    table = {"seen": deque([1, float("nan")], maxlen=3), 3: {torch.float16, torch.int8}, "sizes": torch.Size([2])}
    state = Rich(colour=Colour.BLUE, pair=(3, float("inf")), table=table, best=float("-inf"))
    other = Rich()
    Restoration.of(other, on_disk(state, tmp_path)).apply()
    assert other.colour is Colour.BLUE and other.pair == (3, float("inf")) and other.best == float("-inf")
    seen = other.table.pop("seen")
    assert str(seen) == str(table.pop("seen")) and seen.maxlen == 3  # NaN is not equal to itself
    assert other.table == table and type(other.table["sizes"]) is torch.Size


def test_derived_value_is_made_anew_of_what_came_back(tmp_path: Path) -> None:
    class Derived(State):
        table: Any = None
        size: int = field(saved="derived", because="of the table", factory=lambda state: len(state.table))

    state, other = Derived(table=[1, 2]), Derived(table=[1], size=1)
    Restoration.of(other, on_disk(state, tmp_path)).apply()
    assert other.table == [1, 2] and other.size == 2


def test_parameter_of_its_own_is_filled_in_place(tmp_path: Path) -> None:
    """An optimizer may hold it."""
    state, other = Rich(center=nn.Parameter(torch.ones(2))), Rich(center=nn.Parameter(torch.zeros(2)))
    live = other.center
    Restoration.of(other, on_disk(state, tmp_path)).apply()
    assert other.center is live and torch.equal(other.center, torch.ones(2))


def made(**fields: Any) -> TrainState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    return TrainState(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **fields)


def held(state: State) -> Any:
    """All that a refusal must leave as it was."""
    return deepcopy(
        [(name, getattr(value, "state_dict", lambda v=value: v)()) for name, value in state.__dict__.items()]
    )


def refused(state: State, snapshot: Snapshot, **options: Any) -> str:
    """The message of a refusal, which changes nothing."""
    before, generators = held(state), str(read_generators())
    with pytest.raises(SnapshotError) as caught:
        Restoration.of(state, snapshot, **options).apply()
    assert str(held(state)) == str(before) and str(read_generators()) == generators
    return str(caught.value)


def test_everything_that_does_not_fit_is_named_in_one_error(tmp_path: Path) -> None:
    class More(TrainState):
        wanted: int = 3
        optimiser_steps: int = 0

    class Other(TrainState):
        extra: int = 4

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Identity(), nn.Linear(3, 3))
    state = More(model=model, optimizer=torch.optim.Adam(model.parameters()))
    first = made()
    snapshot = on_disk(Other(model=first.model, optimizer=first.optimizer), tmp_path)
    told = refused(state, snapshot)
    for part in (
        "model.2.weight is missing in it",
        "model.1.running_mean is in it and not in the module",
        "model.0.weight is float32[3, 2] in it and float32[4, 2] here",
        "optimizer: it was a SGD then, and is a Adam now",
        "it has the field 'extra', which State has not",
        "it has nothing for the field 'wanted'",
        "it has nothing for the field 'optimiser_steps'",
        "Nothing was changed. Leave out by partial=[...]",
    ):
        assert part in told


class Derived(TrainState):
    """`half` is of what the second one, declared after it, is of."""

    table: Any = None
    half: int = field(saved="derived", because="of the size", factory=lambda state: state.size // 2)
    size: int = field(saved="derived", because="of the table", factory=lambda state: len(state.table))


def derived(table: Any) -> Derived:
    """One that has been trained for an update, with a metric, gradients and a frozen bias."""
    torch.manual_seed(len(table))
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    model[0].register_buffer("hidden", torch.rand(1), persistent=False)
    model[0].bias.requires_grad_(len(table) % 2 == 1)
    state = Derived(model=model, optimizer=torch.optim.Adam(model.parameters(), lr=0.1), table=table)
    model(torch.randn(4, 2)).square().sum().backward()
    state.optimizer.step()
    build(state)
    return state


def test_derived_values_are_made_each_after_what_it_is_made_of() -> None:
    state, other = derived([1, 2, 3, 4]), derived([1])
    Restoration.of(other, Snapshot.of(state)).apply()
    assert (other.size, other.half) == (4, 2)


@pytest.mark.parametrize("grown", [False, True])
def test_a_derived_value_that_cannot_be_made_leaves_everything_as_it_was(grown: bool) -> None:
    state, other = derived([1, 2]), derived([1])
    state.table = 7  # has no length
    if grown:
        state.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "initial_lr": 3.0})
        other.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    state.model.train()
    weight, bias = other.model[0].weight, other.model[0].bias
    gradient, hidden = weight.grad, other.model[0].hidden.clone()
    told = refused(other, Snapshot.of(state, grads=["model"]))
    assert "'size'" in told and "TypeError: object of type 'int' has no len()" in told and "Nothing was changed" in told
    assert (other.table, other.size, other.half) == ([1], 1, 0)
    assert weight.grad is gradient and torch.equal(other.model[0].hidden, hidden)
    assert not any(part.training for part in other.model.modules()) and bias.requires_grad
    assert "initial_lr" not in other.optimizer.param_groups[-1]


def test_dtype_of_weights_is_not_converted(tmp_path: Path) -> None:
    state = made()
    state.model.half()
    told = refused(state, on_disk(made(), tmp_path))
    assert "model.0.weight is float32[3, 2] in it and float16[3, 2] here" in told


def test_value_that_its_field_does_not_take_is_refused(tmp_path: Path) -> None:
    class First(State):
        value: Any = 3

    class Second(State):
        value: str = ""

    assert "value" in refused(Second(), on_disk(First(), tmp_path))


def test_partial_leaves_fields_as_they_are(tmp_path: Path) -> None:
    state, other = made(updates=7, epochs_done=2), made()
    with torch.no_grad():
        state.model[0].weight.fill_(3)
    weight = other.model[0].weight.detach().clone()
    Restoration.of(other, on_disk(state, tmp_path), partial=["model", "epochs*"]).apply()
    assert (other.updates, other.epochs_done) == (7, 0)
    assert torch.equal(other.model[0].weight, weight)


def test_partial_passes_over_what_only_one_side_has(tmp_path: Path) -> None:
    class Other(TrainState):
        extra: int = 4

    first, state = made(updates=7), made()
    snapshot = on_disk(Other(model=first.model, optimizer=first.optimizer, updates=7), tmp_path)
    Restoration.of(state, snapshot, partial=["extra"]).apply()
    assert state.updates == 7


def test_partial_that_names_nothing_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    told = refused(made(), on_disk(made(), tmp_path), partial=["optimiser"])
    assert "partial= names ['optimiser']" in told and "'optimizer'" in told


class Refusing:
    """A component that takes no state that was saved, or every one."""

    def __init__(self, value: int, *, refuses: bool = False) -> None:
        self.value, self.refuses = value, refuses

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if self.refuses and state["value"] != self.value:
            raise RuntimeError("not this one")
        self.value = state["value"]


class Picky(nn.Linear):
    """A module whose extra state may be refused, after its weights were loaded."""

    def get_extra_state(self) -> int:
        return 3

    def set_extra_state(self, state: int) -> None:
        if self.out_features == 5 and not torch.equal(self.weight, torch.zeros_like(self.weight)):
            raise RuntimeError("no such weights")


class Components(State):
    first: Refusing
    second: Refusing
    third: nn.Module
    fourth: nn.Module
    count: int = 0


def test_component_that_refuses_its_state_leaves_all_others_as_they_were(tmp_path: Path) -> None:
    def make(value: int, *, refuses: bool = False) -> Components:
        third = nn.Linear(2, 2)
        return Components(
            first=Refusing(value), second=Refusing(value, refuses=refuses), third=third, fourth=Picky(2, 2), count=value
        )

    told = refused(make(1, refuses=True), on_disk(make(2), tmp_path))
    assert "second: Refusing does not take what the checkpoint has: not this one" in told


def test_module_that_refuses_its_state_leaves_all_others_as_they_were(tmp_path: Path) -> None:
    def make(value: int) -> Components:
        fourth = Picky(2, 5)
        nn.init.constant_(fourth.weight, value)
        return Components(
            first=Refusing(value), second=Refusing(value), third=nn.Linear(2, 2), fourth=fourth, count=value
        )

    assert "fourth: Picky does not take what the checkpoint has" in refused(make(0), on_disk(make(2), tmp_path))


def test_loss_with_tensors_is_kept_and_a_function_is_not(tmp_path: Path) -> None:
    state, other = made(loss_fn=nn.BCELoss(weight=torch.ones(2))), made(loss_fn=nn.BCELoss(weight=torch.zeros(2)))
    assert "loss_fn" not in Snapshot.of(made(loss_fn=nn.functional.mse_loss)).document["fields"]
    Restoration.of(other, on_disk(state, tmp_path)).apply()
    assert torch.equal(other.loss_fn.weight, torch.ones(2))


def test_module_without_tensors_needs_no_group(tmp_path: Path) -> None:
    state, other = made(loss_fn=nn.MSELoss()), made(loss_fn=nn.MSELoss())
    state.loss_fn.eval()
    snapshot = Snapshot.of(state)
    assert "loss_fn" in snapshot.document["fields"] and "loss_fn" not in snapshot.tensors
    Restoration.of(other, snapshot).apply()
    assert not other.loss_fn.training


def test_metric_goes_on_with_its_count(tmp_path: Path) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")

    class Metrics(State):
        mean: torchmetrics.MeanMetric
        sums: RunningMean

    def make() -> Any:
        mean = torchmetrics.MeanMetric()
        mean.persistent(True)
        return Metrics(mean=mean, sums=RunningMean())

    state, other = make(), make()
    for value in (1.0, 4.0):
        state.mean.update(value)
        state.sums.add(value, 2)
    Restoration.of(other, on_disk(state, tmp_path)).apply()
    for one in (state, other):
        one.mean.update(7.0)
        one.sums.add(7.0, 2)
    assert float(other.mean.compute()) == 4.0 and other.mean._update_count == 3
    assert other.sums.mean() == state.sums.mean() == 4.0


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    random.gauss(), np.random.randn()  # each keeps the spare one of two numbers
    snapshot = on_disk(Rich(), tmp_path)

    def draw() -> tuple[Any, ...]:
        return random.gauss(), random.random(), float(np.random.randn()), torch.randn(3).tolist()

    want = draw()
    restoration = Restoration.of(Rich(), snapshot)
    restoration.apply()
    assert draw() != want, "they are set last of all"
    restoration.apply_generators()
    assert draw() == want


def test_taking_a_snapshot_draws_nothing() -> None:
    before = read_generators()
    Snapshot.of(made())
    assert str(read_generators()) == str(before)
    write_generators(before)


def test_field_that_cannot_be_saved_is_named() -> None:
    class Held(State):
        thing: Any = None

    with pytest.raises(SnapshotError, match=r"'thing.0' holds a builtins.object"):
        Snapshot.of(Held(thing=[object()]))
