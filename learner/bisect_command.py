"""The command `learner bisect`: between which batches two runs part, by their logs and by their checkpoints."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import click

from learner import answers
from learner.answers import FINDING, as_json
from learner.checkpoint_commands import comparable
from learner.checkpoints import Kept, describe, find_checkpoints
from learner.question_commands import facts_of, opened, show_next_blame
from state.differences import differences
from state.errors import CheckpointDamaged, CheckpointError
from state.parts import RNG
from state.position import Position
from state.run_difference import RunDifference

_OTHER_START = (
    "They start from something else: from there on no stage can be told. Give both the same start, and ask again."
)
_OTHER_SEED = "If that finds nothing, their stages agree, and it is the seed: give both the same one, and ask again."


@dataclass(frozen=True)
class Pair:
    """The checkpoints that two runs wrote at the same place."""

    first: Kept
    second: Kept

    @cached_property
    def fields(self) -> list[str]:
        """The fields of State in which they differ; both are read and verified."""
        found = differences(*comparable(self.first.path, self.second.path))
        names = (one.file.removesuffix(".safetensors").removesuffix(".json") for one in found)
        return [name for name in dict.fromkeys(names) if name != "run"]

    @property
    def is_parted(self) -> bool:
        """Whether they differ in more than where the random number generators are, from which nobody need draw."""
        return any(name != RNG for name in self.fields)

    @property
    def position(self) -> Position:
        """The position that both stood at."""
        return Position(*self.first.run()["position"])

    def is_before(self, position: Position | None) -> bool:
        """Whether a run that goes on from there comes to a batch."""
        if position is None or position.epoch is None or position.batch is None:
            return True
        here = self.position
        if here.epoch is None or here.batch is None:
            return len(self.first.run()["history"]) <= position.epoch
        return (here.epoch, here.batch) < (position.epoch, position.batch)

    def place(self) -> str:
        """Where both stood."""
        return describe(self.first.run())


@click.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@as_json
@click.pass_context
def bisect(ctx: click.Context, first: str, second: str, as_json: bool) -> None:
    """Say between which checkpoints two runs part, beside what their logs tell, and how to find the stage.

    Of the checkpoints that both wrote at the same place some are read, as in a binary search: that rests on runs that
    have parted not coming together again. Exit code 1 if they part.
    """
    found = opened(first).diff(opened(second))
    pairs = list(_pairs(first, second))
    number = bisect_left(pairs, True, key=lambda pair: pair.is_parted)
    equal = pairs[number - 1] if number else None
    parted = pairs[number] if number < len(pairs) else None
    if as_json:
        facts = {"pairs": len(pairs), "equal": _facts(equal), "parted": _facts(parted)}
        answers.show_json({"first": first, "second": second, "log": facts_of(found), "checkpoints": facts})
    else:
        answers.show(str(found), "" if found else "green")
        for line in _checkpoints_told(equal, parted):
            answers.show(line)
        if found.kind == "start":
            answers.show(_OTHER_START)
        elif found or parted:
            answers.show(_program(found, equal if equal and equal.is_before(_position(found)) else None, parted))
            if any(line.startswith(f"{RNG}:") for line in found.told):
                answers.show(_OTHER_SEED)
        if found or parted:
            _show_next(first, second, found, parted)
    ctx.exit(FINDING if found or parted else 0)


def _pairs(first: str, second: str) -> Iterator[Pair]:
    """The checkpoints that both runs wrote at the same place, the oldest first."""
    theirs = {_place(kept): kept for kept in _kept(second)}
    for kept in _kept(first):
        place = _place(kept)
        if place is not None and place in theirs:
            yield Pair(kept, theirs[place])


def _kept(run: str) -> list[Kept]:
    try:
        return find_checkpoints(run)
    except CheckpointDamaged:
        raise
    except CheckpointError:  # it keeps none
        return []


def _place(kept: Kept) -> tuple[Any, ...] | None:
    """What is the same for two checkpoints at one place; None if it cannot be read."""
    run = kept.run()
    position, history = run.get("position"), run.get("history")
    return (*position, len(history)) if isinstance(position, list) and isinstance(history, list) else None


def _checkpoints_told(equal: Pair | None, parted: Pair | None) -> Iterator[str]:
    if equal is None and parted is None:
        yield "checkpoints: the runs keep none that stand at the same place"
    if equal is not None:
        but = ", but for the random number generators" if equal.fields else ""
        yield f"checkpoints: equal, bit for bit{but}: {equal.first.path} and {equal.second.path} ({equal.place()})"
    if parted is not None:
        where = f"{parted.first.path} and {parted.second.path} ({parted.place()})"
        yield f"checkpoints: not equal in {', '.join(parted.fields)}: {where}"


def _position(found: RunDifference) -> Position | None:
    """The batch of the first record that differs, if it is in one."""
    change = found.ours or found.theirs
    return change.position if change is not None and change.position.batch is not None else None


def _program(found: RunDifference, equal: Pair | None, parted: Pair | None) -> str:
    """How to find the stage, in Python."""
    lines = ["To find the stage, with `one` and `other` made as the programs of the two runs make their Learners:"]
    batches = _batches(found, equal, parted)
    if batches is None:  # from the weights there, over data in the order of a new pass
        lines += [f"  one.load({str(equal.first.path)!r})"] if equal is not None else []
        return "\n".join([*lines, "  print(one.bisect(one.capture(), other, 'fit'))"])
    epoch, numbers = batches
    limit: Any = None if equal is None else equal.first.run().get("limit")
    text = limit["text"] if isinstance(limit, dict) and "text" in limit else f"epochs={epoch + 1}"
    resume = f", resume={str(equal.first.path)!r}" if equal is not None else ""
    if len(numbers) == 1:
        lines += [f"  capture = Capture(epoch={epoch}, batch={numbers[0]})  # in the callbacks= of `one`"]
        return "\n".join([*lines, f"  one.fit({text}{resume})", "  print(one.bisect(capture.captured, other))"])
    several = f"range({numbers.start}, {numbers.stop})"
    lines += [f"  captures = [Capture(epoch={epoch}, batch=number) for number in {several}]  # in its callbacks="]
    first = "next(filter(None, (one.bisect(each.captured, other) for each in captures)), None)"
    return "\n".join([*lines, f"  one.fit({text}{resume})", f"  print({first})"])


def _batches(found: RunDifference, equal: Pair | None, parted: Pair | None) -> tuple[int, range] | None:
    """The epoch and the batches in which the runs part; None if they are in several epochs, or not known.

    Where the log does not have the bits of what was read, it may be the batch before that of the first record.
    """
    position, here = _position(found), Position() if equal is None else equal.position
    is_sure = bool(found.inputs) and all(known.startswith("agrees by") for _, known in found.inputs)
    last = position or (parted.position if parted is not None else Position())
    if last.epoch is None or last.batch is None:
        return None
    first = 0 if here.epoch != last.epoch or here.batch is None else here.batch + 1
    if position is not None:
        return last.epoch, range(max(first, last.batch - (not is_sure)), last.batch + 1)
    is_one_epoch = here.epoch == last.epoch or (equal is None and last.epoch == 0)
    return (last.epoch, range(first, last.batch + 1)) if is_one_epoch else None


def _show_next(first: str, second: str, found: RunDifference, parted: Pair | None) -> None:
    if found.ours is not None:
        show_next_blame(first, found.ours)
    elif parted is not None:
        answers.show_next("diff", str(parted.first.path), str(parted.second.path))
    else:
        answers.show_next("diff", first, second)


def _facts(pair: Pair | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    paths = {"first": str(pair.first.path), "second": str(pair.second.path)}
    return {"at": pair.place(), **paths, "fields": pair.fields}
