"""Figures: what was measured, against which limit, and how a fair measurement is made."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what was measured.
        values: one per repeat; the median of them counts.
        unit: of the values.
        limit: what the median may be at most; None for a line that only helps to read the others.
    """

    name: str
    values: tuple[float, ...]
    unit: str
    limit: float | None = None

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def is_missed(self) -> bool:
        """Whether the median is over the limit."""
        return self.limit is not None and self.value > self.limit


def table(figures: list[Figure]) -> str:
    """The figures as text, a line each."""
    head = ("figure", "median", "min .. max", "limit", "")
    rows = [head] + [
        (
            figure.name,
            f"{_number(figure.value)} {figure.unit}".strip(),
            f"{_number(min(figure.values))} .. {_number(max(figure.values))}",
            "" if figure.limit is None else _number(figure.limit),
            "" if figure.limit is None else "MISSED" if figure.is_missed else "pass",
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of this process for each of `runs`, `repeats` times in turn, after one round that is not counted.

    In turn, so that a slow minute of the machine falls on all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            if repeat:
                seconds[name].append(time.process_time() - started)
    return seconds


def resident_mb() -> float:
    """Memory of this process that is resident now, in MB of 1,000,000 bytes. Linux only.

    Raises:
        OSError: there is no /proc.
    """
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.2f}"
