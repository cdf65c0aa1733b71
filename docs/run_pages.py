"""Runs the Python blocks of the pages: `python docs/run_pages.py` rewrites what they show where it is out of date.

A `text` block that directly follows a `python` block is what it prints. Numbers stand for any number, and a line of
`...` for any lines: what a page shows differs between machines in timings, paths and the last digits. Line numbers of
our code are the exception: the tests let them be, a renewal brings them up to date.
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", flags=re.MULTILINE | re.DOTALL)


def outputs(page: Path) -> Iterator[tuple[re.Match[str], str]]:
    """Each block of a page with what it printed, in the working directory. The names of one block go on in the next."""
    text = page.read_text(encoding="utf-8")
    with as_module(f"page_{page.stem}") as module:
        for block in BLOCK.finditer(text):
            line = text[: block.start(1)].count("\n")  # keep the page's line numbers
            with redirect_stdout(io.StringIO()) as printed:
                exec(compile("\n" * line + block[1], str(page), "exec"), vars(module))
            yield block, printed.getvalue()


@contextmanager
def as_module(name: str) -> Iterator[ModuleType]:
    """A real module, so that annotations of its classes resolve."""
    module = sys.modules[name] = ModuleType(name)
    try:
        yield module
    finally:
        del sys.modules[name]


def is_shown(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed."""
    lines = plain(shown).splitlines()
    pattern = ["(?:.*\n)*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in lines]
    return re.fullmatch("".join(pattern), plain(printed) + "\n") is not None


def plain(text: str) -> str:
    """Text with every number replaced, directories left out, and runs of spaces taken for one."""
    numbers = re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "0", without_directories(text))
    return "\n".join(" ".join(line.split()) for line in numbers.strip().splitlines())


def without_directories(text: str) -> str:
    """Text in which our files stand without the directories above the repository, and pages by their name."""
    return re.sub(r"\S*/(?=(state|stages|learner)/(\w+/)*\w+\.py)|\S*/(?=[\w-]+\.md:)", "", text)


def is_current(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, at the line numbers that our code and the page have now."""
    here = re.findall(r"[\w/-]+\.(?:py|md):\d+", shown)
    now = re.findall(r"[\w/-]+\.(?:py|md):\d+", without_directories(printed))
    return is_shown(shown, printed) and set(here) <= set(now)


def renewed(shown: str, printed: str) -> str:
    """What a page should show: all that was printed, or without the lines that it left out by a `...`."""
    now = without_directories(printed).rstrip("\n").splitlines()
    first, dots, last = shown.partition("...\n")
    if dots:
        wanted = plain(last).partition("\n")[0]  # the line that stood after the dots, where it comes last
        starts = [number for number, line in enumerate(now) if plain(line) == wanted]
        begin = starts[-1] if starts and last else len(now) - last.count("\n")
        now = [*now[: first.count("\n")], "...", *now[begin:]]
    return "\n".join(now) + "\n"


def renew(page: Path) -> bool:
    """Rewrite what a page shows where it is out of date; whether anything was."""
    text = page.read_text(encoding="utf-8")
    parts, end = [], 0
    for block, printed in outputs(page):
        if block[2] is not None and not is_current(block[2], printed):
            parts += [text[end : block.start(2)], renewed(block[2], printed)]
            end = block.end(2)
    if parts:
        page.write_text("".join(parts) + text[end:], encoding="utf-8")
    return bool(parts)


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        os.chdir(directory)
        for page in PAGES:
            if renew(page):
                print(page.relative_to(ROOT))
        os.chdir(ROOT)
