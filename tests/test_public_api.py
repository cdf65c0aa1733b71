"""The public names: sorted, importable, documented, on their reference page, and cheap to import."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["state", "stages", "learner", "learner.callbacks"]
NOT_ON_IMPORT = {"IPython", "matplotlib", "pandas", "rich", "sklearn", "torchmetrics"}


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_without_repeats(package: str) -> None:
    names = list(import_module(package).__all__)
    assert names == sorted(set(names))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported(package: str) -> None:
    module = import_module(package)
    assert not [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_object_is_documented(package: str) -> None:
    module = import_module(package)
    docs = {name: getattr(module, name).__doc__ or "" for name in module.__all__}
    # A dataclass without a docstring is given its signature for one.
    assert not [name for name, doc in docs.items() if not doc.strip() or doc.startswith(f"{name}(")]


@pytest.mark.parametrize("package", PACKAGES)
def test_reference_page_names_every_public_object(package: str) -> None:
    page = (ROOT / "docs/reference" / f"{package.partition('.')[0]}.md").read_text(encoding="utf-8")
    assert not [name for name in import_module(package).__all__ if not re.search(rf"`{name}\b", page)]


def test_what_the_guard_raises_and_warns_with_is_behind_the_one_door() -> None:
    door, stages = import_module("learner"), import_module("stages")
    assert door.UndeclaredChange is stages.UndeclaredChange and door.GuardWarning is stages.GuardWarning
    assert {"GuardWarning", "UndeclaredChange"} <= set(door.__all__)


def test_import_learner_leaves_the_heavy_packages_alone(tmp_path: Path) -> None:
    program = "import sys, learner; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = sorted(NOT_ON_IMPORT & set(done.stdout.split()))
    assert not heavy
