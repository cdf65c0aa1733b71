"""History: what each epoch came to, as a table and as curves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from time import perf_counter
from typing import Any

from torch import Tensor

from learner.errors import ArgumentError
from stages import Callback, Composite, Phase, after, before
from stages.stage import paths_of, slot_of
from state.errors import MissingExtra, nearest, suggestion


class History(Sequence[Mapping[str, float]]):
    """One row per epoch: its number, its duration, and every number that was in epoch scope at its end.

    Values of a device are read when they are looked at, not before.

    Example:
        >>> from learner.testing import toy_learner
        >>> history = toy_learner().fit(epochs=2)
        >>> len(history), sorted(history[-1])
        (2, ['epoch', 'seconds', 'train_loss', 'valid_loss'])
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the row of an epoch."""
        self._rows.append(dict(row))

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Have these rows and no others."""
        self._rows[:] = [dict(row) for row in rows]

    @property
    def names(self) -> list[str]:
        """The columns, in the order they first came."""
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Mapping[str, float]]:
        return iter([self._numbers(row) for row in self._rows])

    def __getitem__(self, key: Any) -> Any:
        """A row by its number, or a column by its name: one value per epoch that has it.

        Raises:
            ArgumentError: there is no such column.
        """
        if not isinstance(key, str):
            rows = self._rows[key]
            return [self._numbers(row) for row in rows] if isinstance(key, slice) else self._numbers(rows)
        found = [self._numbers(row)[key] for row in self._rows if key in row]
        if not found:
            told = f"has the columns {self.names}.{suggestion(nearest(key, self.names))}"
            raise ArgumentError("History", "key", f"there is no {key!r}; it {told}")
        return found

    def to_pandas(self) -> Any:
        """A pandas DataFrame, one row per epoch."""
        try:
            import pandas
        except ImportError:
            raise MissingExtra("to_pandas() needs pandas", "frames") from None
        return pandas.DataFrame(list(self))

    def plot(self, *names: str) -> Any:
        """A matplotlib Figure with a curve for each of `names`, by default all losses on the left, all else right."""
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError:
            raise MissingExtra("plot() needs matplotlib", "plots") from None
        shown = list(names) or [name for name in self.names if name not in ("epoch", "seconds")]
        left = [name for name in shown if name.endswith("loss")]
        sides = [side for side in (left, [name for name in shown if name not in left]) if side]
        figure = Figure(figsize=(5.5 * max(1, len(sides)), 3.6), layout="constrained")
        for number, side in enumerate(sides, start=1):
            axes = figure.add_subplot(1, len(sides), number)
            for name in side:
                axes.plot([row["epoch"] for row in self._rows if name in row], self[name], marker=".", label=name)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        return figure

    def __repr__(self) -> str:
        return "\n".join("  ".join(cell.rjust(width) for cell, width in row) for row in self._cells())

    def _repr_html_(self) -> str:
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell, _ in row) for row in self._cells()]
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"

    def _cells(self) -> list[list[tuple[str, int]]]:
        names = self.names
        texts = [names] + [[_text(row.get(name)) for name in names] for row in self]
        widths = [max(len(row[column]) for row in texts) for column in range(len(names))]
        return [list(zip(row, widths, strict=True)) for row in texts]

    @staticmethod
    def _numbers(row: dict[str, Any]) -> dict[str, float]:
        for name, value in row.items():
            if isinstance(value, Tensor):
                row[name] = value.item()
        return dict(row)


class RecordHistory(Callback):
    """Adds a row to a History at the end of each epoch. An observer: it changes nothing."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.started = perf_counter()

    @before("epoch")
    def start(self, state: Any) -> None:
        """Note the time."""
        self.started = perf_counter()

    @after("epoch")
    def record(self, state: Any) -> None:
        """Add the row."""
        ready = state.values_of("epoch")
        numbers = {name: value for name, value in ready.items() if name != "epoch" and _is_number(value)}
        self.history.add(
            {"epoch": ready.get("epoch", len(self.history)), **numbers, "seconds": perf_counter() - self.started}
        )


def has_epochs(tree: Composite) -> bool:
    """Whether a tree has the slot whose rounds a History records."""
    return any(path.endswith("/epoch") for path in paths_of(tree, slot_of(tree)))


def has_batches(tree: Composite) -> bool:
    """Whether a tree has the slot whose losses a Learner averages: a phase with a `batch` below it."""
    waiting, seen = [tree], {id(tree)}  # a stage inside itself is refused later, with its path
    for held in waiting:
        if isinstance(held, Phase) and any(path.endswith("/batch") for path in paths_of(held, slot_of(held))):
            return True
        below = [stage for stage in held.stages.values() if isinstance(stage, Composite) and id(stage) not in seen]
        seen.update(map(id, below))
        waiting.extend(below)
    return False


def numbers_of(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers among `values` whose names begin with `prefix`."""
    return {name: float(value) for name, value in values.items() if name.startswith(prefix) and _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
