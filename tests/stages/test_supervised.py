"""The stock stages one by one, on plain tensors: what each makes of what it reads, and what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn, tensor

from learner import Exhausted, GraphError
from learner.testing import assert_contract, run_stage
from stages import (
    Backward,
    BatchError,
    ClearGradients,
    Collect,
    Composite,
    Fetch,
    Forward,
    Gradient,
    Loss,
    StageError,
    Unpack,
    Update,
    ValidateLoss,
)
from state import TrainState


class CriticState(TrainState):
    """Two models."""

    critic: nn.Module


def line(weight: float = 2.0) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return model


def test_fetch_takes_the_next_batch_as_it_is() -> None:
    batches = iter([("first",), ("second",)])
    assert run_stage(Fetch(), batches=batches, batch_index=0).batch == ("first",)
    assert run_stage(Fetch(), batches=batches, batch_index=1).batch == ("second",)


def test_fetch_moves_the_batch_to_the_device() -> None:
    batches = iter([{"tokens": torch.ones(2)}])
    frame = run_stage(Fetch(), batches=batches, batch_index=0, device=torch.device("meta"))
    assert frame.batch["tokens"].device.type == "meta"


def test_fetch_ends_the_phase_when_the_loader_is_exhausted() -> None:
    with pytest.raises(Exhausted):
        run_stage(Fetch(), batches=iter([]), batch_index=3)


@pytest.mark.parametrize(
    ("batches", "told"),
    [(iter([]), "Check the size of the dataset"), ((b for b in ()), "A generator can be read once")],
)
def test_fetch_refuses_a_phase_without_any_batch(batches: Any, told: str) -> None:
    with pytest.raises(BatchError, match=rf"The loader gave no batch .*{told}") as caught:
        run_stage(Fetch(), batches=batches, batch_index=0)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, StageError)


def test_unpack_takes_a_pair_apart() -> None:
    inputs, targets = torch.ones(3, 2), torch.zeros(3)
    for batch in ((inputs, targets), [inputs, targets]):
        frame = run_stage(Unpack(), batch=batch)
        assert frame.inputs.shape == (3, 2) and frame.targets.shape == (3,)


@pytest.mark.parametrize(
    ("settings", "writes"),
    [
        (Unpack(), ("inputs", "targets")),
        (Unpack("real"), ("real",)),
        (Unpack("inputs", None), ("inputs",)),
        (Unpack("images", "labels"), ("images", "labels")),
        (Unpack(rest=True), ("inputs",)),
    ],
)
def test_unpack_writes_the_fields_of_its_settings(settings: Unpack, writes: tuple[str, ...]) -> None:
    assert settings.writes == writes


@pytest.mark.parametrize("batch", [torch.ones(2), (torch.ones(2),), [torch.ones(2)]])
def test_unpack_of_one_part_takes_a_tensor_or_a_tuple_of_one(batch: Any) -> None:
    assert torch.equal(run_stage(Unpack("inputs", None), batch=batch).inputs, torch.ones(2))


@pytest.mark.parametrize("batch", [(), (1, 2)])
def test_unpack_of_one_part_refuses_several(batch: Any) -> None:
    with pytest.raises(BatchError, match=rf"a tuple of {len(batch)}; unpack wants one part \(inputs\)") as caught:
        run_stage(Unpack("inputs", None), batch=batch)
    assert "rest=True" in str(caught.value)


def test_unpack_with_rest_takes_the_first_part_of_whatever_comes() -> None:
    for batch in ((5, 6), [5], 5):
        assert run_stage(Unpack(rest=True), batch=batch).inputs == 5


@pytest.mark.parametrize("batch", [{"a": 1}, (1, 2, 3), torch.ones(2), "text"])
def test_unpack_refuses_another_structure_and_names_the_slot_to_swap(batch: Any) -> None:
    with pytest.raises(BatchError, match=r"unpack wants a pair \(inputs, targets\)\. Swap the slot 'unpack'") as caught:
        run_stage(Unpack(), batch=batch)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("targets", [torch.ones(2), tensor(1.0)])
def test_unpack_refuses_inputs_and_targets_of_unequal_length(targets: torch.Tensor) -> None:
    with pytest.raises(BatchError, match=r"The loader gave 'inputs' and 'targets' of unequal length: 3 and") as caught:
        run_stage(Unpack(), batch=(torch.ones(3, 1), targets))
    assert "one target per input" in str(caught.value)


def test_clear_gradients_leaves_none() -> None:
    model = line()
    model.weight.grad = torch.ones(1, 1)
    run_stage(ClearGradients(), model=model, optimizer=torch.optim.SGD(model.parameters()))
    assert model.weight.grad is None


def test_forward_applies_the_model() -> None:
    assert run_stage(Forward(), model=line(3.0), inputs=torch.ones(4, 1)).outputs.tolist() == [[3.0]] * 4


@pytest.mark.parametrize("stage", [Loss(), ValidateLoss()])
def test_loss_is_a_scalar_of_outputs_and_targets(stage: Loss) -> None:
    values = {"outputs": torch.ones(2, 1), "targets": torch.zeros(2, 1)}
    assert run_stage(stage, loss_fn=F.mse_loss, **values).loss == 1
    assert_contract(stage, loss_fn=F.mse_loss, **values)


def test_backward_adds_to_the_gradients_that_are_there() -> None:
    model = line()
    model.weight.grad = torch.ones(1, 1)
    loss = model(torch.ones(1, 1)).sum()
    run_stage(Composite(Backward()), model=model, loss=loss)
    assert model.weight.grad.item() == 2.0


def test_backward_leaves_the_gradients_of_other_models_alone() -> None:
    generator, critic = line(), line(3.0)
    state = CriticState(model=generator, critic=critic)
    run_stage(Backward(), state, loss=critic(generator(torch.ones(1, 1))).sum())
    assert generator.weight.grad is not None and generator.weight.grad.item() == 3.0
    assert critic.weight.grad is None


def test_backward_reaches_a_loss_with_parameters() -> None:
    class Scaled(nn.Module):
        """A loss that is trained."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(tensor(2.0))

        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return (outputs - targets).square().mean() * self.scale

    model, loss_fn = line(), Scaled()
    loss = loss_fn(model(torch.ones(1, 1)), torch.zeros(1, 1))
    run_stage(Backward(), model=model, loss_fn=loss_fn, loss=loss)
    assert loss_fn.scale.grad is not None and loss_fn.scale.grad.item() == 4.0


def test_gradient_is_forward_loss_and_backward() -> None:
    model = line(1.0)
    values: dict[str, Any] = {
        "model": model,
        "loss_fn": F.mse_loss,
        "inputs": torch.ones(2, 1),
        "targets": torch.zeros(2, 1),
    }
    frame = run_stage(Composite(ClearGradients(), Gradient(Forward(), Loss(), Backward())),
                      optimizer=torch.optim.SGD(model.parameters()), **values)  # fmt: skip
    assert (frame.loss.item(), model.weight.grad.item()) == (1.0, 2.0)  # type: ignore[union-attr]
    assert not frame.loss.requires_grad


def test_update_lets_the_optimizer_work_and_counts() -> None:
    model = line(1.0)
    model.weight.grad = torch.ones(1, 1)
    frame = run_stage(Update(), model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.5), updates=4)
    assert (frame.updates, model.weight.item()) == (5, 0.5)


def test_collect_keeps_outputs_on_the_cpu_without_their_graph() -> None:
    outputs = line()(torch.ones(2, 1))
    frame = run_stage(Collect(), predictions=[], outputs=(outputs, {"raw": outputs}))
    first, second = frame.predictions[0]
    assert not first.requires_grad and not second["raw"].requires_grad


@pytest.mark.parametrize(
    ("stage", "missing"),
    [(Forward(), "inputs"), (Loss(), "targets"), (Unpack(), "batch"), (Update(), "optimizer"), (Fetch(), "batches")],
)
def test_stage_alone_says_what_it_needs(stage: Any, missing: str) -> None:
    with pytest.raises(GraphError, match=rf"reads '{missing}'") as caught:
        run_stage(stage)
    assert all(finding.kind in ("missing producer", "read before write") for finding in caught.value.findings)
