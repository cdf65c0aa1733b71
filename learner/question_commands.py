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
from state.grid import Grid, cell_text
from state.position import Position
from state.run_difference import TOLD_BY_PLACE, RunDifference
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


@click.command("at")
@click.argument("run")
@click.argument("there", metavar="EPOCH[:PHASE[:BATCH]]")
@click.argument("here", required=False, metavar="[EPOCH[:PHASE[:BATCH]]]")
@as_json
def at_position(run: str, there: str, here: str | None, as_json: bool) -> None:
    """Show the state at the end of a round, such as 19:fit:23; of two rounds, what differs and who wrote it last."""
    log, end = opened(run), here or there
    if here is not None:
        found = log.between(there, here)
        if found or as_json:
            _show_grid(found, as_json)
        names = sorted((row.field for row in found), key=lambda name: name in TOLD_BY_PLACE)
    else:
        place = Position.of(there)
        values = log.at(epoch=place.epoch, phase=place.phase, batch=place.batch)
        names = sorted(values, key=lambda name: name in TOLD_BY_PLACE)
        if as_json:
            answers.show_json(values)
        else:
            answers.show_table({"field": "cyan", "value": ""}, [(name, cell_text(values[name])) for name in names])
    if not as_json and names:
        answers.show_next("blame", run, names[0], "--at", end)
    elif not as_json:
        answers.show("Nothing that is on record differs.", "green")
        answers.show_next("at", run, end)


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
    """Say who declares to write and to read each field, and who wrote it.

    Columns: who declares to write it; who wrote it, and how often; who else may touch it, of which there is no record;
    who reads it; and what is odd: never written, never read, undeclared.
    """
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
@click.option("--trace", type=click.Path(dir_okay=False), help="The file. [default: trace.json beside the log]")
@as_json
def export(run: str, trace: str | None, as_json: bool) -> None:
    """Write the run as a Chrome trace, to look at in Perfetto (ui.perfetto.dev) or chrome://tracing."""
    log, path = opened(run), find_run(run, SqliteStore.has_begun)
    made = log.to_trace(trace or (path if path.is_dir() else path.parent) / "trace.json")
    if as_json:
        answers.show_json(made)
        return
    answers.show(str(made.path))
    told = f"rounds: {made.rounds:,}, timed stages and hooks: {made.slices:,}, values: {made.values:,}"
    answers.show(f"  {made.size / 1e6:.2f} MB; {told}, marks: {made.marks:,}")
    answers.show_next("profile", run)


@click.command()
@click.argument("run")
@as_json
@click.pass_context
def violations(ctx: click.Context, run: str, as_json: bool) -> None:
    """List the changes that nobody declared, and the invariants that broke. Exit code 1 if there are some."""
    log = opened(run)
    found, (looked, batches) = log.violations(), log.looked()
    if as_json:
        answers.show_json(found)
    elif found:
        answers.show_changes(found)
        show_next_blame(run, found[0])
    else:
        answers.show("No change that nobody declared is on record, and no invariant that broke.", "green")
    if not as_json and looked < batches:
        told = f"Tensors were looked at in {looked:,} of {batches:,} batches; learner.debug() looks at them in all."
        answers.show(f"  {told}", "dim")
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


COMMANDS = (at_position, first, rates, writers, profile, violations, export)


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
