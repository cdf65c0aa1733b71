"""Mean: the average of a field over the samples of a phase."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from learner.errors import ArgumentError
from stages import Callback, Phase, after, batch_size
from state import field
from state.errors import short


class RunningMean:
    """A weighted mean, summed where the values are: a CPU's in Python, another device's on the device.

    Nothing waits for a device. Sums are 64-bit where the device has that, else 32-bit.
    """

    def __init__(self) -> None:
        self.total: float | Tensor = 0
        self.weight = 0

    def add(self, value: Tensor | float, weight: int) -> None:
        """Count `value`, a scalar, `weight` times."""
        if isinstance(value, Tensor) and value.is_cpu:
            self.total = self.total + value.item() * weight
        else:
            self._sum(value, weight)
        self.weight += weight

    def add_total(self, total: Tensor | float, weight: int) -> None:
        """Count `total`, a scalar: the sum of `weight` values."""
        self._sum(total, 1)
        self.weight += weight

    def mean(self) -> float | Tensor | None:
        """The mean so far; None when nothing was counted."""
        return self.total / self.weight if self.weight else None

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint."""
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take the sums of a checkpoint."""
        self.total, self.weight = saved["total"], saved["weight"]

    def _sum(self, value: Tensor | float, times: int) -> None:
        if not isinstance(value, Tensor):
            self.total = self.total + value * times
        elif value.is_cpu:
            self.total = self.total + value.item() * times
        elif isinstance(self.total, Tensor):
            self.total.add_(value.detach(), alpha=times)
        else:
            wide = value.detach().float() if value.device.type == "mps" else value.detach().double()
            self.total = wide * times + self.total


@dataclass(frozen=True)
class Mean(Callback):
    """Average a scalar field over the samples of each phase, as `train_loss` and `valid_loss`.

    Args:
        of: the field to average, a mean over its batch.
        name: what the results are called; by default as the field.

    Writes:
        {phase}_{name}: float, or a scalar tensor on the device of the field; valid until the epoch ends.

    A batch counts as many times as it has samples, so a short last batch does not weigh more. Batches do not count in
    which the field was not written: they were cancelled or skipped before it was, or nobody writes it in this phase.
    Where none counts, there is no mean: the field stays not ready, and the history has no such number for that epoch.

    Raises:
        ArgumentError: the field holds something else than one number per batch.
    """

    of: str = "loss"
    name: str = ""

    @property
    def title(self) -> str:
        """The name of the results, without the phase."""
        return self.name or self.of

    @cached_property
    def sums(self) -> str:
        """The field of the sums."""
        return f"{self.title}_sums"

    def fields(self) -> dict[str, Any]:
        """The sums of a phase, and the mean."""
        sums = field(scope="phase", factory=lambda state: RunningMean(), description=f"sums of {self.of}")
        mean = field(scope="epoch", description=f"mean of {self.of} over the samples")
        return {self.sums: (RunningMean, sums), f"{{phase}}_{self.title}": (float | Tensor, mean)}

    @after(
        "batch",
        within=Phase,
        reads=lambda self: (f"{self.of}?", self.sums, "batch"),
        writes=lambda self: (f"{self.title}_sums.state",),
    )
    def add(self, state: Any) -> None:
        """Count one batch."""
        value = getattr(state, self.of)
        if value is None:
            return
        if value.numel() != 1 if isinstance(value, Tensor) else not isinstance(value, float | int):
            told = f"{self.of!r} is {short(value)}; it averages one number per batch. Name a field that holds one."
            raise ArgumentError("Mean", "of", told)
        sums: RunningMean = getattr(state, self.sums)
        sums.add(value, batch_size(state.batch))

    @after(
        Phase,
        reads=lambda self: (self.sums,),
        writes=lambda self: (f"{{phase}}_{self.title}?",),
    )
    def result(self, state: Any) -> float | Tensor | None:
        """The mean of the phase."""
        sums: RunningMean = getattr(state, self.sums)
        return sums.mean()
