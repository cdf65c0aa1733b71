"""The documentation runs: each page's Python blocks print what the page says, and each program in docs/examples ends.

A `text` block that directly follows a `python` block is its output. Numbers stand for any number, and a line of `...`
for any lines: what a page shows differs between machines in timings, paths and the last digits.
"""

import io
import re
import runpy
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", flags=re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)|\]\(#([^)\s]+)\)")


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_page_runs_and_prints_what_it_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType(f"page_{page.stem}")  # a real module, so that annotations of its classes resolve
    monkeypatch.setitem(sys.modules, module.__name__, module)
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")  # keep the page's line numbers
        with redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * line + block[1], str(page), "exec"), vars(module))
        if block[2] is not None:
            assert re.fullmatch(pattern_of(block[2]), plain(printed.getvalue()) + "\n"), printed.getvalue()


@pytest.mark.parametrize("example", EXAMPLES, ids=shown)
def test_example_runs(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    with redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(example), run_name="__main__")
    assert printed.getvalue().strip()


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = [link for link in links(page) if not (link[0].exists() and (not link[1] or link[1] in anchors(link[0])))]
    assert not broken


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT / "docs"], ids=shown)
def test_page_can_be_reached_from_the_map(page: Path) -> None:
    reached = {target for start in (ROOT / "README.md", ROOT / "docs/index.md") for target, _ in links(start)}
    assert page in {*reached, ROOT / "README.md"}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files and headings that a page links to, those on the web left out."""
    for link in LINK.finditer(re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)):
        if "://" not in (link[1] or ""):
            yield (page.parent / (link[1] or page.name)).resolve(), link[2] or link[3] or ""


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def plain(text: str) -> str:
    """Text with every number and every directory replaced, and runs of spaces taken for one."""
    text = re.sub(r"\S*/(?=(state|stages|learner)/\w+\.py)|\S*/(?=\w+\.md:)", "", text)
    text = re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "0", text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def pattern_of(output: str) -> str:
    """A regular expression for what a page shows."""
    lines = plain(output).splitlines()
    shown = ["(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in lines]
    return "".join(shown)
