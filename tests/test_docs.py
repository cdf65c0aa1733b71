"""The documentation runs: the Python blocks of a page print what it shows, and the programs in docs/examples end."""

import io
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path

import pytest

from learner.cli import main

ROOT = Path(__file__).parents[1]
RUN_PAGES = runpy.run_path(str(ROOT / "docs/run_pages.py"))
PAGES: list[Path] = RUN_PAGES["PAGES"]
VIOLATING = ROOT / "docs/explanation/guard.md"  # shows what comes of changes that nobody declares
LEGITIMATE = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8") and page != VIOLATING]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)|\]\(#([^)\s]+)\)")

Debugging = Callable[[], AbstractContextManager[None]]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_page_runs_and_prints_what_it_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prints_what_it_shows(page)


@pytest.mark.parametrize("page", LEGITIMATE, ids=shown)
def test_page_raises_no_alarm_and_prints_the_same_when_everything_is_looked_at(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, debugging: Debugging
) -> None:
    monkeypatch.chdir(tmp_path)
    with debugging():
        prints_what_it_shows(page)


def prints_what_it_shows(page: Path) -> None:
    for block, printed in RUN_PAGES["outputs"](page):
        if block[2] is not None:
            told = f"{page.name} is out of date; python docs/run_pages.py renews it. It printed:\n{printed}"
            assert RUN_PAGES["is_shown"](block[2], printed), told


def test_stale_line_numbers_are_shown_still_and_renewed() -> None:
    page, printed = "loss, stages/stage.py:7, 0.1 s\n", "loss, /somewhere/stages/stage.py:8, 0.2 s\n"
    assert RUN_PAGES["is_shown"](page, printed)
    assert not RUN_PAGES["is_current"](page, printed)
    assert RUN_PAGES["is_current"](RUN_PAGES["renewed"](page, printed), printed)


@pytest.mark.parametrize("is_debugging", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("example", EXAMPLES, ids=shown)
def test_example_runs_and_raises_no_alarm(
    example: Path,
    is_debugging: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    debugging: Debugging,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    with redirect_stdout(io.StringIO()) as printed, debugging() if is_debugging else nullcontext():
        runpy.run_path(str(example), run_name="__main__")
    assert printed.getvalue().strip()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = [(to, name) for to, name in links(page) if not to.exists() or (name and name not in anchors(to))]
    assert not broken


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT / "docs"], ids=shown)
def test_page_can_be_reached_from_the_map(page: Path) -> None:
    reached = {target for start in (ROOT / "README.md", ROOT / "docs/index.md") for target, _ in links(start)}
    assert page in reached


def test_commands_in_the_pages_exist() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"(?:`|\$ )learner ([a-z]+)\b", text)) <= set(main.commands)
    assert set(re.findall(r"(?:`|\$ )make ([a-z]+)\b", text)) <= set(targets)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files and headings that a page links to, those on the web left out."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.finditer(prose):
        if "://" not in (link[1] or ""):
            yield (page.parent / (link[1] or page.name)).resolve(), link[2] or link[3] or ""


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
