"""Gradients in half precision: the loss is scaled up before it is differentiated, and the gradients are scaled back.

float16 has no room for small gradients. The scale is a component of State, a `torch.amp.GradScaler`, which goes down
when gradients overflow, and up again (Micikevicius et al., "Mixed Precision Training", 2018; dynamic scaling).
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from stages.cancel import Skip
from stages.stage import Stage
from stages.supervised import Backward, Update, count_fused
from state.fields import field


def make_scaler(state: Any) -> GradScaler:
    """A scaler for the device of State, a CPU where it has none."""
    device: torch.device | None = state.device if state.ready("device") else None
    return GradScaler("cpu" if device is None else device.type)


SCALER = {
    "scaler": (GradScaler, field(factory=make_scaler, description="what scales the loss up")),
    "scaled": (
        bool,
        field(
            scope="update", description="that the gradients of this update are multiplied by the scale", saved="saved"
        ),
    ),
}


class ScaledBackward(Backward):
    """Differentiate the loss times the scale.

    What it adds to `model.grads` is of no use before `Unscale`: who reads gradients in between is refused.

    Writes:
        scaled: True, so that a tree is refused that would unscale what nobody has scaled.
    """

    writes = ("scaled",)
    touches = ("*.grads", "scaler.state")
    spoils = ("model.grads",)
    reads = (*Backward.reads, "scaler", "scaler.state")

    def fields(self) -> dict[str, Any]:
        return SCALER

    def differentiate(self, loss: Tensor, state: Any) -> None:
        super().differentiate(state.scaler.scale(loss), state)
        state.scaled = True


class Unscale(Stage):
    """Divide the gradients by the scale, once for each update.

    The scaler is of no use after it before `ScaledUpdate` has adapted it: a plain `Update` there is refused.

    Writes:
        model.grads: as if nothing had been scaled; infinite or NaN where they overflowed.
    """

    reads = ("scaled", "scaler.state")
    writes = ("model.grads",)
    touches = ("*.grads", "scaler.state")
    spoils = ("scaler.state",)

    def fields(self) -> dict[str, Any]:
        return SCALER

    def run(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        scaler.unscale_(optimizer)


class ScaledUpdate(Update):
    """Let the optimizer change the parameters, unless a gradient is infinite or NaN; adapt the scale.

    An update that is left out ends with the outcome "skipped": `updates` stays, and so do schedules.
    """

    reads: ClassVar[tuple[str, ...]] = (*Update.reads, "scaled")
    writes = (*Update.writes, "scaler.state")

    def fields(self) -> dict[str, Any]:
        return SCALER

    def run(self, optimizer: Optimizer, updates: int, scaler: GradScaler) -> int:  # type: ignore[override]
        stepped: list[bool] = []
        handle = optimizer.register_step_post_hook(lambda stepping, *_: stepped.append(_has_moved(stepping)))
        try:
            scaler.step(optimizer)
        finally:
            handle.remove()
        scaler.update()
        if not any(stepped):
            raise Skip("a gradient is not finite, so the scale goes down")
        count_fused(optimizer)
        return updates + 1


def _has_moved(optimizer: Optimizer) -> bool:
    """Whether a `step` that has just been made changed anything: a fused one leaves it out by itself."""
    overflows: Tensor | None = getattr(optimizer, "found_inf", None)
    return overflows is None or not overflows.item()
