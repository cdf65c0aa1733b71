"""Runs a program that has a silent bug as its user would run it, and tells what we said of it.

A bug is a function that makes a Learner, with the bug or without: the clean twin. `@silent_bug(...)` adds where it was
reported and what is said of it today. A test compares that with what is said, and a page of the documentation shows it.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from learner import Learner, LearnerError, StageError, StateError
from stages import GraphError, GuardWarning, InvariantWarning
from state import Change, LogWarning

Said = Literal["refused", "raised", "recorded", "asked", "prevented", "missed"]
"""Before the first batch; an error in the run; a warning, or a row in the log that nobody declared; nothing by itself,
but a question to the log pins it; the loop does what was meant, whichever way it is written; nothing."""

Run = Callable[[Learner], object]
Build = Callable[[bool], Learner | tuple[Learner, Run]]
Batches = list[tuple[Tensor, Tensor]]

Mode = Literal["plain", "debug", "unguarded"]
"""With default settings, under `debug()`, or without a guard."""

NOTHING = "nothing"
OURS = (StateError, StageError, LearnerError)
OUR_WARNINGS = (GuardWarning, InvariantWarning, LogWarning)
PLACE = re.compile(r"([\w-]+\.py):\d+")


@dataclass(frozen=True)
class Bug:
    """A bug, the program that has it, and what is said of it.

    Attributes:
        number: in the list of reports, with a letter where it can be written in several ways.
        what: the bug, in a few words.
        sources: the public reports.
        build: makes the Learner; True with the bug. With it what the user does with it, if not `fit(epochs=2)`.
        said: what is said today.
        line: how the first line begins that is printed; empty if nothing is.
        culprit: the part of it that names who did it; empty if it names nobody.
        is_located: whether the line names a place in the program's own file; None where it was no stage or hook there.
        plain: what PyTorch says without us.
        question: what is asked, in words; `ask` puts it to the Learner after the run and answers what pins the bug, or
            None where there is none.
        audit: the level of the log that the question needs.
        mode: "debug" where the question needs a run under `debug()`.
        why: for one that is missed or prevented, in one sentence.
    """

    number: str
    what: str
    sources: tuple[str, ...]
    build: Build
    said: Said
    line: str = ""
    culprit: str = ""
    is_located: bool | None = None
    plain: str = NOTHING
    question: str = ""
    ask: Callable[[Learner], object] | None = None
    audit: str = "summary"
    mode: Mode = "plain"
    why: str = ""

    def __str__(self) -> str:
        return f"{self.number}_{self.build.__name__}"

    @property
    def mechanism(self) -> str:
        """The file it stands in."""
        return Path(self.build.__code__.co_filename).stem


@dataclass(frozen=True)
class Told:
    """What was said of a program.

    Attributes:
        said: in which way.
        line: the first line.
        others: warnings that are not ours, as text.
        learner: None if it could not be built.
    """

    said: Said
    line: str = ""
    others: tuple[str, ...] = ()
    learner: Learner | None = None


def silent_bug(number: str, what: str, *sources: str, **told: Any) -> Callable[[Build], Bug]:
    """Make a bug of the function that builds its program."""
    return lambda build: Bug(number, what, sources, build, **told)


def bugs_in(module: Any) -> list[Bug]:
    """The bugs of a module, in the order they stand in it."""
    return [thing for thing in vars(module).values() if isinstance(thing, Bug)]


def tell(bug: Bug, *, is_buggy: bool, mode: Mode = "plain") -> Told:
    """Build and run a program in the current directory, and tell what was said: the strongest there is."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught, watched(bug.audit, mode):
        warnings.simplefilter("always")
        try:
            made = bug.build(is_buggy)
        except OURS as error:
            return Told("refused", first_line(error))
        learner, run = made if isinstance(made, tuple) else (made, lambda learner: learner.fit(epochs=2))
        try:
            run(learner)
        except OURS as error:
            return Told("raised", first_line(error), (), learner)
        except RuntimeError as error:  # of autograd, which sees what we have it see; our note names the stage
            note = getattr(error, "__notes__", ["nobody"])[0].splitlines()[0]
            return Told("raised", f"{str(error).partition(':')[0]} {note}", (), learner)
    ours = [one for one in caught if issubclass(one.category, OUR_WARNINGS)]
    told = Told("missed", "", tuple(str(one.message) for one in caught if one not in ours), learner)
    rows = learner.log.violations()
    if ours or rows:
        return replace(told, said="recorded", line=str(ours[0].message if ours else rows[0]).splitlines()[0])
    answer = bug.ask(learner) if bug.ask is not None else None
    if answer is None:
        return told
    said: Said = "prevented" if bug.said == "prevented" else "asked"
    return replace(told, said=said, line=str(answer).splitlines()[0])


def first_line(error: BaseException) -> str:
    """The first line of an error that says what happened: of several findings the first."""
    return error.findings[0].message if isinstance(error, GraphError) else str(error).splitlines()[0]


def is_in_its_file(bug: Bug, line: str) -> bool:
    """Whether a line names a place in the file of the program."""
    return Path(bug.build.__code__.co_filename).name in PLACE.findall(line)


@contextmanager
def watched(level: str, mode: Mode) -> Iterator[None]:
    """Learners that are made meanwhile keep their log at this level, and look at everything, or at nothing."""
    start = Learner._start

    def start_so(learner: Learner, state: Any, bound: Any, run_dir: Any, seed: Any, audit: Any) -> None:
        if mode == "unguarded":
            bound._guard = "off"
        start(learner, state, bound, run_dir, seed, level if audit == "summary" else audit)
        if mode == "debug":
            learner.debug()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "_start", start_so)
        yield


@contextmanager
def inside(directory: Path) -> Iterator[None]:
    """Runs and files of a program go to this directory."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def samples(count: int = 6, size: int = 8, width: int = 4) -> Batches:
    """Batches of a linear problem."""
    inputs = torch.randn(count, size, width)
    return [(batch, batch.sum(1, keepdim=True)) for batch in inputs]


def network(width: int = 4, *extra: nn.Module) -> nn.Sequential:
    """A small network for it."""
    return nn.Sequential(nn.Linear(width, 8), *extra, nn.ReLU(), nn.Linear(8, 1))


def last_of(changes: Any) -> Change | None:
    """The last of some changes, if there are any."""
    return changes[-1] if changes else None
