"""Checkpoint: write what a run needs to go on, now and then, and keep some of it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as attribute
from time import monotonic
from typing import Any, Literal

from torch import Tensor

from learner.callbacks.early_stopping import mode_of
from learner.checkpoints import Checkpoints, Kept
from learner.errors import ArgumentError
from learner.keeping import Keeper
from learner.writing import Writer
from stages import Callback, Cancel, Outcome, after
from stages.callbacks import HookMethod
from stages.counts import Count
from state import field


@dataclass(frozen=True)
class Checkpoint(Callback):
    """Write a checkpoint of the run now and then, between two rounds, and one when it ends.

    Needs a Learner with a `run_dir`: in the run's directory they are `checkpoints/0001` and so on.
    `fit(..., resume="auto")` goes on from the newest. A Learner takes one Checkpoint.

    Args:
        every: "2 epochs", "500 batches", "200 updates" or "10 minutes": one is due when so many are over, and is
            written at the next point where a run can go on.
        keep: how many of the newest are kept; None keeps all.
        best: a field with a number at the end of an epoch, such as "valid_accuracy": after an epoch that is better than
            all before, one is written whether due or not, and kept until a better one is there.
        behind: write in a thread while the run goes on, from a copy in memory: less waiting for as much memory as the
            checkpoint has. What goes wrong is raised when the next one is due.
        mode: "min" or "max", which values are better. None goes by the name, as in EarlyStopping.

    Writes:
        last_{best}: float, the number of the last epoch that had one, if `best` is given.

    Raises:
        ArgumentError: a setting cannot be used.
    """

    every: str = "1 epochs"
    keep: int | None = 3
    best: str | None = None
    behind: bool = False
    mode: Literal["min", "max"] | None = None
    _progress: dict[str, Any] = attribute(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._parsed()
        if self.keep is not None and (isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 1):
            told = f"keep={self.keep!r} cannot be used. It is a number of checkpoints, at least 1, or None for all."
            raise ArgumentError("Checkpoint", "keep", told)
        if self.mode not in ("min", "max", None):
            told = f"mode={self.mode!r} cannot be used. It is 'min', 'max', or None to go by the name of `best`."
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
        """Write one, if it is due and a run can go on from here; end the run if a signal asked for it."""
        keeper: Keeper = self._progress["keeper"]
        if self._progress["stopped"] or not keeper.can_stop_here():
            return
        number = keeper.request.number
        value = keeper.value(f"last_{self.best}") if self.best is not None and keeper.is_between_epochs() else None
        is_best = self._is_better(value, self._progress["best"])
        if number is None and not is_best and not self._is_due(keeper) and not keeper.is_ending():
            return
        snapshot, run = keeper.take()
        self._progress["writer"].write(snapshot, {**run, "best": self.best, "number": value})
        self._progress["total"] = self._total(keeper)
        if is_best:
            self._progress["best"] = value
        if number is not None:
            self._progress["stopped"] = True
            raise Cancel("run", f"{number.name}; a checkpoint was written")

    def attach(self, keeper: Keeper, checkpoints: Checkpoints) -> None:
        """Write what `keeper` takes to `checkpoints` from now on, while `writing` is open."""
        self._progress.update(keeper=keeper, checkpoints=checkpoints, stopped=True)
        keeper.watch()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While the block runs, checkpoints can be written; at its end all of them are.

        Raises:
            ArgumentError: none could ever be written in this tree.
        """
        nowhere = self._progress["keeper"].why_nowhere()
        if nowhere:
            told = f"a run can go on from nowhere in this tree: {nowhere}. Loop by Train(...), or leave Checkpoint out."
            raise ArgumentError("Checkpoint", "stages", told)
        checkpoints: Checkpoints = self._progress["checkpoints"]
        checkpoints.begin()
        writer = Writer(checkpoints, self._spared, behind=self.behind)
        best = self._best(checkpoints)
        self._progress.update(
            writer=writer,
            total=self._total(self._progress["keeper"]),
            best=None if best is None else best.number_of(self.best),
            stopped=False,
        )
        try:
            yield
        finally:
            self._progress["stopped"] = True
            writer.close()

    def _parsed(self) -> tuple[float, str]:
        number, _, unit = self.every.partition(" ") if isinstance(self.every, str) else ("", "", "")
        if unit.rstrip("s") not in ("second", "minute", "hour"):
            count = Count.parse(self.every, "Checkpoint")
            return count.number, count.unit
        try:
            seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit[0]]
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            told = f"every={self.every!r} is no time. Say '10 minutes' or '200 updates'."
            raise ArgumentError("Checkpoint", "every", told)
        return seconds, "seconds"

    def _total(self, keeper: Keeper) -> float:
        unit = self._parsed()[1]
        return monotonic() if unit == "seconds" else keeper.total(unit)

    def _is_due(self, keeper: Keeper) -> bool:
        number, unit = self._parsed()
        total, last = self._total(keeper), self._progress["total"]
        return bool(total - last >= number if unit == "seconds" else total // number > last // number)

    def _spared(self, checkpoints: Checkpoints) -> set[int]:
        """Those that stay: the newest, and the one with the best number."""
        there, best = list(checkpoints), self._best(checkpoints)
        spared = {one.number for one in (there if self.keep is None else there[-self.keep :])}
        return spared if best is None else spared | {best.number}

    def _best(self, checkpoints: Checkpoints) -> Kept | None:
        """The first with the best number."""
        best: Kept | None = None
        for one in checkpoints:
            if self._is_better(one.number_of(self.best), None if best is None else best.number_of(self.best)):
                best = one
        return best

    def _is_better(self, value: float | None, best: float | None) -> bool:
        if value is None or not math.isfinite(value):
            return False
        return best is None or (value < best if (self.mode or mode_of(self.best or "")) == "min" else value > best)
