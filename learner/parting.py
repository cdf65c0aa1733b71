"""Parting: the first place where two trees, run on the same, leave something else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
from torch import Tensor

from learner.fork import Fork, first_fork, inputs, start_differences, unread
from learner.recipes import Part
from learner.replay import Captured
from learner.trail import Trail, Turn, follow
from state.differences import of_tensors
from state.errors import short
from state.position import Position
from state.run_difference import GRAPHS

if TYPE_CHECKING:
    from learner.bound import Bound

Kind = Literal["none", "value", "turns", "noise"]

_MOST = 3  # names that are told one by one


@dataclass(frozen=True)
class Parting:
    """The first place where two trees, run on the same captured State, leave something else.

    Attributes:
        kind: "value": one and the same slot or hook leaves something else; "turns": one that only one of the trees has,
            or has there, changes something that both have; "noise": a tree does not agree with itself when it is run
            again; "none".
        told: what differs, one line each.
        actors: who ran, in the first and in the second tree; None where nobody did.
        position: where in the run.
        names: the fields and parts that differ, in the order in which they were looked at.
        first, second: what was left there, as copies: by name, down to single tensors; where both left something, what
            differs of it.
        inputs: what the actor reads: (name, how it is known to agree).
        unread: fields that could not be compared, such as functions, where they are not the same object.
    """

    kind: Kind
    told: tuple[str, ...] = ()
    actors: tuple[str | None, str | None] = (None, None)
    position: Position | None = None
    names: tuple[str, ...] = ()
    first: Mapping[str, Any] = field(default_factory=dict, repr=False)
    second: Mapping[str, Any] = field(default_factory=dict, repr=False)
    inputs: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.kind != "none"

    def __str__(self) -> str:
        lines = [*self.told, *(f"  its input {name} {known}" for name, known in self.inputs)]
        if self.kind == "value" and any(name.endswith(".grads") for name in self.names):
            lines.append(f"  {GRAPHS}")
        if self.unread:
            lines.append(f"  not compared: {', '.join(self.unread)}")
        return "\n".join(lines)

    __repr__ = __str__


def bisect(
    one: "Bound", captured: Captured, other: "Bound", path: str | None, swap: Mapping[str, Part], batches: int | None
) -> Parting:
    """See `Learner.bisect`."""
    ours, theirs = follow(one, captured, path, {}, batches), follow(other, captured, path, swap, batches)
    fork = first_fork(ours, theirs)
    if fork is None:
        told = f"The two trees left the same after each of {len(ours.turns)} stages and hooks, in all that both have."
        return Parting("none", (told, *_started(ours, theirs)), unread=unread(ours, theirs))
    runs = zip((one, other), ({}, swap), fork.numbers, strict=True)
    again = [
        None if n is None else follow(bound, captured, path, swaps, batches, n, fork.names) for bound, swaps, n in runs
    ]
    return _parting(ours, theirs, fork, again)


def _parting(ours: Trail, theirs: Trail, fork: Fork, again: Sequence[Trail | None]) -> Parting:
    """What is told of a fork, with each tree run once more and the contents of the turn where it parts from the other.

    That is not said where a tree left something else there the second time.
    """
    pairs = zip((ours, theirs), fork.numbers, strict=True)
    one, other = (None if number is None else run.turns[number] for run, number in pairs)
    ran = [turn for turn in (one, other) if turn is not None]
    for word, turn, run in zip(("first", "second"), (one, other), again, strict=True):
        if turn is not None and run is not None and run.turns[:1] != [turn]:
            return _noise(word, turn, run)
    first, second = (_contents(run, fork.names) for run in again)
    told = _turns_told(one, other, fork.names)
    if len(ran) == 2:
        names = [name for name in {**first, **second} if not _equal(first.get(name), second.get(name))]
        first, second = ({name: side[name] for name in names if name in side} for side in (first, second))
        told += [f"  {line}" for line in _values_told(names, first, second)]
    actors = (None if one is None else one.actor, None if other is None else other.actor)
    return Parting(
        "value" if actors[0] == actors[1] else "turns",
        (*told, *_started(ours, theirs)),
        actors,
        ran[0].position,
        fork.names,
        first,
        second,
        tuple(inputs(ran, fork, ours, theirs)),
        unread(ours, theirs),
    )


def _noise(word: str, turn: Turn, run: Trail) -> Parting:
    after = run.turns[0].changed if run.turns else {}
    names = tuple(name for name, told in turn.changed.items() if after.get(name) != told)
    what = f" left other {', '.join(names)}" if names else " ran elsewhere"
    told = f"{turn.actor} at {turn.position}{what} when the {word} tree was run again on the same."
    remedy = "  Before two trees can be compared, each has to agree with itself: look there for a random number"
    ways = "  generator that is not in State, or try torch.use_deterministic_algorithms(True)."
    return Parting("noise", (told, remedy, ways), (turn.actor, turn.actor), turn.position, names)


def _turns_told(one: Turn | None, other: Turn | None, names: Sequence[str]) -> list[str]:
    what = f"{', '.join(names)} {'differs' if len(names) == 1 else 'differ'}"
    is_one = one is not None and other is not None and one.actor == other.actor
    turn = one or other
    assert turn is not None
    told = [f"{what} after {turn.actor} at {turn.position}" if is_one else f"{what} at {turn.position}"]
    for word, turn in (("first tree: ", one), ("second tree:", other)):
        if turn is None:
            told.append(f"  {word} nothing ran there")
            continue
        code = turn.source.partition(" ")[2] or turn.source
        if is_one:
            told.append(f"  {word} {code}")
        else:
            changed = ", ".join(name for name in names if name in turn.changed) or "none of it"
            told.append(f"  {word} {turn.actor} changed {changed}" + (f", {code}" if code else ""))
    if is_one and told[1].split()[2:] == told[2].split()[2:]:
        return told[:1]
    return told


def _values_told(names: Sequence[str], first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    for name in names[:_MOST]:
        one, other = first.get(name), second.get(name)
        if _is_dense(one) and _is_dense(other) and one.numel() > 1 and _are_alike(one, other):
            found = next(of_tensors("", {name: one}, {name: other}))
            most = "" if found.largest is None else f", by {found.largest:.4g} at most"
            yield f"{name}: {found.unequal} of {one.numel()} elements of {short(one)} differ{most}"
        else:
            yield f"{name}: {_shown(one)} in the first, {_shown(other)} in the second"
    if len(names) > _MOST:
        yield f"and {len(names) - _MOST} more"


def _contents(run: Trail | None, names: Sequence[str]) -> dict[str, Any]:
    """What a turn left in these fields and parts, by name down to single tensors."""
    found = {} if run is None else run.contents
    return {below: value for name in names for below, value in found.get(name, {}).items()}


def _started(ours: Trail, theirs: Trail) -> list[str]:
    return [f"  {name} differed at the start" for name in start_differences(ours, theirs)]


def _equal(one: Any, other: Any) -> bool:
    if _is_dense(one) and _is_dense(other):
        return _are_alike(one, other) and not any(of_tensors("", {"": one}, {"": other}))
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and repr(one) == repr(other)


def _is_dense(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _are_alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype)


def _shown(value: Any) -> str:
    if _is_dense(value) and value.numel() == 1:
        return f"{value.item():.6g}" if value.is_floating_point() else str(value.item())
    return short(value)
