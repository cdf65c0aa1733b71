"""TrainState: the fields of supervised training, their scopes and what they take."""

from typing import Any

import pytest
import torch
from torch import nn

from state import InvalidValue, State, TrainState
from state.schema import build, vocabulary
from state.scopes import Scopes
from state.train_state import Scratch

SCOPES = {
    "run": ["model", "optimizer", "loss_fn", "train_loader", "valid_loader", "device"]
    + ["updates", "epochs_done", "batches_seen", "samples_seen"],
    "epoch": ["epoch", "train_loss", "valid_loss"],
    "phase": ["batches", "batch_index"],
    "batch": ["batch", "inputs", "targets", "outputs", "loss", "loss_weight", "scratch"],
}


def test_fields_stand_in_the_scopes_of_the_design() -> None:
    found: dict[str, list[str]] = {}
    for name, spec in TrainState.specs.items():
        found.setdefault(spec.scope, []).append(name)
    assert found == SCOPES


@pytest.mark.parametrize("name", TrainState.specs)
def test_every_field_is_described_on_one_line(name: str) -> None:
    description = TrainState.specs[name].description
    assert description
    assert "\n" not in description


def test_what_is_not_saved_says_why() -> None:
    volatile = {name for name, spec in TrainState.specs.items() if spec.saved == "volatile"}
    assert {"train_loader", "valid_loader", "device", "batches", *SCOPES["batch"]} <= volatile
    assert not volatile & {"model", "optimizer", "updates", "epochs_done", "batches_seen", "train_loss", "batch_index"}
    assert all(TrainState.specs[name].because for name in volatile)


def test_a_new_one_has_its_totals_and_nothing_else() -> None:
    state = TrainState()
    assert state.model_dump() == {"updates": 0, "epochs_done": 0, "batches_seen": 0, "samples_seen": 0}
    assert build(state) == []


@pytest.mark.parametrize("name", ["updates", "epochs_done", "batches_seen", "samples_seen"])
def test_totals_do_not_go_below_zero(name: str) -> None:
    state = TrainState()
    with pytest.raises(InvalidValue, match="greater than or equal to 0") as caught:
        setattr(state, name, -1)
    assert caught.value.field == name
    assert getattr(state, name) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", len),
        ("optimizer", nn.Linear(1, 1)),
        ("loss_fn", 3),
        ("device", "cpu"),
        ("loss", 0.5),
        ("batches", [1]),
        ("scratch", {}),
        ("train_loss", "low"),
    ],
)
def test_wrong_types_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidValue, match=f"user may not set '{name}'") as caught:
        setattr(TrainState(), name, value)
    assert caught.value.field == name


@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5)])
def test_mean_losses_are_numbers_or_tensors_as_given(value: Any) -> None:
    state = TrainState()
    state.train_loss = value
    assert state.train_loss is value


@pytest.mark.parametrize("value", [torch.ones(2), {"ids": torch.ones(2)}, [torch.ones(1)], ("a", 1), None])
def test_a_batch_may_be_anything_and_keeps_its_identity(value: Any) -> None:
    state = TrainState()
    for name in ("batch", "inputs", "targets", "outputs"):
        setattr(state, name, value)
        assert getattr(state, name) is value


def test_scratch_is_new_for_each_batch_and_holds_any_data() -> None:
    state = TrainState()
    scopes = Scopes(state)
    assert not state.ready("scratch")
    hidden = scopes.open("batch")
    first = state.scratch
    first["anything"] = nn.Linear(1, 1)
    assert type(first) is Scratch
    scopes.close("batch", hidden)
    assert not state.ready("scratch")
    scopes.open("batch")
    assert state.scratch is not first
    assert state.scratch == {}


def test_its_components_have_parts() -> None:
    names = vocabulary(TrainState)
    assert {"model.params", "model.grads", "model.buffers", "model.mode"} < set(names)
    assert {"optimizer.state", "optimizer.hyper", "rng"} < set(names)
    assert "loss_fn.params" not in names


def test_it_is_open_for_subclasses() -> None:
    class ClipState(TrainState):
        grad_norm: torch.Tensor

    assert issubclass(ClipState, State)
    assert list(ClipState.specs) == [*TrainState.specs, "grad_norm"]
