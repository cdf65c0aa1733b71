"""Autocast: run some stages in half precision, where PyTorch knows that to be safe."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch

from learner.errors import ArgumentError
from stages import Callback, around
from stages.callbacks import HookMethod
from state.errors import short


@dataclass(frozen=True)
class Autocast(Callback):
    """Run the stages in `slots` under `torch.autocast`, in training and evaluation.

    `Learner(precision="bf16")` does this for `forward`, `loss` and `validate_loss`.

    Args:
        dtype: torch.bfloat16 or torch.float16.
        slots: around which slots.

    Raises:
        ArgumentError: autocast is of no use for this type, or `slots` names nothing.
    """

    dtype: torch.dtype = torch.bfloat16
    slots: tuple[str, ...] = ("forward", "loss")

    def __post_init__(self) -> None:
        if self.dtype not in (torch.bfloat16, torch.float16):
            told = f"dtype={short(self.dtype)} is neither torch.bfloat16 nor torch.float16."
            raise ArgumentError("Autocast", "dtype", told)
        if isinstance(self.slots, str):
            raise ArgumentError("Autocast", "slots", f"slots={self.slots!r} is text. Write ({self.slots!r},).")
        if not isinstance(self.slots, tuple) or not self.slots:
            told = f"slots={short(self.slots)} is no tuple of slots. Name what is to be cast: ('forward', 'loss')."
            raise ArgumentError("Autocast", "slots", told)

    def hooks(self) -> list[tuple[str, HookMethod]]:
        """One hook around each slot."""
        return [("cast", around(slot)(Autocast.cast)) for slot in self.slots]

    def cast(self, device: torch.device | None = None) -> Generator[None, Any, None]:
        """Cast while the stage runs."""
        with torch.autocast("cpu" if device is None else device.type, self.dtype):
            yield
