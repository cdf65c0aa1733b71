"""The `learner` command: a demonstration, what a Learner is made of, who changed what in a stored run, its checkpoints.

Exit codes: 0 ok, 1 a finding (or a Learner that cannot be built), 2 usage (also a run, field or module that there is
not), 3 a damaged file.
"""

import sys
from io import TextIOWrapper
from typing import Any

import click

from learner import answers, checkpoint_commands, question_commands, tree_commands
from learner.answers import DAMAGED, FINDING, USAGE, as_json
from learner.bisect_command import bisect
from learner.errors import LearnerError, NoWeights
from learner.loading import NotBuilt
from learner.question_commands import opened, show_what_comes
from learner.viewing import view
from stages import StageError
from stages.draw import plain
from state import Position, StateError
from state.errors import CheckpointDamaged, LogDamaged

_DAMAGED = (CheckpointDamaged, LogDamaged, NoWeights)


class Commands(click.Group):
    """A group whose commands end with a message and an exit code where one of our packages refuses."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a name in a script that the terminal lacks
        try:
            return super().invoke(ctx)
        except (StateError, StageError, LearnerError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            message = "\n".join(map(plain, str(error).splitlines()))
            click.echo(f"Error: {message}", err=True)
            ctx.exit(FINDING if isinstance(error, NotBuilt) else DAMAGED if isinstance(error, _DAMAGED) else USAGE)


def numbers(text: str) -> int | range:
    """What "3" and "3-7" ask for; a range holds both its ends."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise click.BadParameter(f"{text!r} is neither a number, 3, nor a range, 3-7.")
    return range(int(first), int(last) + 1) if dash else int(first)


def position(text: str) -> Position:
    """What "19", "19:fit" and "19:fit:23" ask for."""
    try:
        return Position.of(text)
    except StateError as error:
        raise click.BadParameter(str(error)) from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A training loop as a graph of stages over one guarded state, with every change on the record.

    OBJECT is module:object, a Learner or a function without arguments that makes one. RUN is a stored run: runs/demo
    (the latest of the family), runs/demo@3, runs/demo/0003, or a log file. CHECKPOINT is the directory of one, or a
    run and a number: runs/demo@3:7; without the number the newest of the run.
    """


@main.command()
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--run-dir", default="runs/demo", show_default=True, help="The family: this run gets its next number.")
@as_json
def demo(epochs: int, run_dir: str, as_json: bool) -> None:
    """Train on handwritten digits and look at what was recorded."""
    from learner.demo import run_demo

    run_demo(epochs, run_dir, as_json=as_json)


@main.command()
@click.argument("run")
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="So many, the last ones.")
@click.option("--actor", help="A path or a pattern: '*/update', external, '*:after:*'.")
@click.option("--field", help="A name or a pattern: loss, 'optimizer.hyper.*'. Writes only.")
@click.option("--epoch", type=numbers, metavar="N|N-M", help="A number, or a range: 3-7.")
@click.option("--batch", type=numbers, metavar="N|N-M", help="A number, or a range.")
@click.option("--phase", help="As positions name it: fit, validate.")
@click.option("--digest", is_flag=True, help="One line that is the same for two runs that wrote the same.")
@click.option("--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@as_json
def log(
    run: str,
    count: int,
    actor: str | None,
    field: str | None,
    epoch: int | range | None,
    batch: int | range | None,
    phase: str | None,
    digest: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Show the last records of a run, all or those that match."""
    if follow:
        if as_json or any(value is not None for value in (actor, field, epoch, batch, phase)):
            raise click.UsageError("--follow shows everything as it comes; filters and --json are for what is there.")
        show_what_comes(run, count)
        return
    stored = opened(run)
    if digest:
        answers.show_json(stored.digest()) if as_json else answers.show(stored.digest())
        return
    asked: dict[str, Any] = {"actor": actor, "field": field, "epoch": epoch, "batch": batch, "phase": phase}
    if any(value is not None for value in asked.values()):
        changes = list(stored.where(kind=None if field is None else "write", **asked)[-count:])
    else:
        changes = list(stored.tail(count))
    if as_json:
        answers.show_json(changes)
        return
    answers.show_changes(changes)
    for gap in stored.where(kind="gap"):
        answers.show(f"{str(gap.position) or 'set-up'}: {gap.after}", "yellow")
    if not changes:
        answers.show("no record matches")
        answers.show_next("log", run)
    written = [change.field for change in changes if change.field is not None]
    if written:
        answers.show_next("blame", run, written[-1])


@main.command()
@click.argument("run")
@click.argument("field")
@click.option(
    "--at", type=position, metavar="EPOCH[:PHASE[:BATCH]]", help="Up to the end of that round, such as 19:fit:23."
)
@as_json
def blame(run: str, field: str, at: Position | None, as_json: bool) -> None:
    """Say who wrote a field last, when, and what it was before."""
    change = opened(run).blame(field, at)
    if as_json:
        answers.show_json(change)
        return
    answers.show(str(change))
    answers.show_next("history", run, field)


@main.command()
@click.argument("run")
@click.argument("field")
@click.option("-n", "count", type=click.IntRange(min=1), help="So many, the last ones, write by write.")
@as_json
def history(run: str, field: str, count: int | None, as_json: bool) -> None:
    """List every write of a field and of its parts. Rounds that write the same are one row; in JSON every write is."""
    changes = opened(run).history(field)
    if as_json:
        answers.show_json(changes if count is None else changes[-count:])
        return
    if count is None:
        answers.show_history(changes)
    else:
        answers.show_changes(changes[-count:])
        if count < len(changes):
            answers.show(f"after {len(changes) - count:,} earlier ones; -n {len(changes)} shows them all", "dim")
    if changes:
        last = changes[-1]
        where = ("--at", answers.at(last)) if last.position.epoch is not None else ()
        answers.show_next("blame", run, str(last.field), *where)


for command in (*tree_commands.COMMANDS, view, *checkpoint_commands.COMMANDS, *question_commands.COMMANDS, bisect):
    main.add_command(command)
