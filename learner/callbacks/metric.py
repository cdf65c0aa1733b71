"""Metric: a torchmetrics metric over each phase."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from learner.errors import ArgumentError
from stages import Callback, Phase, after
from stages.slots import snake_case
from state import field
from state.errors import MissingExtra, a_kind

if TYPE_CHECKING:
    import torchmetrics


@dataclass(frozen=True)
class Metric(Callback):
    """Compute a torchmetrics metric over each phase: `Metric(BinaryF1Score())` brings `valid_binary_f1_score`.

    Needs torchmetrics: `pip install 'staged-learner[metrics]'`.

    Args:
        metric: the metric. It is a pattern and stays as it is: each phase works on a fresh copy, kept in State as the
            component `{name}_metric`, so nothing leaks from one phase or epoch into the next.
        name: what the results are called, after the phase; by default the class in snake case.
        outputs, targets: the fields its `update` takes, in this order.

    Writes:
        {phase}_{name}: what its `compute` gives; valid until the epoch ends. Not ready where no batch was counted.

    Costs what torchmetrics does, tens of microseconds a batch: `Accuracy` and `Mean` are several times cheaper.

    Raises:
        MissingExtra: torchmetrics is not installed.
        ArgumentError: `metric` is no torchmetrics metric.
    """

    metric: "torchmetrics.Metric"
    name: str = ""
    outputs: str = "outputs"
    targets: str = "targets"

    def __post_init__(self) -> None:
        try:
            import torchmetrics
        except ImportError:
            raise MissingExtra("Metric(...) needs torchmetrics", "metrics") from None
        if isinstance(self.metric, type) and issubclass(self.metric, torchmetrics.Metric):
            told = f"it got the class {self.metric.__name__}. Give an object: {self.metric.__name__}(...)."
            raise ArgumentError("Metric", "metric", told)
        if isinstance(self.metric, torchmetrics.MetricCollection):
            told = "it got a MetricCollection. Give each metric a Metric(...) of its own."
            raise ArgumentError("Metric", "metric", told)
        if not isinstance(self.metric, torchmetrics.Metric):
            told = "it wants a torchmetrics.Metric. For a number that a stage writes, use Mean(of=...)."
            raise ArgumentError("Metric", "metric", f"it got {a_kind(self.metric)}; {told}")

    @property
    def title(self) -> str:
        """The name of the results, without the phase."""
        return self.name or snake_case(type(self.metric).__name__)

    def fields(self) -> dict[str, Any]:
        """The metric of a phase, and its result."""
        kind = type(self.metric).__name__
        metric = field(scope="phase", factory=lambda state: self._fresh(), description=f"{kind} of the phase")
        result = field(scope="epoch", description=f"{kind} over the phase")
        return {f"{self.title}_metric": (type(self.metric), metric), f"{{phase}}_{self.title}": (Any, result)}

    @after(
        "batch",
        within=Phase,
        reads=lambda self: (self.outputs, self.targets, f"{self.title}_metric"),
        writes=lambda self: (f"{self.title}_metric.state",),
    )
    def update(self, state: Any) -> None:
        """Count one batch."""
        if not (state.ready(self.outputs) and state.ready(self.targets)):
            return
        outputs, targets = getattr(state, self.outputs), getattr(state, self.targets)
        metric: torchmetrics.Metric = getattr(state, f"{self.title}_metric")
        if isinstance(outputs, Tensor):
            outputs = outputs.detach()
            if metric.device != outputs.device:
                metric.to(outputs.device)
        metric.update(outputs, targets)

    @after(
        Phase,
        reads=lambda self: (f"{self.title}_metric",),
        writes=lambda self: (f"{self.title}_metric.state", f"{{phase}}_{self.title}?"),
    )
    def result(self, state: Any) -> Any:
        """What the metric came to, if a batch was counted."""
        metric: torchmetrics.Metric = getattr(state, f"{self.title}_metric")
        return metric.compute() if metric.update_called else None

    def _fresh(self) -> "torchmetrics.Metric":
        fresh = self.metric.clone()
        fresh.reset()
        fresh.persistent(True)  # so that its state_dict, and a checkpoint, hold what it has counted
        return fresh
