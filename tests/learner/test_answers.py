"""What the command line prints at its end: the next command, as it can be typed where one is."""

import shutil
import sys
from pathlib import Path

import pytest

from learner.answers import command, show_next


@pytest.mark.parametrize(
    ("found", "script", "typed"),
    [
        ("/usr/bin/learner", ".venv/bin/learner", "learner"),
        (None, ".venv/bin/learner", ".venv/bin/learner"),
        (None, "/elsewhere/bin/learner", "/elsewhere/bin/learner"),
        (None, "my env/bin/learner", "'my env/bin/learner'"),
        (None, "bin/pytest", "learner"),
        (None, "-c", "learner"),
    ],
)
def test_next_command_goes_by_a_name_that_the_shell_finds(
    found: str | None,
    script: str,
    typed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: found)
    for started in (script, str(tmp_path / script)):
        monkeypatch.setattr(sys, "argv", [started])
        assert command("log", "my runs") == f"{typed} log 'my runs'"
        show_next("graph", "mine:make")
        assert capsys.readouterr() == ("", f"next: {typed} graph mine:make\n")
