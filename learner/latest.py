"""Latest: the run of a family that a Learner goes on with, and the lock that keeps a second process out of it."""

import re
import shutil
from dataclasses import dataclass
from difflib import ndiff
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

    def told(self, tree: str) -> str:
        """What is resumed, in one line; in further lines what was passed over, and how `tree` is not the one it had."""
        run = self.bundle.documents["run"]
        lines = [f"Resuming {self.run} from checkpoint {self.path.name}: {describe(run)}."]
        lines += [f"Passed over: {problem}" for problem in self.problems]
        changes = [line for line in ndiff(_lines(run["tree"]), _lines(tree)) if line[0] in "+-"]
        return "\n".join([*lines, *(["The tree is another one than it was then:"] if changes else []), *changes])


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


def _lines(tree: str) -> list[str]:
    """The lines of a drawn tree, each joined and without its columns, and without observers, which change nothing."""
    lines: list[str] = []
    depth = 0
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        if lines and indent > depth + 2:  # the rest of the line before: below a slot it goes two deeper at most
            lines[-1] = f"{lines[-1]} {' '.join(line.split())}"
        else:
            lines.append(" ".join(line.split()))
            depth = indent
    return [line for line in lines if not re.search(r"\(observer[,)]", line)]
