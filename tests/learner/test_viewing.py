"""The command `view`: where it writes the page, and what it answers."""

from pathlib import Path

from learner import Invariant
from learner.testing import toy_learner
from state import ChangeLog
from state.runs import LOG_FILE
from tests.learner.test_cli import USAGE, answer, ask, written


def test_view_writes_a_page_beside_the_log_or_where_it_is_told_to(family: Path, tmp_path: Path) -> None:
    done = ask("view", f"{family}@1")
    assert done.stdout.splitlines()[0] == str(family / "0001/log.html")
    assert f"records: {len(ChangeLog.open(f'{family}@1')):,}, " in done.stdout.splitlines()[1]
    assert done.stderr == f"next: learner log {family}@1\n"
    told = answer("view", family / "0002" / LOG_FILE, "--out", tmp_path / "page.html")
    assert told["path"] == str(tmp_path / "page.html")
    assert told["size"] == (tmp_path / "page.html").stat().st_size
    assert told["facts"]["records"] == len(ChangeLog.open(family))
    assert told["left_out"] == []


def test_view_asks_next_about_what_nobody_declared(tmp_path: Path) -> None:
    run = written(tmp_path / "runs", 3, actor="external")
    assert ask("view", run).stderr == f"next: learner blame {run} note --at 0:fit:0\n"


def test_view_does_not_write_where_it_may_not(family: Path, tmp_path: Path) -> None:
    done = ask("view", family, "--out", tmp_path / "nowhere" / "page.html")
    assert done.exit_code == USAGE
    assert "nowhere" in done.stderr
    assert not list(tmp_path.iterdir())


def test_page_counts_the_invariants_that_broke_as_the_log_does(tmp_path: Path) -> None:
    rule = Invariant("the loss stays below 0", lambda loss: loss < 0, after="gradient", then="record")
    learner = toy_learner(invariants=[rule], run_dir=tmp_path / "runs")
    learner.fit(batches=3)
    learner.close()
    told = answer("view", tmp_path / "runs")
    assert told["facts"]["violation"] == len(learner.log.violations()) == 3
    done = ask("view", tmp_path / "runs")
    assert "violations: 3, " in done.stdout and done.stderr == f"next: learner violations {tmp_path / 'runs'}\n"
