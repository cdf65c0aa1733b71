"""Mean: the average of a field over the samples of a phase."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stages import Callback, Phase, after, batch_size
from state import field


class RunningMean:
    """A weighted mean, summed where the values are: a CPU's in Python, another device's on the device.

    Nothing waits for a device. Sums are 64-bit where the device has that, else 32-bit.
    """

    def __init__(self) -> None:
        self.total: float | Tensor = 0.0
        self.weight: int | Tensor = 0

    def add(self, value: Tensor | float, weight: int) -> None:
        """Count `value`, a scalar, `weight` times."""
        if isinstance(value, Tensor):
            value = value.item() if value.is_cpu else value.detach()
        self.total = self.total + value * weight
        self.weight = self.weight + weight

    def mean(self) -> float | Tensor:
        """The mean so far; nan when nothing was counted."""
        if isinstance(self.weight, int) and self.weight == 0:
            return float("nan")
        return self.total / self.weight

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint."""
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take the sums of a checkpoint."""
        self.total, self.weight = saved["total"], saved["weight"]


@dataclass(frozen=True)
class Mean(Callback):
    """Average a scalar field over the samples of each phase, as `train_loss` and `valid_loss`.

    Args:
        field: the field to average, a mean over its batch.
        name: what the results are called; by default as the field.

    Writes:
        {phase}_{name}: float, or a scalar tensor on the device of the field; valid until the epoch ends.

    A batch counts as many times as it has samples, so a short last batch does not weigh more. Batches that were
    cancelled before the field was written do not count.
    """

    field: str = "loss"
    name: str = ""

    @property
    def title(self) -> str:
        """The name of the results, without the phase."""
        return self.name or self.field

    def fields(self) -> dict[str, Any]:
        """The sums of a phase, and the mean."""
        sums = field(scope="phase", factory=lambda state: RunningMean(), description=f"sums of {self.field}")
        mean = field(scope="epoch", description=f"mean of {self.field} over the samples")
        return {f"{self.title}_sums": (RunningMean, sums), f"{{phase}}_{self.title}": (float | Tensor, mean)}

    @after(
        "batch",
        within=Phase,
        reads=lambda self: (f"{self.field}?", f"{self.title}_sums", "batch"),
        writes=lambda self: (f"{self.title}_sums.state",),
    )
    def add(self, state: Any) -> None:
        """Count one batch."""
        value = getattr(state, self.field)
        if value is not None:
            getattr(state, f"{self.title}_sums").add(value, batch_size(state.batch))

    @after(
        Phase,
        reads=lambda self: (f"{self.title}_sums",),
        writes=lambda self: (f"{{phase}}_{self.title}",),
    )
    def result(self, state: Any) -> float | Tensor:
        """Write the mean of the phase."""
        ...
