"""Looking changes nothing and keeps nothing; what is shared between names, legitimately, raises no alarm."""

import gc
import warnings
import weakref
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Learner, TrainState, stage
from learner.testing import toy_learner
from stages import UndeclaredChange

LEVELS = ("off", "parts", "contents", "debug")


def noisy(level: str, **settings: Any) -> Learner:
    """A model with everything that moves: dropout, BatchNorm, momentum, shuffled data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    data = torch.utils.data.TensorDataset(torch.randn(64, 3), torch.randn(64, 1))
    train = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    guard: Any = "off" if level == "debug" else level
    loss_fn = nn.functional.mse_loss
    learner = Learner(model, loss_fn, optimizer, train=train, valid=train, device="cpu", guard=guard, **settings)
    learner.debug(level == "debug")
    return learner


def test_a_run_is_the_same_to_the_last_bit_whoever_looks(outcome_of: Any, assert_same: Any) -> None:
    def result(level: str) -> dict[str, Any]:
        learner, losses = noisy(level), []
        learner.after("batch")(lambda state: losses.append(state.loss.detach().clone()))
        learner.fit(epochs=2)
        state = learner.state
        return {
            "losses": losses,
            "weights": state.model.state_dict(),
            "grads": [parameter.grad for parameter in state.model.parameters()],
            "optimizer": state.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }

    unwatched = result("off")
    assert len(unwatched["losses"]) == 64
    for level in LEVELS[1:]:
        assert_same(result(level), unwatched, level)


@pytest.mark.parametrize("level", LEVELS)
def test_no_tensor_of_a_batch_outlives_the_run(level: str) -> None:
    learner, kept = noisy(level), []

    def keep(state: Any) -> None:
        kept.extend(weakref.ref(one) for one in (state.inputs, state.outputs, state.loss))

    learner.after("batch", within="fit")(keep)
    learner.fit(batches=20)
    gc.collect()
    assert len(kept) == 60
    assert not [one for one in kept if one() is not None]


@pytest.mark.parametrize("level", LEVELS[1:])
def test_training_as_it_should_be_raises_no_alarm(level: str) -> None:
    with warnings.catch_warnings(action="error"):
        learner, batch = noisy(level), (torch.randn(4, 3), torch.randn(4, 1))
        learner.fit(epochs=2)
        learner.validate()
        learner.fit_batch(batch)
        learner.fit(updates=5)
    assert learner.outcome.ok
    assert not list(learner.log.where(actor="external"))
    assert not list(learner.log.where(evidence="undeclared"))


def test_tied_weights_raise_no_alarm() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    data = [(torch.randn(4, 2), torch.randn(4, 2)) for _ in range(8)]
    learner = Learner(model, nn.functional.mse_loss, optimizer, train=data, device="cpu")
    learner.debug()
    learner.fit(epochs=2)
    assert learner.outcome.ok


class Pair(TrainState):
    """A second module beside the model."""

    other: nn.Module


def two(other: nn.Module, model: nn.Module, parameters: Any) -> Learner:
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    data = [(torch.randn(4, 2), torch.randn(4, 2)) for _ in range(8)]
    modules = {"model": model, "other": other}
    learner = Learner(modules, nn.functional.mse_loss, optimizer, train=data, device="cpu")
    learner.debug()
    return learner


def test_two_fields_with_one_module_raise_no_alarm() -> None:
    model = nn.Linear(2, 2)
    learner = two(model, model, model.parameters())
    learner.fit(epochs=1)
    assert learner.outcome.ok


def test_a_field_with_a_part_of_the_model_raises_no_alarm() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    learner = two(model[0], model, model.parameters())
    learner.fit(epochs=1)
    assert learner.outcome.ok


def test_an_optimizer_over_several_modules_raises_no_alarm() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    learner = two(other, model, chain(model.parameters(), other.parameters()))

    @stage(writes=("outputs",))
    def both(model: nn.Module, other: nn.Module, inputs: Tensor) -> Any:
        return other(model(inputs))

    learner.swap("forward", both)
    before = other.weight.detach().clone()
    learner.fit(epochs=1)
    assert learner.outcome.ok
    assert not torch.equal(before, other.weight)


def test_what_is_not_shared_is_still_found() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    learner = two(other, model, model.parameters())

    @learner.after("update", writes=("model.params",))
    def wrong_one(model: nn.Module, other: nn.Linear) -> None:
        other.weight.data.add_(1)

    with pytest.raises(UndeclaredChange) as caught:
        learner.fit(epochs=1)
    assert [(one.name, one.inside) for one in caught.value.moves] == [("other.params", ("weight",))]


def test_losses_of_a_toy_run_are_those_without_a_guard() -> None:
    histories = [list(toy_learner(guard=level).fit(epochs=3)["train_loss"]) for level in ("off", "parts", "contents")]
    assert histories[0] == histories[1] == histories[2]
