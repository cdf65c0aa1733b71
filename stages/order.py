"""The order of hooks at one point: solved once, from what they declare, with the reasons kept."""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stages.place import HookPlace


@dataclass(frozen=True)
class Edge:
    """One hook before another, and why."""

    first: str
    second: str
    reason: str


@dataclass(frozen=True)
class Conflict:
    """Hooks of one point that have no order: two writers of one name, or a cycle."""

    kind: str
    hooks: tuple[str, ...]
    name: str = ""


def solve(hooks: Sequence[HookPlace]) -> tuple[list[HookPlace], list[Edge], list[Conflict]]:
    """Order the hooks of one point.

    A declared order wins and stands in place of an order by access; a writer runs before those that only read; two
    writers need a declared order; else hooks keep the order of their registration. Observers come last.
    """
    acting = [place for place in hooks if not place.hook.observes]
    observing = [place for place in hooks if place.hook.observes]
    after: dict[int, dict[int, str]] = defaultdict(dict)
    declared = dict(_declared(acting))
    for (first, second), reason in declared.items():
        after[first][second] = reason
    conflicts = []
    for (first, second), name in _by_access(acting):
        if (first, second) not in declared and (second, first) not in declared:
            after[first].setdefault(second, f"writes {name!r}, which the other reads")
    for first, second, name in _writers(acting):
        if not (_leads(after, first, second) or _leads(after, second, first)):
            conflicts.append(Conflict("writers", (acting[first].hook.name, acting[second].hook.name), name))
    order, rest = _sorted(len(acting), after)
    if rest:
        conflicts.append(Conflict("cycle", tuple(acting[i].hook.name for i in _cycle(rest, after))))
    edges = [Edge(acting[a].path, acting[b].path, why) for a, seconds in after.items() for b, why in seconds.items()]
    return [acting[i] for i in (*order, *rest)] + observing, edges, conflicts


def covers(wider: str, name: str) -> bool:
    """Whether an access to `wider` is one to `name` too: itself, or what is below it. `grads` stand on their own."""
    if wider == name:
        return True
    return name.startswith(wider + ".") and not (name.count(".") == 1 and name.endswith(".grads"))


def overlaps(one: str, other: str) -> bool:
    """Whether two accesses meet."""
    return covers(one, other) or covers(other, one)


def _declared(hooks: Sequence[HookPlace]) -> Iterator[tuple[tuple[int, int], str]]:
    """Pairs with a declared order: by the author, by the user's tuple, by the order within one callback."""
    by_title: dict[str, list[int]] = defaultdict(list)
    for i, place in enumerate(hooks):
        callback = place.hook.callback
        for title in {base.__name__ for base in type(callback).__mro__} | {place.hook.name, place.hook.name.split(".")[0]}:
            by_title[title].append(i)
    groups: dict[int, list[int]] = defaultdict(list)
    own: dict[int, list[int]] = defaultdict(list)
    for i, place in enumerate(hooks):
        options = place.hook.point.options
        for other in options.get("runs_before", ()):
            for j in by_title.get(other if isinstance(other, str) else other.__name__, ()):
                if j != i:
                    yield (i, j), "declares runs_before"
        for other in options.get("runs_after", ()):
            for j in by_title.get(other if isinstance(other, str) else other.__name__, ()):
                if j != i:
                    yield (j, i), "is declared by runs_after"
        if place.hook.group is not None:
            groups[place.hook.group[0]].append(i)
        own[id(place.hook.callback)].append(i)
    for members in groups.values():
        members.sort(key=lambda i: (hooks[i].hook.group, hooks[i].hook.rank))
        for i, j in pairwise(members):
            if hooks[i].hook.callback is not hooks[j].hook.callback:
                yield (i, j), "stands first in the tuple of callbacks="
    for members in own.values():
        for i, j in pairwise(members):
            yield (i, j), "is defined first in the same callback"


def _by_access(hooks: Sequence[HookPlace]) -> Iterator[tuple[tuple[int, int], str]]:
    """Pairs (writer, reader) of a name that the reader does not write itself."""
    writers = _by_owner((i, place.access.writes) for i, place in enumerate(hooks))
    for j, place in enumerate(hooks):
        for read in place.access.reads:
            for i, written in writers.get(read.partition(".")[0], ()):
                own = any(overlaps(written, mine) for mine in place.access.writes)
                if i != j and not own and overlaps(written, read):
                    yield (i, j), written


def _writers(hooks: Sequence[HookPlace]) -> Iterator[tuple[int, int, str]]:
    """Pairs that write one name."""
    for written in _by_owner((i, place.access.writes) for i, place in enumerate(hooks)).values():
        for at, (i, name) in enumerate(written):
            for j, other in written[at + 1 :]:
                if i != j and overlaps(name, other):
                    yield i, j, name


def _by_owner(names: Iterator[tuple[int, tuple[str, ...]]]) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for i, written in names:
        for name in written:
            found[name.partition(".")[0]].append((i, name))
    return found


def _leads(after: dict[int, dict[int, str]], first: int, last: int) -> bool:
    """Whether a chain of orders leads from one hook to the other."""
    waiting, seen = [first], {first}
    while waiting:
        for i in after.get(waiting.pop(), ()):
            if i == last:
                return True
            if i not in seen:
                seen.add(i)
                waiting.append(i)
    return False


def _sorted(count: int, after: dict[int, dict[int, str]]) -> tuple[list[int], list[int]]:
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


def _cycle(rest: list[int], after: dict[int, dict[int, str]]) -> list[int]:
    """One cycle among the hooks that are left over."""
    before = {j: i for i in rest for j in after.get(i, ()) if j in rest}
    trail = [rest[0]]
    while trail.count(trail[-1]) < 2:
        trail.append(before[trail[-1]])
    return list(reversed(trail[trail.index(trail[-1]) :]))
