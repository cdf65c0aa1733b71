"""EarlyStopping: end the run when a metric no longer improves."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from learner.errors import ArgumentError
from stages import Callback, Cancel, Outcome, after
from state import field
from state.errors import short

_GREATER_IS_BETTER = {"acc", "accuracy", "auc", "auroc", "dice", "f1", "iou", "precision", "psnr", "r2", "recall"}
_SMALLER_IS_BETTER = {"error", "loss", "mae", "mse", "perplexity", "rmse"}


@dataclass(frozen=True)
class EarlyStopping(Callback):
    """Cancel the run when `monitor` has not improved for `patience` epochs in a row.

    Args:
        monitor: a field that holds a number at the end of an epoch.
        patience: epochs with a number and without improvement until the run ends, at least 1.
        min_delta: an improvement is more than this much better than the best value, at least 0.
        mode: "min" or "max", which values are better. None goes by the name: a loss or an error is better when small,
            an accuracy, a precision, an F1 when great.
        name: what its own fields are called, by default as `monitor`. Two that monitor one field need two names.

    Writes:
        best_{name}: float, the best value so far; None before the first epoch.
        bad_epochs_{name}: int, epochs since then.

    NaN and infinities are never an improvement. Only epochs count that end well and have a value: with
    `Every("5 epochs", Validate(...))`, or where the validation was skipped, the others are passed by. Both fields live
    as long as State: a further `fit` goes on with them, and ends after its first epoch without improvement.

    Raises:
        ArgumentError: a setting cannot be used, the name does not tell the mode, or the value is no number.
    """

    monitor: str = "valid_loss"
    patience: int = 3
    min_delta: float = 0.0
    mode: Literal["min", "max"] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise self._refusal("patience", "It is a number of epochs, at least 1.")
        if not isinstance(self.min_delta, int | float) or not (0 <= self.min_delta < math.inf):
            raise self._refusal("min_delta", "It is a number, at least 0; `mode` says in which direction.")
        if self.mode not in ("min", "max", None):
            raise self._refusal("mode", "It is 'min', 'max', or None to go by the name of the metric.")
        if self.mode is None and _mode_of(self.monitor) is None:
            told = f"the name {self.monitor!r} does not tell whether small or great is better."
            raise ArgumentError("EarlyStopping", "mode", f"{told} Say mode='min' or mode='max'.")

    @property
    def title(self) -> str:
        """What its fields are called, after "best_" and "bad_epochs_"."""
        return self.name or self.monitor

    def fields(self) -> dict[str, Any]:
        """The best value, and the epochs since."""
        best = field(default=None, description=f"best {self.monitor} so far, None before the first epoch")
        bad_epochs = field(default=0, description=f"epochs since {self.monitor} improved")
        return {f"best_{self.title}": (float | None, best), f"bad_epochs_{self.title}": (int, bad_epochs)}

    @after(
        "epoch",
        reads=lambda self: (self.monitor, f"{self.monitor}?", f"best_{self.title}", f"bad_epochs_{self.title}"),
        writes=lambda self: (f"best_{self.title}", f"bad_epochs_{self.title}"),
    )
    def judge(self, state: Any, outcome: Outcome) -> None:
        """Compare the epoch with the best, and end the run when patience is over."""
        given = getattr(state, self.monitor) if outcome.ok else None
        if given is None:
            return
        value = self._number(given)
        best, bad_epochs = getattr(state, f"best_{self.title}"), getattr(state, f"bad_epochs_{self.title}") + 1
        if self._improves(value, best):
            best, bad_epochs = value, 0
            setattr(state, f"best_{self.title}", best)
        setattr(state, f"bad_epochs_{self.title}", bad_epochs)
        if bad_epochs >= self.patience:
            known = "it was never finite" if best is None else f"the best was {best:.6g}"
            epochs = "1 epoch" if bad_epochs == 1 else f"{bad_epochs} epochs"
            raise Cancel("run", f"{self.monitor} has not improved for {epochs}: {known}, the last {value:.6g}")

    def _improves(self, value: float, best: float | None) -> bool:
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        gain = best - value if (self.mode or _mode_of(self.monitor)) == "min" else value - best
        return gain > self.min_delta

    def _number(self, value: object) -> float:
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()  # waits for the device, once an epoch
        if isinstance(value, int | float):
            return float(value)
        told = f"{self.monitor!r} is {short(value)}; it wants one number per epoch. Name a field that holds one."
        raise ArgumentError("EarlyStopping", "monitor", told)

    def _refusal(self, argument: str, allowed: str) -> ArgumentError:
        told = f"{argument}={getattr(self, argument)!r} cannot be used. {allowed}"
        return ArgumentError("EarlyStopping", argument, told)


def _mode_of(name: str) -> Literal["min", "max"] | None:
    """Which values of a metric are better, by the words of its name; None where they do not tell."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    smaller, greater = bool(words & _SMALLER_IS_BETTER), bool(words & _GREATER_IS_BETTER)
    if smaller == greater:
        return None
    return "min" if smaller else "max"
