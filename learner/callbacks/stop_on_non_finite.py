"""StopOnNonFinite: end the run when a value is NaN or infinite, before it reaches the parameters."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from learner.errors import ArgumentError
from stages import Callback, Cancel, Outcome, after, before
from stages.callbacks import HookMethod
from stages.counts import Count
from state import TrainState
from state.errors import short


@dataclass(frozen=True)
class StopOnNonFinite(Callback):
    """Cancel the run when `field` holds a NaN or an infinity in a training batch.

    Parameters and optimizer keep the values of the last good update.

    Args:
        field: a scalar or a tensor.
        at: "gradient" looks after the slot of that name, which is there whatever is swapped into it; "update" looks
            before that slot, as for what `ClipGradients()` writes: `StopOnNonFinite("grad_norm", at="update")`.
        every: look in some rounds only, as "50 batches". On an accelerator each look waits for the device, a few
            microseconds to as long as the work that is queued; on a CPU it costs a microsecond. A value that goes
            bad between two looks does reach the parameters.

    Raises:
        ArgumentError: the field holds something that is no number.
        DeclarationError: `every` is no number of rounds.
    """

    field: str = "loss"
    at: Literal["gradient", "update"] = "gradient"
    every: str | None = None

    def __post_init__(self) -> None:
        if self.at not in ("gradient", "update"):
            raise ArgumentError("StopOnNonFinite", "at", f"at={self.at!r} is neither 'gradient' nor 'update'.")
        if self.every is not None:
            Count.parse(self.every, "StopOnNonFinite")

    def hooks(self) -> list[tuple[str, HookMethod]]:
        """One hook, thinned out by `every`."""
        hook = after if self.at == "gradient" else before
        point = hook(self.at, every=self.every, reads=lambda self: (self.field, "epoch?", "batch_index?"))
        return [("look", point(StopOnNonFinite.look))]

    def look(self, state: TrainState, outcome: Outcome) -> None:
        """Cancel the run if the value is not finite."""
        if not outcome.ok:
            return
        bad = self._bad(getattr(state, self.field))
        if bad:
            raise Cancel("run", f"{self.field} is {bad} at epoch {state.epoch}, batch {state.batch_index}")

    def _bad(self, value: object) -> str:
        """What is wrong with a value, in words; nothing for one that is finite."""
        if isinstance(value, Tensor) and value.numel() != 1:
            count = int(value.numel() - torch.isfinite(value).count_nonzero())
            return f"not finite in {count} of {value.numel()} elements" if count else ""
        number = value.item() if isinstance(value, Tensor) else value
        if not isinstance(number, int | float):
            told = f"{self.field!r} is {short(value)}; it wants a number or a tensor. Name a field that holds one."
            raise ArgumentError("StopOnNonFinite", "field", told)
        return "" if math.isfinite(number) else str(number)
