"""Components: from what a person hands over to the fields of a State."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learner import ArgumentError
from learner.components import check_loader, check_optimizers, data_fields, make_state, pick_device, validation_sets
from state import TrainState

CPU = torch.device("cpu")


class OldStyle:
    """Iterable by index only."""

    def __getitem__(self, index: int) -> int:
        if index > 2:
            raise IndexError
        return index


def test_one_model_and_one_optimizer_make_a_train_state() -> None:
    model = nn.Linear(1, 1)
    state = make_state(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=1), CPU)
    assert type(state) is TrainState
    assert state.model is model and state.loss_fn is F.mse_loss and state.device == CPU


def test_optimizer_may_be_made_of_the_parameters() -> None:
    model = nn.Linear(1, 1)
    state = make_state(model, None, torch.optim.SGD, CPU)
    assert state.components(torch.optim.Optimizer)["optimizer"].param_groups[0]["params"] == list(model.parameters())


def test_further_models_and_optimizers_get_fields_of_their_own() -> None:
    models = {"model": nn.Linear(1, 1), "critic": nn.Linear(2, 1)}
    state = make_state(models, None, {"optimizer": torch.optim.SGD, "critic_optimizer": torch.optim.Adam}, CPU)
    assert state.specs["critic"].annotation is nn.Module
    assert state.specs["critic_optimizer"].description == "given to Learner"
    held = state.components(torch.optim.Optimizer)["critic_optimizer"]
    assert held.param_groups[0]["params"][0] is models["critic"].weight


def test_nothing_but_models_is_a_state_too() -> None:
    assert list(make_state(nn.Linear(1, 1), None, None, CPU).components(nn.Module)) == ["model"]


def test_optimizer_may_update_a_loss_that_is_a_module() -> None:
    loss_fn = nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))
    check_optimizers(make_state(nn.Linear(1, 1), loss_fn, torch.optim.SGD([loss_fn.pos_weight], lr=1), CPU))


def test_optimizer_of_a_copy_is_refused_by_name() -> None:
    models = {"model": nn.Linear(1, 1), "critic": nn.Linear(1, 1)}
    stray = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1)
    state = make_state(models, None, {"optimizer": torch.optim.SGD, "critic_optimizer": stray}, CPU)
    with pytest.raises(
        ArgumentError, match=r"'critic_optimizer' updates no parameter of \['critic', 'model'\]"
    ) as caught:
        check_optimizers(state)
    assert caught.value.argument == "critic_optimizer"


@pytest.mark.parametrize(
    ("valid", "names", "sets"),
    [
        (None, ["train_loader"], False),
        ([1], ["train_loader", "valid_loader"], True),
        ({"clean": [1], "noisy": [2]}, ["train_loader", "clean_loader", "noisy_loader"], ["clean", "noisy"]),
        ({}, ["train_loader"], []),
    ],
)
def test_data_become_loader_fields(valid: Any, names: list[str], sets: Any) -> None:
    assert list(data_fields([0], valid)) == names
    assert validation_sets(valid) == sets


@pytest.mark.parametrize("name", ["train", "fit", "predict", "epoch", "batch", "loss", "two words", "", 3])
def test_validation_set_with_a_name_that_is_taken_or_none_is_refused(name: Any) -> None:
    with pytest.raises(ArgumentError, match=r"valid= calls a set .*a word other than backward, batch, ") as caught:
        data_fields([0], {name: [1]})
    assert caught.value.argument == "valid"


@pytest.mark.parametrize("loader", [[1], (1,), iter([1]), {"a": 1}, OldStyle(), torch.utils.data.DataLoader([1])])
def test_anything_that_can_be_iterated_is_a_loader(loader: Any) -> None:
    check_loader(loader, "train")


@pytest.mark.parametrize("loader", [3, None, len, object()])
def test_what_cannot_be_iterated_is_refused(loader: Any) -> None:
    with pytest.raises(ArgumentError, match=r"train= is .*which cannot be iterated\. Give a DataLoader") as caught:
        check_loader(loader, "train")
    assert caught.value.argument == "train"


def test_auto_is_the_accelerator_if_there_is_one() -> None:
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else CPU
    assert pick_device("auto") == expected


def test_device_may_be_text_or_a_device() -> None:
    assert pick_device("cpu") == pick_device(CPU) == CPU


@pytest.mark.parametrize("device", ["gpu0", 3.5])
def test_unknown_device_is_refused(device: Any) -> None:
    with pytest.raises(ArgumentError, match=f"device={device!r} cannot be used here") as caught:
        pick_device(device)
    assert caught.value.argument == "device"
