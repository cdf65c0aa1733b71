"""Numbered run directories: the next number, the latest run, and what is said when there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from state.errors import RunNotFound
from state.runs import LOG_FILE, find_run, new_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def family(tmp_path: Path) -> Path:
    for _ in range(4):
        (new_run(tmp_path / "runs" / "digits") / LOG_FILE).touch()
    return tmp_path / "runs" / "digits"


def test_each_run_gets_the_next_number(tmp_path: Path) -> None:
    assert [new_run(tmp_path / "runs/digits").name for _ in range(3)] == ["0001", "0002", "0003"]


def test_a_number_is_not_used_again_after_a_gap(family: Path) -> None:
    (family / "0007").mkdir()
    (family / "notes").mkdir()
    assert new_run(family).name == "0008"


def test_processes_that_start_at_once_get_different_numbers(tmp_path: Path) -> None:
    program = f"from state.runs import new_run; print([new_run({str(tmp_path / 'race')!r}).name for _ in range(20)])"
    start = [sys.executable, "-c", program]
    running = [subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    numbers = [name for process in running for name in eval(process.communicate()[0])]
    assert sorted(numbers) == [f"{number:04d}" for number in range(1, 41)]


def test_a_family_means_its_latest_run(family: Path) -> None:
    assert find_run(family) == family / "0004"


def test_a_run_is_found_by_number_by_directory_and_by_log(family: Path) -> None:
    assert find_run(f"{family}@3") == family / "0003"
    assert find_run(family / "0002") == family / "0002"
    assert find_run(family / "0002" / LOG_FILE) == family / "0002" / LOG_FILE


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("runs/digits@9", r"'runs/digits' holds runs 1 to 4\."),
        ("runs/digits@x", r"'runs/digits' holds runs 1 to 4\."),
        ("runs/digits/0009", r"no such directory\. 'runs/digits' holds runs 1 to 4\."),
        ("runs/digit", r"Did you mean 'runs/digits'\?"),
        ("runs/digit@2", r"Did you mean 'runs/digits'\?"),
        ("runs/quite-other", r"'runs' holds \['digits'\]\."),
        ("runs", r"The directory holds no rank0\.log\.db and no numbered run, only \['digits'\]\."),
        ("nowhere/digits", r"Nor is there 'nowhere'\."),
    ],
)
def test_what_is_not_found_teaches_what_is(family: Path, name: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(family.parents[1])
    with pytest.raises(RunNotFound, match=told) as caught:
        find_run(name)
    assert caught.value.run == name
