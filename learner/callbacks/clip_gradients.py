"""ClipGradients: bound the norm of the gradients before the update uses them."""

from dataclasses import dataclass

from torch import Tensor, nn

from learner.errors import ArgumentError
from stages import Callback, before
from state import TrainState, field


class ClipState(TrainState):
    """What ClipGradients brings."""

    grad_norm: Tensor = field(scope="update", description="scalar, norm of all gradients before they were clipped")


@dataclass(frozen=True)
class ClipGradients(Callback):
    """Scale the gradients of the model down so that their norm, all taken as one vector, is at most `max_norm`.

    Args:
        max_norm: the greatest norm to leave, above 0.
        norm_type: the p of the p-norm, above 0; `float("inf")` for the greatest absolute value.

    It stands before the slot "update": after the last of several batches, where they accumulate, and after gradients in
    half precision were unscaled.

    Writes:
        model.grads: scaled in place where the norm is greater, as `torch.nn.utils.clip_grad_norm_` does.
        grad_norm: scalar tensor, the norm before clipping. Where each batch is an update,
            `Mean("grad_norm")` averages it.

    Raises:
        ArgumentError: a setting is no number above 0.
    """

    max_norm: float = 1.0
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        for name, value in (("max_norm", self.max_norm), ("norm_type", self.norm_type)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                told = f"{name}={value!r} is no number above 0. Leave it out, or give one."
                raise ArgumentError("ClipGradients", name, told)

    @before("update", state=ClipState, reads=("model.grads",), writes=("model.grads", "grad_norm"))
    def clip(self, model: nn.Module) -> Tensor:
        """Clip when the gradients are complete."""
        return nn.utils.clip_grad_norm_(model.parameters(), self.max_norm, self.norm_type)
