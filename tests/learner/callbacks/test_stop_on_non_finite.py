"""StopOnNonFinite: the run ends before a bad value reaches the parameters."""

from typing import Any

import pytest
import torch
from torch import nn

from learner import Learner
from learner.callbacks import ClipGradients, StopOnNonFinite
from learner.errors import ArgumentError
from stages import DeclarationError

BAD = pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])


def with_bad_batch(make: Any, *callbacks: Any, bad: float, number: int = 2) -> Learner:
    """A Learner whose loss is `bad` in one batch of five."""
    data = [(torch.ones(2, 4) * (bad if i == number else 1.0), torch.zeros(2, dtype=torch.long)) for i in range(5)]
    learner: Learner = make(*callbacks, train=data, valid=None, loss_fn=lambda outputs, targets: outputs.sum())
    return learner


@BAD
def test_run_ends_with_the_value_and_the_batch_named(make: Any, bad: float) -> None:
    learner = with_bad_batch(make, StopOnNonFinite(), bad=bad)
    learner.fit(epochs=2)
    assert learner.outcome.kind == "cancelled"
    assert learner.outcome.by == "train/epoch/fit/batch/gradient:after:StopOnNonFinite.look"
    assert learner.outcome.reason.startswith("loss is ")
    assert learner.outcome.reason.endswith(" at epoch 0, batch 2")


@BAD
def test_parameters_stay_those_of_the_last_good_update(make: Any, bad: float) -> None:
    learner = with_bad_batch(make, StopOnNonFinite(), bad=bad)
    learner.fit(epochs=1)
    good = with_bad_batch(make, bad=bad)
    good.fit(batches=2)
    assert learner.state.updates == 2
    assert torch.equal(learner.state.model.weight, good.state.model.weight)
    assert torch.isfinite(learner.state.model.weight).all()


def test_norm_that_is_written_before_the_update_can_be_watched(make: Any) -> None:
    learner = with_bad_batch(make, StopOnNonFinite("grad_norm", at="update"), ClipGradients(), bad=float("nan"))
    learner.fit(epochs=1)
    assert learner.outcome.reason == "grad_norm is nan at epoch 0, batch 2"
    assert torch.isfinite(learner.state.model.weight).all()


def test_tensor_of_many_elements_is_counted(make: Any) -> None:
    learner = with_bad_batch(make, StopOnNonFinite("outputs"), bad=float("nan"))
    learner.fit(epochs=1)
    assert learner.outcome.reason == "outputs is not finite in 6 of 6 elements at epoch 0, batch 2"


def test_every_looks_in_some_rounds_only(make: Any) -> None:
    learner = with_bad_batch(make, StopOnNonFinite(every="5 batches"), bad=float("nan"), number=0)
    learner.fit(epochs=1)
    assert learner.outcome.reason.endswith("batch 4")  # the loss stays nan; the fifth batch is the first one looked at


def test_finite_run_is_left_alone(make: Any) -> None:
    learner = make(StopOnNonFinite())
    learner.fit(epochs=2)
    assert learner.outcome.ok
    assert learner.state.updates == 6


def test_failure_of_the_gradient_is_not_hidden(make: Any) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        make(StopOnNonFinite(), model=nn.Linear(5, 3)).fit(epochs=1)


def test_field_that_is_no_number_is_refused(make: Any) -> None:
    with pytest.raises(ArgumentError, match="'batch' is .* it wants a number or a tensor") as caught:
        make(StopOnNonFinite("batch")).fit(epochs=1)
    assert caught.value.argument == "field"


def test_every_that_is_no_number_of_rounds_is_refused_at_construction() -> None:
    with pytest.raises(DeclarationError, match="'often' is no number of rounds") as caught:
        StopOnNonFinite(every="often")
    assert caught.value.owner == "StopOnNonFinite"
