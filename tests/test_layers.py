"""The shape of the packages: one direction of imports, files one can read, names one can guess."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT: dict[str, set[str]] = {"state": set(), "stages": {"state"}, "learner": {"state", "stages"}}
EMPTY_NAMES = {"base", "common", "core", "helpers", "misc", "utils"}
MAX_LINES = 350


def imported(path: Path) -> set[str]:
    """Top-level names of the packages a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_lower_layers(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    for path in files(package):
        above = (imported(path) & set(MAY_IMPORT)) - allowed
        assert not above, f"{path.relative_to(ROOT)} imports {sorted(above)}"


def test_no_package_imports_the_tests() -> None:
    assert not [str(path.relative_to(ROOT)) for path in files(*MAY_IMPORT) if "tests" in imported(path)]


def test_every_file_says_what_lives_in_it() -> None:
    everywhere = files(*MAY_IMPORT, "tests", "docs/examples")
    silent = [path for path in everywhere if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not [str(path.relative_to(ROOT)) for path in silent]


def test_no_file_is_too_long_to_read() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in files(*MAY_IMPORT, "tests")
    }
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not [str(path.relative_to(ROOT)) for path in files(*MAY_IMPORT, "tests") if path.stem in EMPTY_NAMES]


@pytest.mark.parametrize("package", [*MAY_IMPORT, "learner/callbacks", "learner/invariants"])
def test_package_is_marked_as_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_every_package_is_installed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = [file.parent.relative_to(ROOT) for file in files(*MAY_IMPORT) if file.name == "__init__.py"]
    assert sorted(setup["packages"]) == sorted(".".join(folder.parts) for folder in folders)
