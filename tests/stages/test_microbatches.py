"""Microbatches: a batch in parts that add up to the whole, and the whole is back however they end."""

from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner import Cancel, GraphError, Learner, field, stage
from learner.testing import toy_learner
from stages import (
    Backward,
    BatchError,
    ClearGradients,
    Composite,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Microbatches,
    Train,
    Unpack,
    Update,
)
from state import TrainState

Pair = namedtuple("Pair", "first second")


class Sums(nn.Module):
    """A line over the sum of whatever tensors it is given, in the shape it is asked for."""

    def __init__(self, shape: str = "tensor") -> None:
        super().__init__()
        self.line = nn.Linear(2, 1)
        self.shape = shape

    def forward(self, given: Any) -> Any:
        parts = given.values() if hasattr(given, "values") and not isinstance(given, Tensor) else given
        out = self.line(given if isinstance(given, Tensor) else sum(parts))
        return {"tensor": out, "tuple": (out, out + 1), "mapping": {"out": out}}[self.shape]


def cut(parts: int, batch: Any, *, model: nn.Module | None = None, loss_fn: Any = F.mse_loss, **settings: Any) -> Any:
    """The values after a batch that was cut in parts, and the gradient of the model's first parameter."""
    torch.manual_seed(1)
    model = model or Sums()
    micro = Microbatches(parts, Forward(), Loss(), Backward(), **settings)
    fit = Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), micro, Update()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, loss_fn, optimizer, train=[batch], stages=Train(Epoch(fit)), device="cpu")
    seen: list[Any] = []
    whole: list[Any] = []
    learner.before("microbatches")(lambda state: whole.extend((state.inputs, state.targets)))
    learner.after("microbatches")(lambda state: whole.extend((state.inputs, state.targets)))
    learner.after("forward")(lambda state: seen.append((len(state.outputs), state.loss_weight)))
    frame = learner.fit_batch(batch)
    assert whole[0] is whole[2] and whole[1] is whole[3], "the whole is back"
    return frame, next(model.parameters()).grad, seen


def data(samples: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(samples, 2, generator=generator), torch.randn(samples, 1, generator=generator)


def whole(inputs: Any, targets: Tensor, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the whole batch."""
    torch.manual_seed(1)
    model = model or Sums()
    loss = F.mse_loss(model(inputs), targets)
    loss.backward()
    gradient = next(model.parameters()).grad
    assert gradient is not None
    return loss.detach(), gradient


@pytest.mark.parametrize(
    ("parts", "samples"),
    [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (4, [2, 2, 1]), (5, [1] * 5), (6, [1] * 5), (100, [1] * 5)],
)
def test_parts_add_up_to_the_gradients_of_the_whole_batch(parts: int, samples: list[int]) -> None:
    inputs, targets = data()
    frame, gradient, seen = cut(parts, (inputs, targets))
    loss, expected = whole(inputs, targets)
    assert torch.allclose(gradient, expected, atol=1e-6) and torch.allclose(frame.loss, loss, atol=1e-6)
    assert [length for length, _ in seen] == samples
    assert [weight for _, weight in seen] == [length / 5 for length in samples]


@pytest.mark.parametrize("samples", [1, 4, 7])
def test_parts_equal_the_loop_by_hand_to_the_last_bit(samples: int) -> None:
    inputs, targets = data(samples)
    frame, gradient, _ = cut(3, (inputs, targets))
    torch.manual_seed(1)
    model, total = Sums(), torch.tensor(0.0)
    for start in range(0, samples, -(-samples // 3)):
        part = slice(start, start + -(-samples // 3))
        loss = F.mse_loss(model(inputs[part]), targets[part])
        weight = len(inputs[part]) / samples
        (loss * weight).backward()
        total = total + loss.detach() * weight
    assert torch.equal(gradient, model.line.weight.grad) and torch.equal(frame.loss, total)


@pytest.mark.parametrize(
    "inputs",
    [
        {"a": data()[0], "b": data()[0]},
        OrderedDict(a=data()[0], b=data()[0]),
        UserDict(a=data()[0], b=data()[0]),
        (data()[0], data()[0]),
        [data()[0], data()[0]],
        Pair(data()[0], data()[0]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_inputs_of_several_tensors_are_cut_alike(inputs: Any) -> None:
    frame, gradient, _ = cut(2, (inputs, data()[1]))
    assert torch.allclose(gradient, whole(inputs, data()[1])[1], atol=1e-6)
    assert frame.outputs.shape == (5, 1) and not frame.outputs.requires_grad


def test_outputs_are_joined_part_by_part() -> None:
    inputs, targets = data()
    frame, _, _ = cut(2, (inputs, targets), model=Sums("tuple"), loss_fn=lambda out, y: F.mse_loss(out[0], y))
    assert [out.shape for out in frame.outputs] == [(5, 1), (5, 1)]
    frame, _, _ = cut(2, (inputs, targets), model=Sums("mapping"), loss_fn=lambda out, y: F.mse_loss(out["out"], y))
    assert frame.outputs["out"].shape == (5, 1)
    frame, _, _ = cut(2, (inputs, targets), join=())
    assert frame.outputs.shape == (2, 1), "that of the last part"


def test_nothing_of_the_parts_is_left_behind() -> None:
    inputs, targets = data()
    frame, _, _ = cut(3, (inputs, targets))
    assert frame.loss_weight == 1.0 and not frame.loss.requires_grad
    fit = Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), both(), Update()))
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    learner = Learner(model, F.mse_loss, optimizer, train=[(inputs, targets)], stages=Train(Epoch(fit)), device="cpu")
    learner.fit(batches=1)
    assert model.weight.grad is not None
    once = model.weight.grad.clone()
    F.mse_loss(model(inputs), targets).backward()
    assert torch.allclose(once, model.weight.grad / 3 * 2, atol=1e-6), "a second backward is weighted by no part"


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_parts_of_parts_and_a_weight_of_the_batch_multiply(weight: float) -> None:
    @stage(writes=("loss_weight",))
    def weigh() -> float:
        return weight

    inputs, targets = data(7)
    nested = Microbatches(2, Microbatches(2, Forward(), Loss(), Backward()))
    fit = Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), weigh, nested, Update()))
    torch.manual_seed(1)
    model = Sums()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, F.mse_loss, optimizer, train=[(inputs, targets)], stages=Train(Epoch(fit)), device="cpu")
    seen: list[float] = []
    learner.after("forward")(lambda state: seen.append(state.loss_weight))
    frame = learner.fit_batch((inputs, targets))
    loss, expected = whole(inputs, targets)
    assert torch.allclose(next(model.parameters()).grad, expected * weight, atol=1e-6)
    assert torch.allclose(frame.loss, loss, atol=1e-6) and frame.loss_weight == weight
    assert seen == pytest.approx([weight * share for share in (2 / 7, 2 / 7, 2 / 7, 1 / 7)])


def both() -> Composite:
    return Composite(Microbatches(3, Forward(), Loss(), Backward()), again=Gradient(Forward(), Loss(), Backward()))


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ((data()[0], data(3)[1]), "'targets': the batch has 5 samples, and a tensor in it has the shape .3, 1"),
        (((data()[0], data(4)[0]), data()[1]), "'inputs': the batch has 5 samples, .* the shape .4, 2"),
        ((torch.ones(1, 2), torch.tensor(1.0)), "'targets': the batch has 1 sample, .* the shape .."),
        ((data()[0], None), "'targets': it is None, no tensor and no tuple, list or mapping of tensors"),
        (("abc", "def"), "'inputs': it is 'abc', no tensor"),
        ((1.0, 2.0), "'inputs': it is 1.0, no tensor"),
        ((data()[0], ["a"] * 5), "'targets': it is 'a', no tensor"),
    ],
)
def test_batch_that_cannot_be_cut_is_refused(batch: Any, match: str) -> None:
    @stage(writes=("inputs", "targets"))
    def unpack(batch: Any) -> Any:
        return batch

    micro = Microbatches(2, Forward(), Loss(), Backward())
    fit = Fit(Fetch(), FitBatch(unpack, ClearGradients(), micro, Update()))
    learner = toy_learner(valid=None, train=[batch], stages=Train(Epoch(fit)))
    with pytest.raises(BatchError, match=f"Microbatches cannot cut {match}") as caught:
        learner.fit(epochs=1)
    assert "In train/epoch/fit/batch/microbatches at" in caught.value.__notes__[0]


def test_empty_batch_is_refused() -> None:
    with pytest.raises(BatchError, match="Microbatches got a batch whose 'inputs' has no sample"):
        cut(2, (torch.ones(0, 2), torch.ones(0, 1)))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"split": ("inptus",)}, "declares 'inptus', but State has no such field. Did you mean 'inputs'"),
        ({"join": ("outpts",)}, "declares 'outpts', but State has no such field. Did you mean 'outputs'"),
    ],
)
def test_field_that_is_not_there_cannot_be_cut_or_joined(settings: Any, match: str) -> None:
    with pytest.raises(GraphError, match=match):
        cut(2, data(), **settings)


def cancelled(which: set[int], scope: str, slot: str = "forward") -> tuple[Learner, list[Any]]:
    """A Learner whose parts of these numbers are cancelled, and what the batch's after-hook sees."""
    micro = Microbatches(3, Forward(), Loss(), Backward())
    fit = Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), micro, Update()))
    model = Sums()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, F.mse_loss, optimizer, train=[data()], stages=Train(Epoch(fit)), device="cpu")
    number, seen = 0, list[Any]()

    @learner.before(slot)
    def stop(state: Any) -> None:
        nonlocal number
        number += 1
        if number in which:
            raise Cancel(scope, "not this one")

    @learner.after("fit/batch")
    def look(state: Any, outcome: Any) -> None:
        seen.extend((str(outcome).split(" by ")[0], len(state.inputs), len(state.targets), state.loss_weight))

    return learner, seen


@pytest.mark.parametrize("slot", ["forward", "loss", "backward"])
@pytest.mark.parametrize("scope", ["batch", "phase", "run"])
def test_cancel_in_a_part_leaves_the_batch_whole(scope: str, slot: str) -> None:
    learner, seen = cancelled({2}, scope, slot)
    learner.fit(epochs=1)
    assert seen == [f"cancelled ({scope})", 5, 5, 1.0]
    assert learner.state.updates == 0


def test_error_in_a_part_leaves_the_batch_whole_for_the_debugger() -> None:
    learner, _ = cancelled(set(), "batch")
    learner.after("backward")(lambda loss_fn: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner.fit(epochs=1)
    assert len(learner.state.inputs) == 5 and len(learner.state.outputs) == 2


def test_part_that_is_cancelled_adds_nothing() -> None:
    learner, seen = cancelled({2}, "microbatch")
    losses: list[Tensor] = []
    learner.after("microbatches")(lambda state: losses.extend((state.loss, state.outputs)))
    inputs, targets = data()
    model = learner.state.model
    expected = sum(F.mse_loss(model(inputs[i:j]), targets[i:j]) * (j - i) / 5 for i, j in ((0, 2), (4, 5)))
    learner.fit(epochs=1)
    assert seen == ["ok", 5, 5, 1.0] and learner.state.updates == 1
    assert torch.allclose(losses[0], torch.as_tensor(expected)) and len(losses[1]) == 3


def test_batch_whose_parts_are_all_cancelled_is_cancelled() -> None:
    learner, seen = cancelled({1, 2, 3}, "microbatch")
    learner.fit(epochs=1)
    assert seen == ["cancelled (batch)", 5, 5, 1.0]
    assert (learner.state.updates, learner.outcome.kind) == (0, "ok")


def test_cut_fields_may_go_by_other_names() -> None:
    class Named(TrainState):
        x: Tensor = field(scope="batch")
        y: Tensor = field(scope="batch")

    made = Microbatches(2, Forward(), Loss(), Backward()).bind(inputs="x", targets="y")
    model, (inputs, targets) = nn.Linear(2, 1), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = Named(model=model, optimizer=optimizer, loss_fn=F.mse_loss)
    fit = Fit(Fetch(), FitBatch(Unpack("x", "y"), ClearGradients(), made, Update()))
    frame = Learner.from_state(state, Train(Epoch(fit)), train=[(inputs, targets)]).fit_batch((inputs, targets))
    assert torch.equal(frame.x, inputs) and len(frame.outputs) == 5
