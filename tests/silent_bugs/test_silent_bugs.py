"""Silent bugs from public reports: what is said of each is what the table says, and its clean twin goes unremarked."""

import re
from pathlib import Path

import pytest

from tests.silent_bugs.catalogue import BUGS, LEFT_OUT, MECHANISMS
from tests.silent_bugs.harness import NOTHING, Bug, Mode, is_in_its_file, tell

REPORTED = {1, 2, 3, 5, 6, 7, 9, 10, 12, 13, 15, 16, 17, 18, 21, 22, 24, 25, 27, 28, 29, 30, 32, 33, 34, 36, 38, 39}
REPORTED |= {44, 45}

each_bug = pytest.mark.parametrize("bug", BUGS, ids=str)


@each_bug
def test_the_bug_is_answered_as_the_table_says(bug: Bug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = tell(bug, is_buggy=True, mode=bug.mode)
    assert (told.said, told.line[: len(bug.line)]) == (bug.said, bug.line), told.line
    assert bug.culprit in told.line
    assert is_in_its_file(bug, told.line) == bool(bug.is_located), told.line
    assert bool(told.others) == (bug.plain != NOTHING and bug.said != "refused"), told.others  # PyTorch's, in the run


@pytest.mark.parametrize("bug", [bug for bug in BUGS if " changed " in bug.line], ids=str)
def test_what_the_guard_raises_would_be_silent(bug: Bug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = tell(bug, is_buggy=True, mode="unguarded")
    assert (told.said, told.others) == ("missed", ()), told.line


@pytest.mark.parametrize("mode", ["plain", "debug"])
@each_bug
def test_the_clean_twin_runs_without_a_word(
    bug: Bug, mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = tell(bug, is_buggy=False, mode=mode)
    assert told.said in ("missed", "prevented"), told.line
    assert told.said == "missed" or bug.said == "prevented"
    assert not told.others
    assert told.learner is not None and told.learner.outcome.ok and not told.learner.check()


def test_every_reported_bug_has_a_program_or_a_reason_why_not() -> None:
    numbers = [int(re.sub("[a-z]", "", number)) for number in (*LEFT_OUT, *(bug.number for bug in BUGS))]
    assert set(numbers) == REPORTED and len(REPORTED) == 30
    assert len({bug.number for bug in BUGS}) == len(BUGS)


@each_bug
def test_what_the_table_says_of_a_bug_is_whole(bug: Bug) -> None:
    assert bool(bug.line) == (bug.said != "missed")
    assert bool(bug.question) == (bug.ask is not None) == (bug.said in ("asked", "prevented"))
    assert bool(bug.why) == (bug.said in ("missed", "prevented"))
    assert bug.culprit in bug.line and bug.sources
    assert bug.mechanism in {module.__name__.rpartition(".")[2] for module in MECHANISMS.values()}
