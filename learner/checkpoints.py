"""Checkpoints: the numbered directories of one run, which to keep, and which one to go on from."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from state.bundle import Bundle, read_bundle
from state.commit import sweep
from state.documents import value_of
from state.errors import CheckpointDamaged, CheckpointError

FOLDER = "checkpoints"


class Kept(NamedTuple):
    """One checkpoint of a run."""

    number: int
    path: Path

    def run(self) -> dict[str, Any]:
        """What it tells of the run, unverified: for a table, or to choose by."""
        found: dict[str, Any] = value_of((self.path / "run.json").read_bytes())
        return found

    def value(self) -> float | None:
        """The number that `Checkpoint(best=...)` goes by; None where there is none, or no file that can be read."""
        try:
            found: float | None = self.run().get("number")
        except (OSError, ValueError):  # damaged, or removed in part when the process was killed
            return None
        return found


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
        """The run begins: from now on it is one that can be taken up, or has nothing to take up yet."""
        self.folder.mkdir(exist_ok=True)

    def next(self) -> Path:
        """Where the next one goes."""
        sweep(self.folder)
        self._last = max([self._last, *(kept.number for kept in self)]) + 1
        return self.folder / f"{self._last:04d}"

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


def describe(run: Mapping[str, Any]) -> str:
    """Where a run stood: "epoch 2, fit, batch 17, update 41"."""
    names = ("epoch {}", "{}", "batch {}", "update {}")
    parts = [name.format(part) for name, part in zip(names, run["position"], strict=True) if part is not None]
    return ", ".join(parts) or "at the beginning"
