"""Mean: sample-weighted means per phase."""

from typing import Any

import pytest
import torch

from learner import supervised
from learner.callbacks import ClipGradients, Mean
from learner.callbacks.mean import RunningMean
from learner.errors import ArgumentError
from stages import Cancel, after


def test_mean_weighs_each_batch_by_its_samples(make: Any, batches: Any) -> None:
    learner = make()
    rows: list[tuple[float, int]] = []
    learner.after("fit/batch")(lambda state: rows.append((state.loss.item(), len(state.targets))))
    history = learner.fit(epochs=1)
    by_hand = sum(loss * size for loss, size in rows) / sum(size for _, size in rows)
    assert history["train_loss"] == [by_hand]
    assert [size for _, size in rows] == [8, 8, 5]


def test_mean_is_named_after_the_phase_and_the_field(make: Any) -> None:
    history = make(Mean("loss", name="cost")).fit(epochs=2)
    assert history["train_cost"] == history["train_loss"]
    assert history["valid_cost"] == history["valid_loss"]


def test_sums_are_a_component_of_state_that_starts_anew_in_each_phase(make: Any) -> None:
    learner = make()
    weights: list[tuple[int, int]] = []
    learner.after("fit")(lambda state: weights.append((state.epoch, state.loss_sums.weight)))
    learner.fit(epochs=2)
    assert weights == [(0, 21), (1, 21)]
    assert "loss_sums" not in vars(learner.state)


def test_batch_that_is_cancelled_before_the_loss_does_not_count(make: Any) -> None:
    @after("gradient/forward")
    def skip_the_first(state: Any) -> None:
        if state.batch_index == 0:
            raise Cancel("batch", "skipped")

    learner = make(skip_the_first)
    weights: list[int] = []
    learner.after("fit")(lambda state: weights.append(state.loss_sums.weight))
    learner.fit(epochs=1)
    assert weights == [13]


def test_field_that_is_no_scalar_is_refused_by_name(make: Any) -> None:
    with pytest.raises(
        ArgumentError, match=r"'outputs' is float32\[8, 3\]; it averages one number per batch"
    ) as caught:
        make(Mean("outputs")).fit(epochs=1)
    assert caught.value.argument == "of"


def test_mean_of_nothing_is_none() -> None:
    assert RunningMean().mean() is None


def test_field_that_a_phase_does_not_write_has_no_mean_there(make: Any) -> None:
    history = make(Mean("grad_norm"), ClipGradients()).fit(epochs=2)
    assert len(history["train_grad_norm"]) == 2
    assert "valid_grad_norm" not in history.names


def test_field_of_the_update_has_no_mean_over_batches_of_a_window(make: Any) -> None:
    tree = supervised(valid=False, accumulate=2)
    history = make(Mean("grad_norm"), ClipGradients(), stages=tree, valid=None).fit(epochs=1)
    assert history.names == ["epoch", "train_loss", "seconds"]


def test_running_mean_keeps_integers_exact_and_survives_its_state_dict() -> None:
    sums = RunningMean()
    sums.add_total(torch.tensor(3), 4)
    sums.add_total(2**60, 2**60)
    copy = RunningMean()
    copy.load_state_dict(sums.state_dict())
    assert copy.total == 2**60 + 3
    assert copy.weight == 2**60 + 4


def test_running_mean_sums_elsewhere_on_that_device() -> None:
    sums = RunningMean()
    sums.add(torch.empty((), device="meta", dtype=torch.bfloat16), 8)
    sums.add(torch.empty((), device="meta", dtype=torch.bfloat16), 8)
    mean = sums.mean()
    assert isinstance(mean, torch.Tensor)
    assert (mean.device.type, mean.dtype) == ("meta", torch.float64)


@pytest.mark.gpu
def test_running_mean_does_not_wait_for_the_device() -> None:
    losses = torch.rand(50, device="cuda", dtype=torch.bfloat16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums = RunningMean()
        for loss in losses:
            sums.add(loss, 3)
        mean = sums.mean()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert float(mean) == pytest.approx(float(losses.double().mean()))
