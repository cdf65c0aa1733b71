"""Schedule: a learning rate scheduler of PyTorch, on the record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from learner.callbacks.early_stopping import mode_of
from learner.errors import ArgumentError
from stages import Callback, Outcome, after
from stages.callbacks import HookMethod
from state import field
from state.errors import a_kind


@dataclass(frozen=True)
class Schedule(Callback):
    """Move the scheduler that `make` builds, after each update or each epoch.

    Args:
        make: makes the scheduler of the optimizer: `lambda optimizer: CosineAnnealingLR(optimizer, T_max=1000)`.
        per: "update" moves it after each optimizer update, "epoch" after each epoch.
        monitor: for ReduceLROnPlateau: the field that its `step` gets, such as "valid_loss". An epoch without a value
            there, such as one without validation, does not move it.
        name: the field of State that holds the scheduler. Two schedules need two names.

    Writes:
        optimizer.hyper: `lr`, and what else the scheduler sets.
        {name}.state: where the scheduler is.

    It moves only when the update or epoch ended well: a cancelled batch is no update. The scheduler is made once, when
    the Learner is built, so the first learning rate is in place before the first batch.

    Example:
        >>> from torch.optim.lr_scheduler import OneCycleLR
        >>> from learner.callbacks import Schedule
        >>> Schedule(lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=480)).per
        'update'

    Raises:
        ArgumentError: a setting cannot be used, or `make` makes no scheduler of this optimizer.
    """

    make: Callable[[Optimizer], LRScheduler]
    per: Literal["update", "epoch"] = "update"
    monitor: str | None = None
    name: str = "schedule"

    def __post_init__(self) -> None:
        if isinstance(self.make, LRScheduler) or not callable(self.make):
            kind = type(self.make).__name__
            told = f"it got a {kind}; it wants a function that makes one of the optimizer"
            example = kind if isinstance(self.make, LRScheduler) else "StepLR"
            raise ArgumentError("Schedule", "make", f"{told}: Schedule(lambda optimizer: {example}(optimizer, ...)).")
        if self.per not in ("update", "epoch"):
            raise ArgumentError("Schedule", "per", f"per={self.per!r} is neither 'update' nor 'epoch'.")
        if self.monitor is not None and self.per != "epoch":
            told = f"{self.monitor!r} is read when an epoch ends. Say per='epoch'."
            raise ArgumentError("Schedule", "per", told)

    def fields(self) -> dict[str, Any]:
        """The scheduler."""
        scheduler = field(factory=self._made, description=f"learning rate scheduler, moved per {self.per}")
        return {self.name: (LRScheduler, scheduler)}

    def hooks(self) -> list[tuple[str, HookMethod]]:
        """The one hook that `per` asks for."""
        return [(name, hook) for name, hook in super().hooks() if name == f"after_{self.per}"]

    @after("update", writes=lambda self: ("optimizer.hyper", f"{self.name}.state"))
    def after_update(self, state: Any, outcome: Outcome) -> None:
        """Move the scheduler by an update."""
        if outcome.ok:
            getattr(state, self.name).step()

    @after(
        "epoch",
        reads=lambda self: () if self.monitor is None else (self.monitor, f"{self.monitor}?"),
        writes=lambda self: ("optimizer.hyper", f"{self.name}.state"),
    )
    def after_epoch(self, state: Any, outcome: Outcome) -> None:
        """Move the scheduler by an epoch."""
        if not outcome.ok:
            return
        scheduler = getattr(state, self.name)
        if self.monitor is None:
            scheduler.step()
            return
        value = getattr(state, self.monitor)
        if value is not None:
            scheduler.step(value)

    def _made(self, state: Any) -> LRScheduler:
        """The scheduler, made of the optimizer in State."""
        optimizer: Optimizer = state.optimizer
        made = self.make(optimizer)
        if not isinstance(made, LRScheduler):
            told = f"it made {a_kind(made)}; it wants a torch.optim.lr_scheduler.LRScheduler."
            raise ArgumentError("Schedule", "make", told)
        if made.optimizer is not optimizer:
            told = "it made a scheduler of another optimizer. Use the one it is given: lambda optimizer: ..."
            raise ArgumentError("Schedule", "make", told)
        if isinstance(made, ReduceLROnPlateau) and self.monitor is None:
            told = "ReduceLROnPlateau needs a metric. Say per='epoch', monitor='valid_loss'."
            raise ArgumentError("Schedule", "monitor", told)
        if isinstance(made, ReduceLROnPlateau) and made.mode == "min" and mode_of(self.monitor or "") == "max":
            told = f"by its name {self.monitor!r} is better when great, and ReduceLROnPlateau takes it for better when "
            raise ArgumentError("Schedule", "monitor", f"{told}small. Say mode='max' to ReduceLROnPlateau.")
        if self.monitor is not None and not isinstance(made, ReduceLROnPlateau):
            told = f"only ReduceLROnPlateau takes a metric, and it made {a_kind(made)}. Leave monitor out."
            raise ArgumentError("Schedule", "monitor", told)
        return made
