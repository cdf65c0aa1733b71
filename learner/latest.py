"""Latest: the run of a family that a Learner goes on with, and the lock that keeps a second process out of it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from learner.checkpoints import FOLDER, Checkpoints, describe
from learner.errors import ArgumentError
from state.bundle import Bundle
from state.runs import numbered_runs

LOCK = "lock"


@dataclass(frozen=True)
class Latest:
    """A run to go on with.

    Attributes:
        run: its directory.
        path: of the checkpoint.
        problems: what was wrong with newer ones.
    """

    run: Path
    path: Path
    bundle: Bundle
    problems: list[str]

    def __str__(self) -> str:
        """What is resumed, in one line; in further lines what was passed over."""
        run = self.bundle.documents["run"]
        lines = [f"Resuming {self.run} from checkpoint {self.path.name}: {describe(run)}."]
        return "\n".join([*lines, *(f"Passed over: {problem}" for problem in self.problems)])


def latest_run(run_dir: Path | None, *, has_run: bool) -> Latest | None:
    """The latest run before the one in `run_dir`, which has just been opened; None if it has no checkpoint.

    Raises:
        ArgumentError: there is no directory, or this Learner has run already.
        CheckpointError: it has checkpoints, and all are damaged.
    """
    if run_dir is None:
        told = "resume='auto' looks for a run to go on with. Give the Learner run_dir='runs/digits', say."
        raise ArgumentError("fit", "resume", told)
    if has_run:
        told = "resume='auto' goes on with an earlier run, and this Learner has run already. A second fit() goes on."
        raise ArgumentError("fit", "resume", told)
    earlier = [run for run in numbered_runs(run_dir.parent) if run != run_dir and (run / FOLDER).is_dir()]
    if not earlier:
        return None
    newest = Checkpoints(earlier[-1]).newest()
    return None if newest is None else Latest(earlier[-1], *newest)


def lock_run(run: Path) -> FileLock:
    """Keep other processes out of a run, until the lock is released or this process ends.

    Raises:
        ArgumentError: another one is in it.
    """
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        told = f"{str(run)!r} is being run, by another process or another Learner of this one. Wait, or close() that."
        raise ArgumentError("fit", "resume", told) from None
    return lock


def drop_run(lock: FileLock | None, run: Path | None) -> None:
    """Remove the directory of a run that has not begun."""
    if lock is not None:
        lock.release()
    if run is not None:
        shutil.rmtree(run, ignore_errors=True)
