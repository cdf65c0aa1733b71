"""Checkpoint: write what a run needs to go on, now and then, and keep some of it."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field as attribute
from math import inf, isfinite
from time import monotonic
from typing import Any, Literal

from torch import Tensor

from learner.callbacks.early_stopping import mode_of
from learner.checkpoints import Checkpoints, Kept
from learner.errors import ArgumentError
from learner.keeping import Keeper
from stages import Callback, Outcome, after
from stages.callbacks import Count, HookMethod
from state import field


@dataclass(frozen=True)
class Checkpoint(Callback):
    """Write a checkpoint of the run now and then, between two rounds, and one when it ends.

    Needs safetensors (`pip install 'staged-learner[checkpoint]'`), and a Learner with a `run_dir`: there they are, as
    `checkpoints/0001` and so on. `fit(..., resume="auto")` goes on from the newest.

    Args:
        every: "2 epochs", "500 batches", "200 updates" or "10 minutes": one is due when so many are over, and is
            written at the next point where a run can go on.
        keep: how many of the newest are kept; None keeps all.
        best: a field with a number at the end of an epoch, such as "valid_accuracy": after an epoch that is the best so
            far there is a checkpoint in any case, and the best one is kept too.
        mode: "min" or "max", which values are better. None goes by the name, as in EarlyStopping.

    Writes:
        last_{best}: float, the number of the last epoch that had one, if `best` is given.

    Raises:
        ArgumentError: a setting cannot be used.
    """

    every: str = "1 epochs"
    keep: int | None = 3
    best: str | None = None
    mode: Literal["min", "max"] | None = None
    _progress: dict[str, Any] = attribute(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._parsed()
        if self.keep is not None and (isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 1):
            told = f"keep={self.keep!r} cannot be used. It is a number of checkpoints, at least 1, or None for all."
            raise ArgumentError("Checkpoint", "keep", told)
        if self.mode not in ("min", "max", None):
            told = f"mode={self.mode!r} is neither 'min' nor 'max', nor None to go by the name."
            raise ArgumentError("Checkpoint", "mode", told)
        if self.best is not None and self.mode is None and mode_of(self.best) is None:
            told = f"the name {self.best!r} does not tell whether small or great is better."
            raise ArgumentError("Checkpoint", "mode", f"{told} Say mode='min' or mode='max'.")

    def fields(self) -> dict[str, Any]:
        """The number that `best` goes by."""
        if self.best is None:
            return {}
        last = field(default=None, description=f"{self.best} of the last epoch that had one")
        return {f"last_{self.best}": (float | None, last)}

    def hooks(self) -> list[tuple[str, HookMethod]]:
        """Without `best` there is nothing to note."""
        return [(name, hook) for name, hook in super().hooks() if name != "note" or self.best is not None]

    @after("epoch", reads=lambda self: (f"{self.best}?",), writes=lambda self: (f"last_{self.best}",))
    def note(self, state: Any, outcome: Outcome) -> None:
        """Keep the number of this epoch."""
        value = getattr(state, self.best) if outcome.ok else None  # type: ignore[arg-type]
        setattr(state, f"last_{self.best}", value.item() if isinstance(value, Tensor) else value)

    @after("checkpoint")
    def write(self, state: Any) -> None:
        """Write one, if it is due and a run can go on from here."""
        keeper: Keeper = self._progress["keeper"]
        if keeper.can_stop_here() and (self._is_due(keeper) or keeper.is_ending() or self._is_best(keeper)):
            self._write(keeper)

    def attach(self, keeper: Keeper, checkpoints: Checkpoints) -> None:
        """Write what `keeper` takes to `checkpoints` from now on."""
        self._progress.update(keeper=keeper, checkpoints=checkpoints, total=self._total(keeper))
        keeper.watch()

    def begin(self) -> None:
        """A run begins."""
        checkpoints: Checkpoints = self._progress["checkpoints"]
        checkpoints.begin()
        self._progress["total"] = self._total(self._progress["keeper"])

    def _parsed(self) -> tuple[float, str]:
        number, _, unit = self.every.partition(" ") if isinstance(self.every, str) else ("", "", "")
        if unit in ("minutes", "minute", "seconds", "second", "hours", "hour"):
            try:
                seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit[0]]
            except ValueError:
                seconds = 0
            if 0 < seconds < inf:
                return seconds, "seconds"
            told = f"every={self.every!r} is no time. Say '10 minutes' or '200 updates'."
            raise ArgumentError("Checkpoint", "every", told)
        count = Count.parse(self.every, "Checkpoint")
        return count.number, count.unit

    def _total(self, keeper: Keeper) -> float:
        unit = self._parsed()[1]
        return monotonic() if unit == "seconds" else keeper.total(unit)

    def _is_due(self, keeper: Keeper) -> bool:
        number, unit = self._parsed()
        total, last = self._total(keeper), self._progress["total"]
        return bool(total - last >= number if unit == "seconds" else total // number > last // number)

    def _number(self, keeper: Keeper) -> float | None:
        """What `best` goes by, at the end of an epoch that had it."""
        return keeper.value(f"last_{self.best}") if self.best is not None and keeper.is_between_epochs() else None

    def _is_best(self, keeper: Keeper) -> bool:
        """Whether an epoch has ended that was better than all those with a checkpoint."""
        value = self._number(keeper)
        if value is None or not isfinite(value):
            return False
        others = [number for number, _ in _numbered(self._progress["checkpoints"])]
        return value not in others and self._pick([value, *others]) == value

    def _pick(self, values: list[Any]) -> Any:
        return min(values) if (self.mode or mode_of(str(self.best))) == "min" else max(values)

    def _write(self, keeper: Keeper) -> None:
        checkpoints: Checkpoints = self._progress["checkpoints"]
        keeper.save(checkpoints.next(), {"number": self._number(keeper)})
        self._progress["total"] = self._total(keeper)
        self._drop(checkpoints)

    def _drop(self, checkpoints: Checkpoints) -> None:
        """Remove what is not to be kept: all but the newest, and the one with the best number."""
        if self.keep is None:
            return
        kept = list(checkpoints)
        spared = {one.number for one in kept[-self.keep :]}
        if self.best is not None and (numbered := _numbered(kept)):
            spared.add(self._pick(numbered)[1])
        for one in kept:
            if one.number not in spared:
                shutil.rmtree(one.path, ignore_errors=True)


def _numbered(checkpoints: Iterable[Kept]) -> list[tuple[float, int]]:
    """The finite numbers that checkpoints have, each with that of its checkpoint."""
    found = [(one.value(), one.number) for one in checkpoints]
    return [(value, number) for value, number in found if value is not None and isfinite(value)]
