"""Checkpoints: the numbered directories of one run, how they are named, and which one to go on from."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from state.bundle import Bundle, read_bundle
from state.commit import discard, make_durable, sweep
from state.digested import DigestedFile
from state.documents import MAX_BYTES, value_of
from state.errors import CheckpointDamaged, CheckpointError
from state.manifest import FILE, read_manifest
from state.runs import find_run

FOLDER = "checkpoints"


class Kept(NamedTuple):
    """One checkpoint of a run."""

    number: int
    path: Path

    def run(self) -> dict[str, Any]:
        """What it tells of the run, unverified: for a table, or to choose by. Nothing if that cannot be read."""
        try:
            with DigestedFile(self.path / "run.json") as file:
                found = value_of(file.take(min(file.size, MAX_BYTES)))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def number_of(self, best: str | None) -> float | None:
        """The number of the epoch at whose end it was written, if it has the one that goes by `best`."""
        run = self.run()
        number = run.get("number") if best is not None and run.get("best") == best else None
        return number if isinstance(number, int | float) else None

    def glance(self) -> tuple[int, list[str]]:
        """Its size in bytes, and what is wrong with it as far as that is seen without reading it: files and sizes."""
        try:
            told = read_manifest(self.path).files
            there = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(self.path)}
        except (CheckpointError, OSError) as error:
            return 0, [str(error)]
        problems = [f"{name} is missing" for name in told if name not in there]
        problems += [f"{name} is not listed in {FILE}" for name in there.keys() - {FILE, *told}]
        for name in told.keys() & there.keys():
            if not stat.S_ISREG(there[name].st_mode):
                problems.append(f"{name} is no regular file")
            elif there[name].st_size != told[name].size:
                problems.append(f"{name} has {there[name].st_size} bytes, {FILE} says {told[name].size}")
        return sum(one.st_size for one in there.values()), sorted(problems)


class Checkpoints:
    """The checkpoints of a run: `runs/digits/0003/checkpoints/0001` and so on. A number is never given twice."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / FOLDER
        self._last = 0

    def __iter__(self) -> Iterator[Kept]:
        """From the oldest to the newest."""
        if not self.folder.is_dir():
            return iter(())
        names = [path.name for path in self.folder.iterdir() if path.is_dir() and path.name.isdecimal()]
        return iter(sorted(Kept(int(name), self.folder / name) for name in names))

    def begin(self) -> None:
        """The run begins: from now on it is one that can be taken up, or has nothing to take up yet.

        Raises:
            CheckpointError: the disk refused, here as below.
        """
        with _refused(self.folder, "cannot be made"):
            make_durable(self.folder)

    def next(self) -> Path:
        """Where the next one goes."""
        with _refused(self.folder, "cannot be read"):
            sweep(self.folder)
            self._last = max([self._last, *(kept.number for kept in self)]) + 1
        return self.folder / f"{self._last:04d}"

    def keep_only(self, spared: Collection[int]) -> None:
        """Remove those of other numbers."""
        for kept in self:
            if kept.number not in spared:
                with _refused(kept.path, "cannot be removed"):
                    discard(kept.path)

    def newest(self) -> tuple[Path, Bundle, list[str]] | None:
        """The newest that is whole, and what was wrong with those after it; None if there is none at all.

        Raises:
            CheckpointError: there are some, and none of them is whole.
        """
        problems: list[str] = []
        for kept in reversed(list(self)):
            try:
                return kept.path, read_bundle(kept.path), problems
            except CheckpointDamaged as error:
                problems.append(str(error))
        if problems:
            raise CheckpointError(self.folder, "holds no whole one:\n- " + "\n- ".join(problems))
        return None


@contextmanager
def _refused(path: Path, what: str) -> Iterator[None]:
    """Tell of a call to the system that failed in our words."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(path, f"{what}: {error.strerror or error}.") from error


def find_checkpoints(name: str | os.PathLike[str]) -> list[Kept]:
    """The checkpoints that a name stands for, the oldest first.

    Args:
        name: the directory of a checkpoint; or a run, for all that it has: "runs/digits" for the latest of the family
            that keeps some, "runs/digits@3", "runs/digits/0003"; or one of a run by its number: "runs/digits:7",
            "runs/digits@3:7".

    Raises:
        RunNotFound: there is no such run.
        CheckpointError: it has no checkpoint, or none of that number.
    """
    path = Path(name)
    if (path / FILE).exists() or path.parent.name == FOLDER:
        return [Kept(int(path.name) if path.name.isdecimal() else 0, path)]
    given, _, number = str(name).rpartition(":")
    is_numbered = number.isdecimal() and bool(given) and not path.exists()
    run = _run(given if is_numbered else str(name))
    there = list(Checkpoints(run))
    if not there:
        told = f"is not there: {str(run)!r} keeps none. Checkpoint(...) among the callbacks writes them."
        raise CheckpointError(name, told)
    if not is_numbered:
        return there
    found = [one for one in there if one.number == int(number)]
    if not found:
        raise CheckpointError(name, f"is not there: {str(run)!r} keeps {[one.number for one in there]}.")
    return found


def is_run(name: str) -> bool:
    """Whether a name stands for a run, and not for a checkpoint."""
    path = Path(name)
    if (path / FILE).exists() or path.parent.name == FOLDER:
        return False
    return path.exists() or not name.rpartition(":")[2].isdecimal()


def _run(name: str) -> Path:
    """The directory of a run, which need not have a log; of a family the latest that keeps checkpoints."""
    if (Path(name) / FOLDER).is_dir():
        return Path(name)
    family, at, number = name.rpartition("@")
    if at and number.isdecimal() and (Path(family) / f"{int(number):04d}" / FOLDER).is_dir():
        return Path(family) / f"{int(number):04d}"
    found = find_run(name, lambda run: any(Checkpoints(run)))
    return found.parent if found.is_file() else found


def describe(run: Mapping[str, Any]) -> str:
    """Where a run stood: "epoch 2, fit, batch 17, update 41", or between two epochs "after epoch 2, update 64"."""
    names = ("epoch {}", "{}", "batch {}", "update {}")
    parts = [name.format(part) for name, part in zip(names, run["position"], strict=True) if part is not None]
    if run["position"][0] is None and run["history"]:
        parts.insert(0, f"after epoch {run['history'][-1]['epoch']}")
    return ", ".join(parts) or "at the beginning"
