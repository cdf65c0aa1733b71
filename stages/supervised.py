"""The stages of supervised training, from the epoch down to the update: the leaves are plain PyTorch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.batch import moved, no_batch, wrong_lengths, wrong_structure
from stages.cancel import Exhausted
from stages.errors import BatchError
from stages.stage import Composite, Stage
from state.fields import field
from state.parts import optimized


class Train(Composite):
    """Run epochs until `fit` has what it asked for."""

    each = "epoch"
    runs = "1+"
    counts = ("epoch", "epochs_done")

    def run(self, state: Any) -> None:
        while True:  # until the limit of fit(epochs=...) is reached
            with state.round():
                super().run(state)


class Epoch(Composite):
    """One pass over the data: `fit`, then `validate`."""


class FitBatch(Composite):
    """What training does with one batch."""

    slot = "batch"


class ValidateBatch(Composite):
    """What an evaluation does with one batch."""

    slot = "batch"


class Gradient(Composite):
    """Forward, loss, backward: from inputs to gradients."""


class Fetch(Stage):
    """Take the next batch from the loader and move it to the device. Ends the phase when there is none.

    Writes:
        batch: what the loader gave: a tensor, or tuples, lists and mappings of tensors, moved; anything else as it is.

    Raises:
        BatchError: the first batch of the phase is missing: the loader is empty, or an iterator that was used up.
    """

    writes = ("batch",)
    touches = ("rng",)

    def run(self, batches: Iterator[Any], batch_index: int, device: torch.device | None = None) -> Any:
        try:
            batch = next(batches)
        except StopIteration:
            if batch_index == 0:
                raise BatchError(no_batch(batches)) from None
            raise Exhausted from None
        return batch if device is None or device.type == "cpu" else moved(batch, device)


@dataclass(frozen=True)
class Unpack(Stage):
    """Take a batch apart into fields: `Unpack()` for a pair of inputs and targets, `Unpack("real")` for one tensor.

    Args:
        inputs: the field for the first part.
        targets: the field for the second part. None (the default unless `inputs` is "inputs"): the batch has one part.
        rest: take the first part of whatever comes, and leave the rest.

    Raises:
        BatchError: the batch has another structure, or inputs and targets differ in length.
    """

    inputs: str = "inputs"
    targets: str | None = ""
    rest: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The fields it writes."""
        second = "targets" if self.targets == "" and self.inputs == "inputs" else self.targets
        return (self.inputs,) if self.rest or not second else (self.inputs, second)

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]  # its fields are settings
        return self.names

    def run(self, batch: Any) -> Any:
        names = self.names
        if len(names) == 1:
            if not isinstance(batch, tuple | list):
                return batch
            if not batch or (len(batch) > 1 and not self.rest):
                raise BatchError(wrong_structure(batch, names[0], None))
            return batch[0]
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise BatchError(wrong_structure(batch, *names))
        inputs, targets = batch
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor) and inputs.shape[:1] != targets.shape[:1]:
            raise BatchError(wrong_lengths(inputs, targets, *names))
        return inputs, targets


class ClearGradients(Stage):
    """Set the gradients of the optimizer's parameters to None."""

    writes = ("model.grads",)
    touches = ("*.grads",)

    def run(self, optimizer: Optimizer) -> None:
        optimizer.zero_grad()


class Forward(Stage):
    """Apply the model.

    Writes:
        outputs: `model(inputs)`.
    """

    writes = ("outputs",)
    touches = ("model.buffers", "rng")

    def run(self, model: nn.Module, inputs: Any) -> Any:
        return model(inputs)


class Loss(Stage):
    """Compare outputs with targets.

    Writes:
        loss: `loss_fn(outputs, targets)`, a scalar, mean over the batch.
    """

    writes = ("loss",)
    touches = ("loss_fn.buffers?", "rng")

    def run(self, loss_fn: Any, outputs: Any, targets: Any) -> Any:
        return loss_fn(outputs, targets)


class ValidateLoss(Loss):
    """Compare outputs with targets in an evaluation."""


class Backward(Stage):
    """Differentiate the loss with respect to the parameters.

    Reads:
        loss: scalar tensor.
        loss_weight: number to multiply it by, where there is one.
    Writes:
        model.grads: added to `.grad` of each parameter, same shape and dtype, not scaled.

    Adds to earlier gradients: `ClearGradients` clears them, so that several batches can add up to one update. Where
    State holds further modules (a critic, a teacher), only the parameters of `model` and of the loss get gradients, and
    what else `optimizer` updates if it updates any of these.
    """

    reads: ClassVar[tuple[str, ...]] = ("loss", "model.grads", "*.params", "optimizer?", "loss_weight?")
    writes: ClassVar[tuple[str, ...]] = ("model.grads",)
    touches: ClassVar[tuple[str, ...]] = ("*.grads",)

    def run(self, state: Any) -> None:
        loss, weight = state.loss, state.loss_weight
        self.differentiate(loss if weight is None else loss * weight, state)

    def differentiate(self, loss: Tensor, state: Any) -> None:
        """Add the gradients of `loss`, a scalar, to those of the parameters."""
        modules = state.components(nn.Module)
        if modules.keys() <= {"model", "loss_fn"}:
            torch.autograd.backward(loss)
            return
        ours = [p for name in ("model", "loss_fn") if name in modules for p in modules[name].parameters()]
        if state.optimizer is not None:
            updated = optimized(state.optimizer)
            ours += updated if not {*map(id, ours)}.isdisjoint(map(id, updated)) else []  # else it is of another model
        torch.autograd.backward(loss, inputs=[p for p in dict.fromkeys(ours) if p.requires_grad])


class AverageGradients(Stage):
    """Divide the gradients that a Window has added up by the number of its batches.

    Writes:
        model.grads: the mean over the batches, of those parameters that `optimizer` updates.
    """

    reads = ("model.grads",)
    writes = ("model.grads",)
    touches = ("*.grads",)

    def run(self, optimizer: Optimizer, window_size: int) -> None:
        for parameter in optimized(optimizer):
            if parameter.grad is not None:
                parameter.grad.div_(window_size)


class Update(Stage):
    """Let the optimizer change the parameters.

    Writes:
        updates: one more.
    """

    reads: ClassVar[tuple[str, ...]] = ("model.grads", "model.params")
    writes: ClassVar[tuple[str, ...]] = ("model.params", "optimizer.state", "updates")

    def run(self, optimizer: Optimizer, updates: int) -> int:
        optimizer.step()
        count_fused(optimizer)
        return updates + 1


def count_fused(optimizer: Optimizer) -> None:
    """Move the version counters of what an optimizer has just updated by a fused step, which moves none.

    Else autograd would not see that a graph from before is stale.
    """
    fused = [parameter for group in optimizer.param_groups if group.get("fused") for parameter in group["params"]]
    if fused:
        torch.autograd.graph.increment_version(fused)


class Collect(Stage):
    """Keep the outputs of each batch on the CPU, for `predict`.

    Writes:
        predictions: a list, one entry per batch, detached.
    """

    writes = ("predictions",)

    def fields(self) -> dict[str, Any]:
        outputs = field(description="outputs by batch", saved="volatile", because="returned by predict")
        return {"predictions": (Any, outputs)}

    def run(self, predictions: list[Any], outputs: Any) -> list[Any]:
        predictions.append(moved(outputs, torch.device("cpu")))
        return predictions
