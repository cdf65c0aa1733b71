"""ProgressBar: a live bar for each phase on a terminal, and one line for each epoch everywhere."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

from torch import Tensor

from learner.errors import ArgumentError
from stages import Callback, Outcome, Phase, after, before

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

REFRESH_S = 0.1
"""Seconds between two refreshes of a bar; phases that are over sooner draw none."""


@dataclass(frozen=True)
class ProgressBar(Callback):
    """Show where the run is. On a terminal and in a notebook a bar while a phase runs; everywhere a line per epoch.

    The bar counts batches, out of `len(loader)` where the loader has a length, and shows the loss of the batch. It is
    refreshed ten times a second at most; only then is the loss read, which waits for the device. The line of an epoch
    has the numbers of epoch scope, and how the epoch ended if it did not end well. What is printed while a bar runs
    appears above it. However a phase ends, Ctrl-C included, its bar is gone and the terminal as it was.

    Args:
        file: where to write; by default standard output.
        console: a rich Console to write to instead.

    Raises:
        ArgumentError: both were given.
    """

    file: TextIO | None = None
    console: "Console | None" = None
    display: "Display" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.file is not None and self.console is not None:
            told = "it takes file= or console=, not both. The console has a file."
            raise ArgumentError("ProgressBar", "console", told)
        object.__setattr__(self, "display", Display(self.file, self.console))

    @before("/")
    def start_run(self, state: Any) -> None:
        """Keep the display from phase to phase."""
        self.display.is_run = True

    @after("/")
    def end_run(self, state: Any) -> None:
        """Take the display away."""
        self.display.is_run = False
        self.display.stop()

    @before("epoch")
    def start_epoch(self, state: Any) -> None:
        """Note the time."""
        self.display.epoch_started = monotonic()

    @before(Phase, reads=("{loader}",))
    def start_phase(self, state: Any) -> None:
        """Begin to count batches."""
        (name,) = dir(state)  # the one name it declares, which tells the phase
        self.display.start(name.removesuffix("_loader"), _length(getattr(state, name)))

    @after("batch", within=Phase)
    def count_batch(self, state: Any) -> None:
        """Count a batch, and refresh when it is time."""
        if not self.display.bars and _has(state, "batch_index"):
            self.display.take_up(state.batch_index)
        if self.display.is_due():
            self.display.draw(state)

    @after(Phase)
    def end_phase(self, state: Any) -> None:
        """Take the bar away."""
        self.display.end()

    @after("epoch")
    def end_epoch(self, state: Any, outcome: Outcome) -> None:
        """Write the line of the epoch."""
        self.display.report(state, outcome)


@contextmanager
def keeps_random() -> Iterator[None]:
    """rich numbers its styles by Python's random generator; a run with a bar draws what a run without one does."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@dataclass
class Bar:
    """The bar of one phase that runs."""

    word: str
    num_batches: int | None
    done: int = 0
    task: Any = None


class Display:
    """What a ProgressBar has on the screen. Nothing here is part of a run: it may be lost at any time.

    Phases nest (a validation inside an epoch of training), so there is a stack of bars. The live display starts with
    the first refresh and stops with the run; with the outermost phase, where a part of the tree runs alone.
    """

    def __init__(self, file: TextIO | None, console: "Console | None") -> None:
        self.file = file
        self.console = console
        self.bars: list[Bar] = []
        self.live: Progress | None = None
        self.is_run = False
        self.due = 0.0
        self.epoch_started: float | None = None

    @keeps_random()
    def start(self, word: str, num_batches: int | None) -> None:
        """A phase begins."""
        self.bars.append(Bar(word, num_batches))
        if not self.due:
            self.due = monotonic() + REFRESH_S if _is_live(self._console()) else float("inf")

    def take_up(self, batch_index: int) -> None:
        """A phase goes on in the middle, from a checkpoint: its beginning was in another process."""
        self.start(f"from batch {batch_index}", None)

    def is_due(self) -> bool:
        """Count a batch of the innermost phase; whether it is time to draw."""
        if not self.bars:
            return False
        self.bars[-1].done += 1
        return monotonic() >= self.due

    @keeps_random()
    def draw(self, state: Any) -> None:
        """Bring the screen up to date."""
        if self.live is None:
            self.live = _progress(self._console())
            self.live.start()
        epoch = f"epoch {state.epoch}  " if _has(state, "epoch") else ""
        for bar in self.bars:
            if bar.task is None:
                bar.task = self.live.add_task(f"{epoch}{bar.word}", total=bar.num_batches, loss="")
        bar = self.bars[-1]
        loss = f"loss {_text(state.loss)}" if _has(state, "loss") and _is_number(state.loss) else ""
        self.live.update(bar.task, completed=bar.done, loss=loss)
        self.live.refresh()
        self.due = monotonic() + REFRESH_S

    @keeps_random()
    def end(self) -> None:
        """The innermost phase is over."""
        bar = self.bars.pop() if self.bars else None
        if self.live is None:
            return
        if bar is not None and bar.task is not None:
            self.live.remove_task(bar.task)
            self.live.refresh()
        if not self.is_run:
            self.stop()

    @keeps_random()
    def stop(self) -> None:
        """The outermost is over: leave the terminal as it was."""
        self.due = 0.0
        if not self.bars and self.live is not None:
            live, self.live = self.live, None
            live.stop()

    @keeps_random()
    def report(self, state: Any, outcome: Outcome) -> None:
        """Write the line of an epoch."""
        cells = [f"epoch {state.epoch}" if _has(state, "epoch") else "epoch"]
        if outcome.kind in ("ok", "cancelled"):  # after a failure no device is asked for anything
            cells += [f"{name} {_text(value)}" for name, value in _numbers(state)]
        if self.epoch_started is not None:
            cells.append(f"{monotonic() - self.epoch_started:.1f} s")
        if not outcome.ok:
            cells.append(str(outcome))
        self._console().print("  ".join(cells), markup=False, highlight=False, soft_wrap=True)

    def _console(self) -> "Console":
        if self.console is None:
            from rich.console import Console

            self.console = Console(file=self.file)
        return self.console


def _is_live(console: "Console") -> bool:
    """Whether a bar can be redrawn in place."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


def _progress(console: "Console") -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, auto_refresh=False)


def _length(loader: Any) -> int | None:
    """The number of batches of a loader that knows it."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _has(state: Any, name: str) -> bool:
    """Whether State has such a field, with a value now."""
    return name in dir(state) and state.ready(name)


def _numbers(state: Any) -> list[tuple[str, Any]]:
    """The fields of epoch scope that hold a number now, the epoch itself aside."""
    return [(name, v) for name, v in state.values_of("epoch").items() if name != "epoch" and _is_number(v)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def _text(value: Any) -> str:
    """A number in four digits; reads a tensor from its device."""
    number = value.item() if isinstance(value, Tensor) else value
    return f"{number:.4g}" if isinstance(number, float) else str(number)
