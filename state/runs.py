"""Numbered run directories: `runs/digits` is a family, and each run of it gets the next number."""

import os
from collections.abc import Callable
from pathlib import Path

from state.errors import RunNotFound, nearest, suggestion

LOG_FILE = "rank0.log.db"


def new_run(family: str | os.PathLike[str]) -> Path:
    """Create the directory of the next run, `runs/digits/0001` for the first. Two processes never get the same."""
    family = Path(family)
    family.mkdir(parents=True, exist_ok=True)
    number = max(_numbers(family), default=0) + 1
    while True:
        run = family / f"{number:04d}"
        try:
            run.mkdir()  # atomic: fails for all but one of those who try at once
            return run
        except FileExistsError:
            number += 1


def find_run(name: str | os.PathLike[str], is_wanted: Callable[[Path], bool] | None = None) -> Path:
    """The directory of a stored run, or the log file if it is named itself.

    Args:
        name: "runs/digits" for the latest run of a family, "runs/digits@3" for a given one, "runs/digits/0003" for
            a directory, or the path of a log file.
        is_wanted: passes over those of a family for which it says no, unless it says so for all.

    Raises:
        RunNotFound: there is none; the message says what there is.
    """
    path = Path(name)
    if path.is_file() or (path / LOG_FILE).is_file():
        return path
    if path.is_dir():
        if runs := numbered_runs(path):
            return next((run for run in reversed(runs) if is_wanted is None or is_wanted(run)), runs[-1])
        inside = sorted(other.name for other in path.iterdir() if other.is_dir())
        raise RunNotFound(str(name), f"The directory holds no {LOG_FILE} and no numbered run, only {inside}.")
    family, at, number = str(name).rpartition("@")
    if not at or not Path(family).is_dir():
        raise RunNotFound(str(name), "There is no such directory." + _offer(Path(family if at else name)))
    if not number.isdecimal() or int(number) not in _numbers(Path(family)):
        raise RunNotFound(str(name), _range(Path(family)))
    return Path(family) / f"{int(number):04d}"


def numbered_runs(family: Path) -> list[Path]:
    """The directories of the runs of a family, the oldest first."""
    return [family / f"{number:04d}" for number in _numbers(family)]


def _numbers(family: Path) -> list[int]:
    names = [run.name for run in family.iterdir() if run.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal() and name == f"{int(name):04d}")


def _range(family: Path) -> str:
    numbers = [str(number) for number in _numbers(family)]
    return f"{str(family)!r} holds runs {numbers[0]} to {numbers[-1]}." if numbers else f"{str(family)!r} holds no run."


def _offer(path: Path) -> str:
    """What lies beside a path that is no run: the nearest name, or all of them."""
    parent = path.parent
    if not parent.is_dir():
        return f" Nor is there {str(parent)!r}."
    if _numbers(parent):
        return " " + _range(parent)
    there = sorted(str(other) for other in parent.iterdir() if other.is_dir())
    near = nearest(str(path), there)
    return suggestion(near) or f" {str(parent)!r} holds {[Path(other).name for other in there]}."
