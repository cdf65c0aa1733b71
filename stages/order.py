"""The order of hooks at one point: solved once, from what they declare, with the reasons kept."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from typing import Literal

from stages.callbacks import FunctionCallback, Hook, title_of
from stages.place import HookPlace


@dataclass(frozen=True)
class Edge:
    """One hook before another, and why.

    Attributes:
        first, second: their actor paths.
        reason: what the first one does that puts it before: "writes 'loss', which the other reads".
    """

    first: str
    second: str
    reason: str


@dataclass(frozen=True)
class Conflict:
    """Hooks of one point that have no order.

    Attributes:
        kind: "writers" for two that write one name, "cycle" for some that wait for each other.
        hooks: their names, in the order of the cycle.
        name: the field or part that both write.
        callbacks: whose they are, as one writes them: "Mixup(...)".
        edges: what makes the cycle.
    """

    kind: Literal["writers", "cycle"]
    hooks: tuple[str, ...]
    name: str = ""
    callbacks: tuple[str, ...] = ()
    edges: tuple[Edge, ...] = ()


Reasons = dict[int, dict[int, str]]
"""Hooks by their number at the point: first -> second -> why."""


def solve(hooks: Sequence[HookPlace]) -> tuple[list[HookPlace], list[Edge], list[Conflict]]:
    """Order the hooks of one point.

    A declared order wins and stands in place of an order by access; a writer runs before those that only read; two
    writers need an order; else hooks keep the order of their registration. Observers come last.

    Args:
        hooks: in the order of registration.
    """
    acting = [place for place in hooks if not place.hook.observes]
    observing = [place for place in hooks if place.hook.observes]
    after = _declared(acting)
    declared = _reach(after)
    by_access = [(i, j, name) for i, j, name in _by_access(acting) if j not in declared(i) and i not in declared(j)]
    for first, second, name in by_access:
        after[first].setdefault(second, f"writes {name!r}, which the other reads")
    order, rest = _sorted(len(acting), after)
    conflicts = [_cycle(acting, rest, after)] if rest else []
    reached = _reach(after)
    for first, second, name in _both_write([(i, acting[i]) for i in order]):
        if second not in reached(first):
            pair = [acting[i].hook for i in sorted((first, second))]
            given = tuple(_as_given(hook) for hook in pair)
            conflicts.append(Conflict("writers", tuple(hook.name for hook in pair), name, given))
    edges = [Edge(acting[a].path, acting[b].path, why) for a, seconds in after.items() for b, why in seconds.items()]
    return [acting[i] for i in (*order, *rest)] + observing, edges, conflicts


def covers(wider: str, name: str) -> bool:
    """Whether an access to `wider` is one to `name` too: itself, or what is below it. `grads` stand on their own."""
    if wider == name:
        return True
    return name.startswith(wider + ".") and not ("." not in wider and name.split(".")[1] == "grads")


def overlaps(one: str, other: str) -> bool:
    """Whether two accesses meet."""
    return covers(one, other) or covers(other, one)


def _declared(hooks: Sequence[HookPlace]) -> Reasons:
    """The declared order: by the author, by the user's tuple, by the order within one callback."""
    after: Reasons = defaultdict(dict)
    by_title: dict[str, list[int]] = defaultdict(list)
    groups: dict[int, list[int]] = defaultdict(list)
    own: dict[int, list[int]] = defaultdict(list)
    for i, place in enumerate(hooks):
        hook = place.hook
        bases = {base.__name__ for base in type(hook.callback).__mro__}
        for title in bases | {hook.name, hook.name.split(".")[0]}:
            by_title[title].append(i)
        own[id(hook.callback)].append(i)
        if hook.group is not None:
            groups[hook.group[0]].append(i)
    for members in groups.values():
        for i, j in pairwise(sorted(members, key=lambda i: (hooks[i].hook.group, hooks[i].hook.rank))):
            after[i][j] = "stands first in a tuple of callbacks="
    for members in own.values():
        for i, j in pairwise(members):
            after[i][j] = "is defined first in the same callback"
    for i, place in enumerate(hooks):
        options = place.hook.point.options
        for j in _named(options.get("runs_before", ()), by_title, own[id(place.hook.callback)]):
            after[i][j] = "declares runs_before"
        for j in _named(options.get("runs_after", ()), by_title, own[id(place.hook.callback)]):
            after[j][i] = "is named in the other's runs_after"
    return after


def _named(others: tuple[type | str, ...], by_title: Mapping[str, list[int]], own: list[int]) -> Iterator[int]:
    """The hooks of the callbacks that `others` name, those of the callback itself left out."""
    for other in others:
        yield from (j for j in by_title.get(other if isinstance(other, str) else other.__name__, ()) if j not in own)


def _by_access(hooks: Sequence[HookPlace]) -> Iterator[tuple[int, int, str]]:
    """Writer, reader and name, where the reader does not write that name itself."""
    writers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for i, place in enumerate(hooks):
        for name in place.access.writes:
            writers[name.partition(".")[0]].append((i, name))
    for j, place in enumerate(hooks):
        for read in place.access.reads:
            for i, written in writers.get(read.partition(".")[0], ()):
                if (
                    i != j
                    and overlaps(written, read)
                    and not any(overlaps(written, own) for own in place.access.writes)
                ):
                    yield i, j, written


def _both_write(hooks: Sequence[tuple[int, HookPlace]]) -> Iterator[tuple[int, int, str]]:
    """Two hooks, in the order given, and a name that both write."""
    writers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for i, place in hooks:
        for name in place.access.writes:
            writers[name.partition(".")[0]].append((i, name))
    for written in writers.values():
        for (i, name), (j, other) in combinations(written, 2):
            if i != j and overlaps(name, other):
                yield i, j, min(name, other, key=len)


def _as_given(hook: Hook) -> str:
    """The callback of a hook as one writes it in callbacks=."""
    title = title_of(hook.callback)
    return title if isinstance(hook.callback, FunctionCallback) else f"{title}(...)"


def _reach(after: Reasons) -> Callable[[int], set[int]]:
    """The function that gives the hooks to which a chain of orders leads from one; `after` stays as it is meanwhile."""

    @cache
    def reach(first: int) -> set[int]:
        found: set[int] = set()
        waiting = list(after.get(first, ()))
        while waiting:
            i = waiting.pop()
            if i not in found:
                found.add(i)
                waiting.extend(after.get(i, ()))
        return found

    return reach


def _sorted(count: int, after: Reasons) -> tuple[list[int], list[int]]:
    """A topological order that keeps the order of registration where it may, and what is left over by a cycle."""
    waits = [0] * count
    for seconds in after.values():
        for j in seconds:
            waits[j] += 1
    ready = [i for i in range(count) if not waits[i]]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for j in after.get(i, ()):
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, j)
    return order, sorted(set(range(count)) - set(order))


def _cycle(hooks: Sequence[HookPlace], rest: list[int], after: Reasons) -> Conflict:
    """One cycle among the hooks that are left over: each of them waits for another one of them."""
    left = set(rest)
    before = {j: i for i in rest for j in after.get(i, ()) if j in left}
    trail = [rest[0]]
    while before[trail[-1]] not in trail:
        trail.append(before[trail[-1]])
    ring = trail[trail.index(before[trail[-1]]) :][::-1]
    start = ring.index(min(ring))
    ring = ring[start:] + ring[:start]
    edges = [Edge(hooks[i].path, hooks[j].path, after[i][j]) for i, j in pairwise((*ring, ring[0]))]
    return Conflict("cycle", tuple(hooks[i].hook.name for i in ring), edges=tuple(edges))
