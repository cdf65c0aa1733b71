"""The demonstration: what it prints, what it leaves in its run, and what it asks for when something is missing."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from learner.cli import main
from state import ChangeLog
from state.runs import LOG_FILE

pytest.importorskip("sklearn", reason="needs scikit-learn")
pytest.importorskip("matplotlib", reason="needs matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def shown(folder: Path) -> str:
    """What the demonstration prints, with its run in `folder`."""
    done = run(folder)
    assert done.exit_code == 0, done.output
    return done.stdout


def run(folder: Path, *options: str) -> Result:
    """Run the demonstration as the script of an environment in `folder` that is not activated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(shutil, "which", lambda name: None)
        patch.setattr(sys, "argv", [".venv/bin/learner", "demo"])
        return CliRunner().invoke(main, ["demo", *options])


def test_demo_learns_the_digits(shown: str, folder: Path) -> None:
    (*_, last) = ChangeLog.open(folder / "runs/demo").history("valid_accuracy")
    assert isinstance(last.after, float)
    assert last.after >= 0.95
    assert last.position.epoch == 19


def test_demo_shows_progress_tree_epochs_changes_and_blame(shown: str) -> None:
    lines = shown.splitlines()
    named = [line for line in lines if line.startswith("epoch ") and "valid_accuracy" in line]
    assert len(named) == 20 + 1  # the lines of ProgressBar, and the head of the table
    assert "        clear_gradients" in shown
    assert "ok: fit(epochs=20)" in shown
    after = lines.index("Who wrote model.params last?") + 1
    assert lines[after].startswith("train/epoch/fit/batch/update at epoch 19, batch 23, ")


def test_demo_says_what_to_try_next(shown: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    commands = shown[shown.index("next: ") :].removeprefix("next: ").splitlines()
    assert commands[0] == ".venv/bin/learner blame runs/demo model.params"
    for command in commands:
        assert CliRunner().invoke(main, command.split()[1:]).exit_code == 0


def test_demo_leaves_checkpoints_that_are_whole(shown: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert CliRunner().invoke(main, ["verify", "runs/demo"]).exit_code == 0


def test_demo_leaves_the_log_the_tree_and_the_curves(shown: str, folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files >= {f"runs/demo/0001/{name}" for name in (LOG_FILE, "loss.png", "tree.mmd")}
    first = folder / "runs/demo/0001"
    assert (first / "tree.mmd").read_text().startswith("flowchart TD\n")
    assert (first / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert all(f"  {path.name} " in shown for path in first.iterdir())


def test_demo_writes_nothing_else_and_takes_the_next_number(tmp_path: Path) -> None:
    for number in (1, 2):
        done = run(tmp_path, "--epochs", "1", "--run-dir", "runs/mine", "--json")
        assert json.loads(done.stdout)["run"] == f"runs/mine/000{number}"
    written = ("checkpoints", "lock", "loss.png", LOG_FILE, "tree.mmd")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*/*/*"))
    assert files == [f"runs/mine/000{n}/{name}" for n in (1, 2) for name in written]


def test_demo_in_json_keeps_progress_apart(tmp_path: Path) -> None:
    done = run(tmp_path, "--epochs", "1", "--json")
    answer = json.loads(done.stdout)
    assert [row["epoch"] for row in answer["epochs"]] == [0]
    assert answer["blame"]["actor"] == "train/epoch/fit/batch/update"
    assert "valid_accuracy" in done.stderr


@pytest.mark.parametrize("missing", ["sklearn.datasets", "matplotlib.figure"])
def test_demo_without_its_extra_names_it_and_writes_nothing(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    done = run(tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.endswith("which is not installed. Run: pip install 'staged-learner[demo]'\n")
    assert not list(tmp_path.iterdir())


def test_demo_that_cannot_write_says_so(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    done = run(tmp_path)
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_demo_keeps_the_log_of_a_run_that_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupt)
    done = run(tmp_path)
    assert (done.exit_code, "next: .venv/bin/learner log runs/demo\n" in done.stderr) == (1, True)
    assert "interrupted" in str(ChangeLog.open(tmp_path / "runs/demo").tail(1))
