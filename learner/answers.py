"""Answers of the command line: tables for a person, JSON for a program, and the question to ask next.

Names and values come from files and from other people's code: none of them is ever taken for markup or for a control
sequence of the terminal.
"""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stages.draw import plain
from state.changes import ABSENT, Change
from state.cycles import WHOLE, FieldHistory
from state.position import Position
from state.runs import numbered_runs
from state.statistics import Summary

if TYPE_CHECKING:
    from rich.console import Console

FINDING, USAGE, DAMAGED = 1, 2, 3
"""Exit codes, after 0 for ok."""

Command = TypeVar("Command", bound=Callable[..., Any])

_LINE_WIDTH = 10_000  # more than any line has


def as_json(command: Command) -> Command:
    """The option `--json`, of every command."""
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)


def show_table(columns: Mapping[str, str], rows: Iterable[Sequence[object]], *, fold: bool = True) -> None:
    """Print rows as a table.

    Args:
        columns: the heading of each, with its style.
        fold: make it as wide as the terminal. Otherwise, and where there is no terminal, a row is one line.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, style in columns.items():
        table.add_column(Text(name), style=style, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_text(cell)) for cell in row))
    console = _console()
    if not (fold and console.is_terminal):
        console.width = _LINE_WIDTH
    with console.capture() as lines:
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in lines.get().split("\n")[:-1])


def show_changes(changes: Iterable[Change]) -> None:
    """Print records of a change log, with positions as `--at` takes them."""
    columns = {"seq": "dim", "at": "green", "field": "cyan", "before": "", "after": "", "evidence": "dim", "actor": ""}
    rows = (
        (c.seq, at(c), c.field or f"({c.kind})", "" if c.field is None else c.before, c.after, c.evidence, c.actor)
        for c in changes
    )
    show_table(columns, rows, fold=False)


def show_history(history: FieldHistory) -> None:
    """Print the history of a field; a long one with rounds that write the same in one row."""
    if len(history) <= WHOLE:
        show_changes(history)
        return
    columns, rows, earlier = history.table()
    styles = {"seq": "dim", "position": "green", "field": "cyan", "evidence": "dim"}
    show_table({name: styles.get(name, "") for name in columns}, rows, fold=False)
    told = f"after {earlier:,} earlier ones; " if earlier else ""
    show(f"{told}{len(history):,} writes; -n {len(history)} shows each", "dim")


def show_tree(tree: str) -> None:
    """Print the drawing of a tree: hooks in colour, what is read and written dimmed."""
    from rich.text import Text

    text = Text(tree)
    text.highlight_regex(r"(?m)^ *(?:before|after) \S+", "cyan")
    text.highlight_regex(r"(?m)(?<=\S)  +\S.*$", "dim")
    _console().print(text, soft_wrap=True)


def show(text: str, style: str = "") -> None:
    """Print text as it is, line by line."""
    from rich.text import Text

    lines = "\n".join(map(plain, text.splitlines()))
    _console().print(Text(lines, style=style), soft_wrap=True)


def show_json(answer: object) -> None:
    """Print an answer as JSON. A number that JSON lacks becomes the text "nan", "inf" or "-inf"."""
    sys.stdout.write(json.dumps(_json(answer), indent=2, allow_nan=False) + "\n")


def show_next(*words: str) -> None:
    """Print the command that asks the next question; on standard error, for it is no part of the answer."""
    sys.stdout.flush()
    sys.stderr.write(f"next: {command(*words)}\n")


def show_passed_over(family: str, run: Path, why: str) -> None:
    """Say, on standard error, which run an answer is about where it is not the latest of its family."""
    runs = numbered_runs(Path(family)) if Path(family).is_dir() else []
    if run in runs[:-1]:
        sys.stdout.flush()
        sys.stderr.write(plain(f"This is {run}: {runs[-1].name} {why}.") + "\n")


def command(*words: str) -> str:
    """What to type in this directory for `learner` and these words.

    The command goes by its name where the shell finds it, else by the path of the script that runs.
    """
    script, here = Path(sys.argv[0]).absolute(), Path.cwd()
    if shutil.which("learner") or script.stem != "learner":
        name = "learner"
    else:
        name = str(script.relative_to(here) if script.is_relative_to(here) else script)
    return plain(shlex.join([name, *words]))


def at(change: Change) -> str:
    """A position as `--at` takes it: "19:fit:23"."""
    return place(change.position)


def place(position: Position) -> str:
    """A position as `--at` takes it."""
    parts = (position.epoch, position.phase, position.batch)
    return ":".join(str(part) for part in parts if part is not None) or "-"


def _console() -> "Console":
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def _text(value: object, limit: int = 200) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else repr(value)
    text = plain(" ".join(text.split()))
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _json(value: object) -> Any:
    if isinstance(value, Change):
        names = ("actor", "kind", "field", "before", "after", "evidence", "source")
        facts = {"seq": value.seq, "time": value.time, **asdict(value.position)}
        return _json(facts | {name: getattr(value, name) for name in names})
    if is_dataclass(value) and not isinstance(value, type):
        return _json(asdict(value))
    if isinstance(value, Summary):
        return _json(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): _json(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_json(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return repr(value)
    if value is ABSENT:
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
