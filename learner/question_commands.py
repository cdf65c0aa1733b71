"""The commands that ask the log of a whole run: the first bad value, where two runs part, who writes what how often."""

from contextlib import suppress
from time import sleep
from typing import Any

import click

from learner import answers
from learner.answers import FINDING, as_json
from state import ChangeLog
from state.changes import Change
from state.first import First
from state.grid import Grid
from state.run_difference import RunDifference
from state.runs import find_run
from state.sqlite import SqliteStore

PAUSE = 0.5
"""Seconds between two looks at a log that is followed."""


def opened(run: str) -> ChangeLog:
    """The log of a run, and a word if a later one has not begun."""
    answers.show_passed_over(run, find_run(run, SqliteStore.has_begun), "has not begun")
    return ChangeLog.open(run)


@click.command()
@click.argument("run")
@click.argument("field", required=False)
@click.option("--above", type=float, metavar="NUMBER", help="The first number, or element, above this.")
@click.option("--below", type=float, metavar="NUMBER", help="The first number, or element, below this.")
@as_json
@click.pass_context
def first(
    ctx: click.Context, run: str, field: str | None, above: float | None, below: float | None, as_json: bool
) -> None:
    """Say who first wrote NaN, an infinite number, or one past a bound, and what it was made of. Exit code 1 if any."""
    log = opened(run)
    if above is None and below is None:
        found = log.first_nonfinite(field)
    elif field is None:
        raise click.UsageError("A bound is one for a field: learner first RUN FIELD --above 10.")
    else:
        found = log.first(field, above=above, below=below)
    if as_json:
        answers.show_json(None if found is None else {"change": found.change, "upstream": found.upstream})
    else:
        _show_first(found, run, field)
    ctx.exit(0 if found is None else FINDING)


@click.command()
@click.argument("run")
@as_json
def rates(run: str, as_json: bool) -> None:
    """Say how often each field was written, per training batch and per update."""
    _show_grid(opened(run).rates(), as_json)
    if not as_json:
        answers.show_next("writers", run)


@click.command()
@click.argument("run")
@as_json
def writers(run: str, as_json: bool) -> None:
    """Say who declares to write and to read each field, and who wrote it."""
    _show_grid(opened(run).writers(), as_json)
    if not as_json:
        answers.show_next("violations", run)


@click.command()
@click.argument("run")
@as_json
def profile(run: str, as_json: bool) -> None:
    """Say where the time goes, stage by stage, in the rounds that were timed."""
    _show_grid(opened(run).profile(), as_json)
    if not as_json:
        answers.show_next("rates", run)


@click.command()
@click.argument("run")
@as_json
@click.pass_context
def violations(ctx: click.Context, run: str, as_json: bool) -> None:
    """List the changes that nobody declared. Exit code 1 if there are some."""
    found = opened(run).violations()
    if as_json:
        answers.show_json(found)
    elif found:
        answers.show_changes(found)
        show_next_blame(run, found[0])
    else:
        answers.show("No change that nobody declared is on record.", "green")
    ctx.exit(FINDING if found else 0)


def show_what_comes(run: str, count: int) -> None:
    """Show the last records of a run and those that follow, until Ctrl-C."""
    log = opened(run)
    changes = log.tail(count)
    with suppress(KeyboardInterrupt):
        while True:
            for change in changes:
                answers.show(f"{change.seq}  {change}")
            end = changes[-1].seq + 1 if changes else len(log)
            while not (changes := log.since(end)):
                sleep(PAUSE)


def show_diff(ctx: click.Context, one: str, other: str, tolerance: float, as_json: bool) -> None:
    """Say where two runs part. Exit code 1 if they do."""
    found = opened(one).diff(opened(other), tolerance=tolerance)
    if as_json:
        answers.show_json({"first": one, "second": other, **facts_of(found)})
    else:
        answers.show(str(found), "" if found else "green")
        if found.ours is not None:
            show_next_blame(one, found.ours)
        elif found:
            answers.show_next("writers", other)
    ctx.exit(FINDING if found else 0)


COMMANDS = (first, rates, writers, profile, violations)


def facts_of(found: RunDifference) -> dict[str, Any]:
    """A difference of two runs, for JSON."""
    inputs = [{"name": name, "known": known} for name, known in found.inputs]
    return {"kind": found.kind, "told": found.told, "ours": found.ours, "theirs": found.theirs, "inputs": inputs}


def _show_first(found: First | None, run: str, field: str | None) -> None:
    if found is None:
        answers.show(f"No such value is on record{f' of {field}' if field else ''}.", "green")
        return
    answers.show(str(found))
    if found.upstream:
        show_next_blame(run, found.upstream[0])


def show_next_blame(run: str, change: Change) -> None:
    """Print the command that asks who wrote what a change tells of."""
    at = ("--at", answers.at(change)) if change.position.epoch is not None else ()
    answers.show_next("blame", run, str(change.field), *at)


def _show_grid(grid: Grid[Any], as_json: bool) -> None:
    if as_json:
        answers.show_json([row._asdict() for row in grid])
    else:
        columns = {name.replace("_", " "): "cyan" if name == "field" else "" for name in grid.columns}
        answers.show_table(columns, grid.cells())
