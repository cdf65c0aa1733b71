"""IsolateRng: training goes the same way with and without evaluations."""

import random
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Cancel, Learner
from learner.callbacks import IsolateRng

States = tuple[Tensor, Any, Any]


def learner_of(*callbacks: Any, valid: bool = True) -> Learner:
    """Training draws for dropout and for the order of the data."""
    torch.manual_seed(1)
    data = TensorDataset(torch.randn(24, 4), torch.randint(0, 3, (24,)))
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    return Learner(
        model,
        nn.functional.cross_entropy,
        torch.optim.SGD(model.parameters(), lr=0.1),
        train=DataLoader(data, batch_size=8, shuffle=True),
        valid=DataLoader(data, batch_size=8) if valid else None,
        callbacks=callbacks,
        device="cpu",
    )


def drawing(learner: Learner) -> None:
    """A validation that draws from all three generators."""

    @learner.after("validate/batch", touches=("rng",))
    def draw(inputs: Tensor) -> None:
        torch.rand(3)
        numpy.random.rand()
        random.random()


def generators() -> States:
    return torch.get_rng_state(), numpy.random.get_state(), random.getstate()


def same(one: States, other: States) -> bool:
    numbers = zip(one[1], other[1], strict=True)
    return torch.equal(one[0], other[0]) and all(numpy.array_equal(a, b) for a, b in numbers) and one[2] == other[2]


def weights_of(learner: Learner) -> Tensor:
    torch.manual_seed(2)
    learner.debug()
    learner.fit(epochs=3)
    weight: Tensor = learner.state.model[0].weight
    return weight


def test_training_has_the_same_bits_with_and_without_validation() -> None:
    isolated, without, plain = learner_of(IsolateRng()), learner_of(valid=False), learner_of()
    weights = [weights_of(learner) for learner in (isolated, without, plain)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]), "without it, a validation moves the generators"


def test_training_has_the_same_bits_however_much_a_validation_draws() -> None:
    isolated = learner_of(IsolateRng())
    drawing(isolated)
    assert torch.equal(weights_of(isolated), weights_of(learner_of(valid=False)))


def test_generators_of_numpy_and_python_are_given_back_too() -> None:
    for callbacks, is_kept in (((IsolateRng(),), True), ((), False)):
        learner = learner_of(*callbacks)
        drawing(learner)
        learner.fit(epochs=1)
        before = generators()
        learner.validate()
        assert same(before, generators()) == is_kept


@pytest.mark.parametrize("scope", ["batch", "phase", "epoch", "run"])
def test_generators_are_given_back_when_a_validation_is_cancelled(scope: str) -> None:
    learner = learner_of(IsolateRng())
    drawing(learner)
    learner.after("validate/batch/unpack")(cancelling(scope))
    before = generators()
    learner.run("epoch/validate")
    assert same(before, generators())


def cancelling(scope: str) -> Any:
    """A hook that cancels `scope`."""

    def cancel(state: Any) -> None:
        if state.batch_index == 1:
            raise Cancel(scope, "enough")

    return cancel


def test_generators_are_given_back_when_a_validation_fails() -> None:
    learner = learner_of(IsolateRng())
    drawing(learner)

    @learner.after("validate/batch")
    def fail(state: Any) -> None:
        raise ZeroDivisionError

    before = generators()
    with pytest.raises(ZeroDivisionError):
        learner.run("epoch/validate")
    assert same(before, generators())


def test_log_has_what_was_lent_and_given_back() -> None:
    learner = learner_of(IsolateRng())
    learner.fit(epochs=1)
    told = learner.log.where(field="rng", actor="*IsolateRng*")
    assert [change.evidence for change in told] == ["until restored", "restored"]


@pytest.mark.gpu
def test_generator_of_a_gpu_is_given_back() -> None:
    learner = learner_of(IsolateRng())

    @learner.after("validate/batch", touches=("rng",))
    def draw(inputs: Tensor) -> None:
        torch.rand(3, device="cuda")

    torch.rand(1, device="cuda")
    before = torch.cuda.get_rng_state()
    learner.run("epoch/validate")
    assert torch.equal(before, torch.cuda.get_rng_state())
