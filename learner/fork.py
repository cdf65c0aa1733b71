"""Fork: where two trails part in what both have, and what is known of the values that were read there."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from learner.trail import Sight, Trail, Turn
from stages.check import key_of


@dataclass(frozen=True)
class Fork:
    """Where two trails part.

    Attributes:
        numbers: of the turn in each trail that left the first name; None where only the other one has a turn there.
        names: the fields and parts that differ.
        before: what there was before it, in each.
    """

    numbers: tuple[int | None, int | None]
    names: tuple[str, ...]
    before: tuple[Sight, Sight]


def first_fork(ours: Trail, theirs: Trail) -> Fork | None:
    """Where two trails part in what both have; None if they do not."""
    sights = dict(ours.start), dict(theirs.start)
    apart = set(start_differences(ours, theirs))
    for one, other in aligned([turn.actor for turn in ours.turns], [turn.actor for turn in theirs.turns]):
        pieces = ours.turns[one.start : one.stop], theirs.turns[other.start : other.stop]
        names = dict.fromkeys(name for piece in pieces for turn in piece for name in turn.changed)
        before = dict(sights[0]), dict(sights[1])
        for sight, piece in zip(sights, pieces, strict=True):
            for turn in piece:
                sight.update(turn.changed)
        common = [name for name in names if name in sights[0] and name in sights[1]]
        differing = tuple(name for name in common if name not in apart and sights[0][name] != sights[1][name])
        if differing:
            found = _last(one, pieces[0], differing[0]), _last(other, pieces[1], differing[0])
            return Fork(found, differing, before)
        apart.difference_update(name for name in common if sights[0][name] == sights[1][name])
    return None


def start_differences(ours: Trail, theirs: Trail) -> list[str]:
    """The fields and parts that both have, and that differed from the start."""
    return [name for name, told in ours.start.items() if theirs.start.get(name, told) != told]


def aligned(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[tuple[range, range]]:
    """Both sequences in pieces: one item each where they agree, else all up to the nearest place where they do."""
    one = other = 0
    while one < len(ours) or other < len(theirs):
        i, j = _nearest(ours, theirs, one, other)
        if i == j == 0:
            i = j = 1
        yield range(one, one + i), range(other, other + j)
        one, other = one + i, other + j


def unread(ours: Trail, theirs: Trail) -> tuple[str, ...]:
    """What could not be compared and is not the same object in both. What data come from is left out, as they count."""
    both = [name for name in ours.unread if name in theirs.unread and not isinstance(ours.unread[name], Iterable)]
    return tuple(sorted(name for name in both if not _is_same(ours, theirs, name)))


def inputs(turns: Sequence[Turn], fork: Fork, ours: Trail, theirs: Trail) -> Iterator[tuple[str, str]]:
    """What those who ran read, and how it is known that it was the same in both."""
    accesses = [turn.access for turn in turns]
    reads = (name for one in accesses for name in (*one.reads, *one.touches, *one.part_writes))
    names = dict.fromkeys(map(key_of, reads))
    for name in names:
        owner, _, part = name.partition(".")
        if part != "grads" and owner != name and owner in names:
            continue  # who reads a component reads its parts
        known = _evidence(name, fork, ours, theirs)
        if known:
            yield name, known


def _evidence(name: str, fork: Fork, ours: Trail, theirs: Trail) -> str:
    one, other = fork.before
    names = [key for key in {**one, **other} if key == name or key.startswith(f"{name}.")]
    if "." not in name:  # who reads a component does not read its gradients
        names = [key for key in names if not key.endswith(".grads")]
    if any((key in one) != (key in other) for key in names):
        return "is in one of the two trees only"
    if any(one[key] != other[key] for key in names):
        return "differs since the start"
    if any(key in ours.unread or key in theirs.unread for key in names):
        return "agrees as far as its bits can be read"
    if names:
        return "agrees by fingerprint"
    if name not in ours.unread and name not in theirs.unread:
        return ""  # it is in neither
    return "is the same object" if _is_same(ours, theirs, name) else "was not compared"


def _is_same(ours: Trail, theirs: Trail, name: str) -> bool:
    one: Any = ours.unread.get(name)
    return one is not None and one is theirs.unread.get(name)


def _last(piece: range, turns: Sequence[Turn], name: str) -> int | None:
    """The number of the last turn of a piece that left `name`, else of its last turn; None if there is none."""
    numbers = [number for number, turn in zip(piece, turns, strict=True) if name in turn.changed]
    return numbers[-1] if numbers else piece[-1] if piece else None


def _nearest(ours: Sequence[str], theirs: Sequence[str], one: int, other: int) -> tuple[int, int]:
    """How many items to pass in each until they agree, as few as can be; all that is left if they never do."""
    left = len(ours) - one, len(theirs) - other
    for total in count():
        for i in range(max(0, total - left[1]), min(total, left[0]) + 1):
            j = total - i
            if i < left[0] and j < left[1] and ours[one + i] == theirs[other + j]:
                return i, j
        if total >= sum(left):
            break
    return left
