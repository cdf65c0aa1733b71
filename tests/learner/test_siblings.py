"""A file of the user's that hides one of our packages is named before anything else happens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from learner.siblings import check_siblings

ROOT = Path(__file__).parents[2]


def start(folder: Path) -> subprocess.CompletedProcess[str]:
    """`import learner` with the working directory first on the path, as a script has it."""
    given = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", "import learner"], cwd=folder, env=given, capture_output=True, text=True
    )


@pytest.mark.parametrize(("name", "is_package"), [("state", False), ("stages", False), ("stages", True)])
def test_file_that_hides_a_package_is_named(name: str, is_package: bool, tmp_path: Path) -> None:
    hiding = tmp_path / name / "__init__.py" if is_package else tmp_path / f"{name}.py"
    hiding.parent.mkdir(exist_ok=True)
    hiding.write_text("raise SystemExit('the file of the user was run')\n")
    done = start(tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "LearnerError" in last and str(hiding) in last
    assert f"it hides the package '{name}' of staged-learner" in last


def test_our_own_siblings_pass() -> None:
    check_siblings()
