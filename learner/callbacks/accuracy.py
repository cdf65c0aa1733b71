"""Accuracy: the share of the targets of a phase that the outputs name."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from learner.callbacks.mean import RunningMean
from learner.errors import ArgumentError
from stages import Callback, Phase, after
from state import field
from state.errors import short


@dataclass(frozen=True)
class Accuracy(Callback):
    """Compare the most likely class with the target, over each phase, as `train_accuracy` and `valid_accuracy`.

    Args:
        name: what the results are called, after the phase.
        outputs: the field with one score per class, `(N, C)` or `(N, C, d1, ...)`; the classes are dimension 1.
        targets: the field with class indices, `(N,)` or `(N, d1, ...)`.

    Writes:
        {phase}_{name}: float from 0 to 1, or a scalar tensor on the device of the outputs; valid until the epoch ends.

    Counts are integers and exact. Batches that were cancelled before both fields were written do not count; where none
    counts, there is no accuracy: the field stays not ready. Nothing waits for a device.

    Raises:
        ArgumentError: the outputs have no dimension of classes, or the targets are no class indices of that shape.
    """

    name: str = "accuracy"
    outputs: str = "outputs"
    targets: str = "targets"

    def fields(self) -> dict[str, Any]:
        """The counts of a phase, and the accuracy."""
        sums = field(scope="phase", factory=lambda state: RunningMean(), description="targets that were right, and all")
        share = field(scope="epoch", description="share of the targets that were right, 0 to 1")
        return {f"{self.name}_sums": (RunningMean, sums), f"{{phase}}_{self.name}": (float | Tensor, share)}

    @after(
        "batch",
        within=Phase,
        reads=lambda self: (self.outputs, self.targets, f"{self.name}_sums"),
        writes=lambda self: (f"{self.name}_sums.state",),
    )
    def add(self, state: Any) -> None:
        """Count one batch."""
        if not (state.ready(self.outputs) and state.ready(self.targets)):
            return
        outputs, targets = getattr(state, self.outputs), getattr(state, self.targets)
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.dim() < 2:
            raise self._misfit(outputs, targets)
        classes = outputs.detach().argmax(1)
        if classes.shape != targets.shape or targets.is_floating_point():
            raise self._misfit(outputs, targets)
        right = (classes == targets).count_nonzero()
        getattr(state, f"{self.name}_sums").add_total(right, targets.numel())

    @after(Phase, reads=lambda self: (f"{self.name}_sums",), writes=lambda self: (f"{{phase}}_{self.name}?",))
    def result(self, state: Any) -> float | Tensor | None:
        """The accuracy of the phase."""
        sums: RunningMean = getattr(state, f"{self.name}_sums")
        return sums.mean()

    def _misfit(self, outputs: Any, targets: Any) -> ArgumentError:
        """The error for a batch that has no accuracy."""
        wants = f"{self.outputs!r} as scores (N, C) or (N, C, d1, ...) and {self.targets!r} as class indices (N) or "
        wants += "(N, d1, ...), of an integer type."
        got = f"Got {short(outputs)} and {short(targets)}."
        return ArgumentError("Accuracy", "targets", f"it wants {wants} {got} {_remedy(outputs, targets)}")


def _remedy(outputs: Any, targets: Any) -> str:
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return "Name the fields that hold these tensors: Accuracy(outputs=..., targets=...)."
    if outputs.dim() < 2:
        return "For one score per sample, write torch.stack((-scores, scores), 1) to a field, and name that."
    if outputs.shape == targets.shape:
        return "For one-hot targets or class probabilities, write targets.argmax(1) to a field, and name that."
    if targets.is_floating_point() and outputs.shape[:1] == targets.shape:
        return "Give the targets as integers: targets.long()."
    return "Put the classes into dimension 1 of the outputs, and make the other dimensions alike."
