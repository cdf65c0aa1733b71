"""The command line: what each command answers, in words and in JSON, and the exit code it ends with."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from learner.cli import main
from learner.testing import toy_learner
from state.errors import LogWarning
from state.recording import Recording
from state.runs import LOG_FILE
from state.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
OK, FINDING, USAGE, DAMAGED = range(4)
TOY = "learner.testing:toy_learner"
MINE = """
from learner import Callback, after
from learner.testing import toy_learner

class Peek(Callback):
    @after("updat", reads=("loss",))
    def peek(self, loss): ...

def make():
    print("words of mine")
    return toy_learner()

def misspelt():
    return toy_learner(callbacks=[Peek()])

def crash():
    return {}["nothing here"]

def needs(size): ...

number = 3
made = toy_learner()
"""


def ask(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def answer(*words: object) -> Any:
    done = ask(*words, "--json")
    assert done.exit_code == OK, done.output
    assert "next:" not in done.output
    return json.loads(done.stdout)


def in_python(program: str, where: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *options, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module of the user's."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("mine", None)


def written(family: Path, value: object, actor: str = "hook") -> Path:
    """A run in which one actor wrote one value."""
    run = family / "0001"
    run.mkdir(parents=True)
    recording = Recording(SqliteStore(run / LOG_FILE))
    recording.field("note", "run", "Any", "")
    recording.position = (0, "fit", 0, 0)
    recording.actor(actor, "hook", "")
    slot = recording.slot(actor, "write", "note", "write")
    assert slot is not None
    recording.write(slot, value)
    recording.close()
    return family


def fail(store: SqliteStore, *written: object) -> None:
    raise OSError("the disk is full")


def test_log_shows_the_last_records(family: Path) -> None:
    done = ask("log", family, "-n", 3)
    assert done.exit_code == OK
    assert len(done.stdout.splitlines()) == 4
    assert "ok: fit(epochs=2)" in done.stdout


def test_log_says_what_to_ask_next_apart_from_its_answer(family: Path) -> None:
    done = ask("log", family, "--field", "loss")
    assert "next:" not in done.stdout
    assert done.stderr == f"next: learner blame {family} loss\n"


def test_log_answers_in_json_with_twenty_records(family: Path) -> None:
    changes = answer("log", family)
    numbers = [change["seq"] for change in changes]
    assert len(set(numbers)) == 20 and numbers == sorted(numbers)
    assert changes[-1]["after"].startswith("ok: fit(epochs=2), ")


def test_log_takes_what_matches_every_filter(family: Path) -> None:
    filters = ("--actor", "**/update", "--field", "updates", "--epoch", "0-1", "--batch", 0, "--phase", "fit")
    changes = answer("log", family, *filters)
    assert [(change["epoch"], change["batch"], change["field"]) for change in changes] == [
        (0, 0, "updates"),
        (1, 0, "updates"),
    ]


def test_log_says_what_is_missing_because_the_disk_was_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = toy_learner(run_dir=tmp_path / "runs")
    learner.fit(batches=2)
    with monkeypatch.context() as patched, pytest.warns(LogWarning, match="is full"):
        patched.setattr(SqliteStore, "write", fail)
        learner.fit(batches=2)
    learner.fit(batches=2)
    learner.close()
    told = ask("log", tmp_path / "runs").stdout
    assert re.search(r"\n.*: \d+ records are missing: the disk is full\n", told)
    assert learner.log.where(field="loss", phase="fit")[-1].after is not None and learner.state.updates == 6


def test_log_without_a_match_says_so(family: Path) -> None:
    done = ask("log", family, "--actor", "nobody*", "--epoch", 0)
    assert (done.exit_code, answer("log", family, "--actor", "nobody*")) == (OK, [])
    assert "no record matches" in done.stdout


def test_actor_that_there_is_not_is_refused_with_the_nearest(family: Path) -> None:
    done = ask("log", family, "--actor", "train/epoch/fit/batch/updat")
    assert done.exit_code == USAGE
    assert "Did you mean 'train/epoch/fit/batch/update'?" in done.stderr


def test_blame_names_the_last_writer_of_a_part(family: Path) -> None:
    done = ask("blame", family, "model.params.weight")
    assert done.stdout.startswith("train/epoch/fit/batch/update at epoch 1, batch ")
    assert done.stderr == f"next: learner history {family} model.params.weight\n"


def test_blame_at_a_round_is_the_last_write_up_to_it(family: Path) -> None:
    change = answer("blame", family, "loss", "--at", "0:fit:1")
    assert (change["epoch"], change["phase"], change["batch"]) == (0, "fit", 1)
    assert change["before"] is None
    assert answer("blame", family, "loss", "--at", "0")["phase"] == "validate"


def test_a_given_run_of_a_family_can_be_named_in_three_ways(family: Path) -> None:
    names = (f"{family}@1", family / "0001", family / "0001" / LOG_FILE)
    assert [answer("blame", name, "epoch")["after"] for name in names] == [0, 0, 0]


def test_history_lists_every_write(family: Path) -> None:
    assert [change["after"] for change in answer("history", family, "epoch")] == [0, 1]
    done = ask("history", family, "loss", "-n", 2)
    assert len(done.stdout.splitlines()) == 4
    assert "shows them all" in done.stdout


def test_the_next_question_can_be_asked_as_it_is_written(family: Path) -> None:
    _, *words = ask("history", family, "loss").stderr.removeprefix("next: ").split()
    assert "--at" in words
    assert ask(*words).exit_code == OK


def test_check_finds_the_module_in_the_working_directory(mine: Path) -> None:
    done = ask("check", "mine:make")
    assert (done.exit_code, "mine:make can run" in done.stdout) == (OK, True)
    assert sys.path[-1] == str(mine)
    assert ask("check", "mine:made").exit_code == OK


def test_what_a_module_prints_stays_out_of_the_json(mine: Path) -> None:
    done = ask("check", "mine:make", "--json")
    assert (json.loads(done.stdout)["ok"], "words of mine" in done.stderr) == (True, True)


def test_check_of_a_tree_that_cannot_run_is_a_finding(mine: Path) -> None:
    done = ask("check", "mine:misspelt", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"]) == (FINDING, False)
    assert [finding["kind"] for finding in found["findings"]] == ["unmatched target"]
    assert "Did you mean 'update'?" in ask("check", "mine:misspelt").stdout


def test_a_tree_that_cannot_run_cannot_be_drawn(mine: Path) -> None:
    done = ask("graph", "mine:misspelt")
    assert (done.exit_code, done.stdout) == (FINDING, "")
    assert done.stderr.startswith("Error: The tree cannot run, 1 finding:")


def test_an_exception_of_the_users_is_shown_from_their_line_on(mine: Path) -> None:
    done = ask("check", "mine:crash")
    first, where, *_, last = done.stderr.splitlines()
    assert (done.exit_code, done.stdout) == (FINDING, "")
    assert (first, last) == ("Traceback (most recent call last):", "KeyError: 'nothing here'")
    assert str(mine / "mine.py") in where


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("mine:mak", "Did you mean 'make'?"),
        ("mien:make", "Did you mean 'mine'?"),
        ("mine.py:make", "a colon, and the name in it: mine:make"),
        ("mine", "it is no module:object"),
        ("mine:needs", "it wants the arguments size"),
        ("mine:number", "it is an int"),
        ("mine:Peek", "it makes a Peek"),
        ("state:make", "It hides"),
    ],
)
def test_what_is_no_learner_is_refused(target: str, told: str, mine: Path) -> None:
    (mine / "state.py").write_text("")
    done = ask("check", target)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("log", "{family}x"), "Did you mean"),
        (("log", "{family}@7"), "holds runs 1 to 2"),
        (("log", "{family}", "--field", "los"), "Did you mean 'loss'?"),
        (("log", "{family}", "--phase", "nope"), "no phase 'nope'. It has 'fit', 'validate'."),
        (("log", "{family}", "--phase", "fitt"), "Did you mean 'fit'?"),
        (("log", "{family}", "--epoch", "99"), "no epoch 99. It holds epochs 0 to 1."),
        (("log", "{family}", "--epoch", "7-9", "--actor", "user"), "no epoch 7 to 9. It holds epochs 0 to 1."),
        (("log", "{family}", "--epoch", "one"), "neither a number, 3, nor a range, 3-7"),
        (("blame", "{family}", "lss"), "Did you mean 'loss'?"),
        (("blame", "{family}", "loss", "--at", "9"), "It holds epochs 0 to 1"),
        (("blame", "{family}", "loss", "--at", "0:fitt"), "Did you mean 'fit'?"),
        (("blame", "{family}", "loss", "--at", "0:"), "such as 19:fit:23"),
        (("blame", "{family}", "loss", "--at", "0::1"), "such as 19:fit:23"),
        (("history", "{family}", "lss"), "Did you mean 'loss'?"),
        (("histroy",), "No such command"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(words: tuple[str, ...], told: str, family: Path) -> None:
    done = ask(*(word.format(family=family) for word in words))
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert told in done.stderr


@pytest.mark.parametrize("command", [("log",), ("blame", "loss"), ("history", "loss")])
@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0 and then nothing"])
def test_a_file_that_is_no_log_is_damaged(command: tuple[str, ...], content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    file.write_bytes(content)
    done = ask(command[0], file, *command[1:])
    assert (done.exit_code, done.stdout) == (DAMAGED, "")
    assert done.stderr.startswith(f"Error: {str(file)!r} cannot be read as a change log: ")


def test_a_log_that_was_cut_is_damaged(family: Path, tmp_path: Path) -> None:
    whole = (family / "0001" / LOG_FILE).read_bytes()
    (tmp_path / "cut.db").write_bytes(whole[: len(whole) // 2])
    assert ask("history", tmp_path / "cut.db", "loss").exit_code == DAMAGED


@pytest.mark.parametrize(
    "text", ["[red]x[/red] [/] :smile:", "\x1b[2J\x1b]0;title\x07", "two\nlines", "\udc80", "\u202e"]
)
def test_text_of_others_is_shown_as_it_is_and_never_obeyed(text: str, tmp_path: Path) -> None:
    run = written(tmp_path / "runs", text, actor=f"hook {text}" if text.isascii() else "hook")
    for words in (("log", run), ("history", run, "note"), ("blame", run, "note")):
        done = ask(*words)
        assert (done.exit_code, done.exception) == (OK, None)
        assert all(c.isprintable() for c in done.stdout.replace("\n", ""))
        assert text.startswith("[red]") <= ("[red]x[/red] [/] :smile:" in done.stdout)
    assert answer("blame", run, "note")["after"] == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_lacks_becomes_text(value: float, tmp_path: Path) -> None:
    run = written(tmp_path / "runs", value)
    assert answer("history", run, "note")[0]["after"] == repr(value)


def test_a_foreign_state_module_that_hides_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.py").write_text("")
    done = in_python("import learner", tmp_path)
    assert "LearnerError: `import state` finds " in done.stderr
    assert str(tmp_path / "state.py") in done.stderr


def test_a_foreign_state_module_does_not_hide_ours_from_the_command(mine: Path) -> None:
    (mine / "state.py").write_text("raise RuntimeError('never imported')")
    program = "import sys; from learner.cli import main; sys.argv = ['learner', 'check', 'mine:make']; main()"
    done = in_python(program, mine, "-P")  # -P: as for a console script, the working directory is not on the path
    assert (done.returncode, "mine:make can run" in done.stdout) == (OK, True)


def test_a_damaged_file_ends_the_process_with_three_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "other.db").write_bytes(b"no database at all")
    program = "import sys; from learner.cli import main; sys.argv = ['learner', 'log', 'other.db']; main()"
    done = in_python(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (DAMAGED, "", 1)


def test_the_log_of_a_family_is_that_of_the_latest_run_that_has_begun_and_says_so(tmp_path: Path) -> None:
    learner = toy_learner(run_dir=tmp_path)
    learner.fit(epochs=1)
    learner.close()
    toy_learner(run_dir=tmp_path).close()
    for words in (["log", tmp_path], ["blame", tmp_path, "loss"], ["history", tmp_path, "loss"]):
        assert ask(*words).stderr.startswith(f"This is {tmp_path / '0001'}: 0002 has not begun.\n")
    assert answer("log", f"{tmp_path}@2")[-1]["actor"] == "setup"
    assert ask("log", f"{tmp_path}@1").stderr.startswith("next: ")
