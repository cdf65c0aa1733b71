"""Graph: an assembled tree as a networkx graph, and who feeds whom in it."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stages.assembly import Assembly
from stages.check import actors, scopes_of
from stages.errors import GraphError
from stages.finding import Finding
from stages.order import covers, overlaps
from stages.place import CHECKPOINT, HookPlace, Place
from state.access import Access

if TYPE_CHECKING:
    import networkx

STATE = "state:"
"""What the node of a field or part begins with, so that it never is the path of a slot: "state:loss"."""


@dataclass(frozen=True)
class Flow:
    """A value that goes from who wrote it to who reads it.

    Attributes:
        name: the field or part that was written.
        writer, reader: actor paths. The same where a stage carries a value from round to round.
    """

    name: str
    writer: str
    reader: str


def graph_of(assembly: Assembly) -> "networkx.MultiDiGraph[str]":
    """The graph of slots, hooks, fields and parts.

    Nodes are slots and hooks by their path, and fields and parts as "state:loss". Their attributes are `kind` ("stage",
    "composite", "checkpoint", "inline", "hook", "field" or "part") and `label`; of slots and hooks also `source`, where
    their code stands, and `unsafe`; of composites `forbids`; of hooks `side`, `observer`, `thinned` and `restores`; of
    fields and parts `scope` and `type`.

    Edges have their `kind` as attribute and as key: "contains" from a slot to what stands in it, and from a component
    to its parts; "then" between what stands in one slot, in running order, hooks with their stage; "reads" from a field
    to an actor; "writes" from an actor to a field. Those of the first two kinds form no cycle. An observer may read
    everything and has no "reads" edges.
    """
    import networkx

    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
    graph.add_nodes_from(_nodes(assembly))
    graph.add_edges_from((first, second, kind, {"kind": kind}) for first, second, kind in _edges(assembly))
    return graph


def flow(assembly: Assembly) -> list[Flow]:
    """Who feeds whom, within a round and from one round to the next.

    For each read the last writer before it in running order whose value is still valid there. A read at which a round
    of a loop has not written yet is also fed by the last writer of the round before, if the value outlives the round.
    What is given at construction, a default and an observer feed and are fed by nobody here.
    """
    return list(_FlowWalk(assembly).found)


def refuse_starving(old: Assembly, new: Assembly, path: str) -> None:
    """Refuse a swap after which somebody would read what nobody there writes any more.

    The check alone would let it pass where an earlier writer leaves something to read: cleared gradients, say.

    Args:
        path: the slot whose stage was exchanged.

    Raises:
        GraphError: naming each value that was written there and is not now, and its readers.
    """

    def is_inside(actor: str) -> bool:
        return actor == path or actor.startswith((path + "/", path + ":"))

    written = {name for actor, access in actors(new.places) if is_inside(actor) for name in access.writes}
    starved: dict[str, list[str]] = defaultdict(list)
    for one in flow(old):
        leaves = is_inside(one.writer) and not is_inside(one.reader)
        if leaves and not any(overlaps(name, one.name) for name in written):
            starved[one.name].append(one.reader)
    found = []
    for name, readers in starved.items():
        told = f"The new stage in {path!r} does not write {name!r}, which {', '.join(dict.fromkeys(readers))} reads."
        ways = "Write it there, or take the readers out first."
        found.append(Finding("error", "starved reader", (path, *readers), f"{told} {ways}"))
    if found:
        raise GraphError(found)


def counted(place: Place) -> tuple[str, ...]:
    """The fields that a loop itself writes to count its rounds."""
    position, total = place.counts
    samples = "samples_seen" if place.each == "batch" and total else None
    return tuple(name for name in (position, total, samples) if name)


def _nodes(assembly: Assembly) -> Iterator[tuple[str, dict[str, Any]]]:
    for place in assembly.places:
        kind = "composite" if place.is_composite else place.kind
        own = {"forbids": place.forbids} if place.is_composite else {}
        unsafe = place.kind == "stage" and place.access.unsafe
        yield place.path, {"kind": kind, "label": place.slot, "source": place.contract.source, "unsafe": unsafe, **own}
        for side, hooks in (("before", place.before), ("around", place.around), ("after", place.after)):
            for hung in hooks:
                hook = hung.hook
                facts = {"side": side, "observer": hook.observes, "thinned": hook.is_thinned}
                facts.update(unsafe=hung.access.unsafe, restores=hung.access.restores)
                yield hung.path, {"kind": "hook", "label": hook.name, "source": hook.contract.source, **facts}
    scopes = scopes_of(assembly.places, assembly.names)
    for name in _names(assembly):
        spec = assembly.names.get(name)
        kind = "part" if "." in name else "field"
        type_text = spec.type_text if spec is not None and kind == "field" else ""
        yield STATE + name, {"kind": kind, "label": name, "scope": scopes.get(name, ""), "type": type_text}


def _edges(assembly: Assembly) -> Iterator[tuple[str, str, str]]:
    for place in assembly.places:
        if place.parent is None:
            yield from ((first, second, "then") for first, second in pairwise(_line(place)))
        inside = [path for child in place.children.values() for path in _line(child)]
        yield from ((place.path, path, "contains") for path in inside)
        yield from ((first, second, "then") for first, second in pairwise(inside))
        if place.kind == "stage":
            names = dict.fromkeys((*place.access.writes, *(name for name in counted(place) if name in assembly.names)))
            yield from _access_edges(place.path, place.access, tuple(names))
        for hung in place.hooks:
            yield from _access_edges(hung.path, hung.access, hung.access.writes)
    for name in _names(assembly):
        owner = name.rpartition(".")[0]
        if owner:
            yield STATE + owner, STATE + name, "contains"


def _line(place: Place) -> Iterator[str]:
    """A place and its hooks, in the order they run."""
    yield from (hung.path for hung in (*place.before, *place.around))
    yield place.path
    yield from (hung.path for hung in place.after)


def _access_edges(path: str, access: Access, writes: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    yield from ((STATE + name, path, "reads") for name in access.reads)
    yield from ((path, STATE + name, "writes") for name in writes)


def _names(assembly: Assembly) -> list[str]:
    """Every field and part of the schema, and what actors declare below parts, after what it is below."""
    names = {name: None for name in assembly.names}
    for place in assembly.places:
        accesses = [hung.access for hung in place.hooks]
        for access in [place.access, *accesses] if place.kind == "stage" else accesses:
            for name in (*access.reads, *access.writes):
                if name not in names:
                    parts = name.split(".")
                    names.update((".".join(parts[:end]), None) for end in range(1, len(parts) + 1))
    return list(names)


@dataclass
class _Loop:
    """A loop whose round is being walked: when the round began, and who read what it had not written by then.

    A read comes with the names that were written in this round before it.
    """

    began: int
    waiting: list[tuple[str, str, set[str]]] = field(default_factory=list)


class _FlowWalk:
    """One walk in running order, which remembers the last writer of each name.

    `last` is by the name of the field: {"model": {"model.params": (moment, path)}}.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.names = assembly.names
        self.scopes = scopes_of(assembly.places, assembly.names)
        self.in_scope: dict[str, list[str]] = defaultdict(list)
        for name, scope in self.scopes.items():
            self.in_scope[scope].append(name)
        self.last: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
        self.loops: list[_Loop] = []
        self.found: dict[Flow, None] = {}
        self.moment = 0
        self.walk(assembly.root)

    def walk(self, place: Place) -> None:
        opens = place.opens
        hidden = self._take(opens)
        for hook in (*place.before, *place.around):
            self._act(hook)
        if place.kind == "stage":
            self._act(place)
        if place.each is None:
            for child in place.children.values():
                self.walk(child)
        else:
            self._round(place, place.each)
        for hook in place.after:
            self._act(hook)
        self._give_back(opens, hidden)

    def _round(self, place: Place, each: str) -> None:
        """One round of a loop; then what its end hands to the beginning of the next."""
        loop = _Loop(self.moment)
        self.loops.append(loop)
        hidden = self._take(each)
        self._write(place.path, counted(place)[:1])
        for child in place.children.values():
            if child.kind != CHECKPOINT:
                self.walk(child)
        self._write(place.path, counted(place)[1:])
        self._give_back(each, hidden)
        if CHECKPOINT in place.children:
            self.walk(place.children[CHECKPOINT])
        self.loops.pop()
        for name, reader, served in loop.waiting:
            for written, moment, writer in self._writers(name):
                if moment > loop.began and written not in served:
                    self.found[Flow(written, writer, reader)] = None

    def _act(self, actor: Place | HookPlace) -> None:
        for name in actor.access.reads:
            writers = list(self._writers(name))
            for written, _, writer in writers:
                self.found[Flow(written, writer, actor.path)] = None
            for loop in reversed(self.loops):
                served = {written for written, moment, _ in writers if moment > loop.began}
                if any(covers(written, name) for written in served):
                    break
                loop.waiting.append((name, actor.path, served))
        self._write(actor.path, actor.access.writes)

    def _write(self, path: str, names: tuple[str, ...]) -> None:
        for name in names:
            self.moment += 1
            self.last[name.partition(".")[0]][name] = (self.moment, path)

    def _writers(self, read: str) -> Iterator[tuple[str, int, str]]:
        """What was written of a name, when and by whom."""
        for written, (moment, path) in self.last.get(read.partition(".")[0], {}).items():
            if overlaps(written, read):
                yield written, moment, path

    def _take(self, scope: str | None) -> dict[str, dict[str, tuple[int, str]]]:
        """Forget who wrote the names of a scope that opens or closes; the answer is what was known."""
        taken: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
        for name in self.in_scope.get(scope, ()) if scope is not None else ():
            owner = name.partition(".")[0]
            for written in [written for written in self.last.get(owner, ()) if f"{written}.".startswith(f"{name}.")]:
                taken[owner][written] = self.last[owner].pop(written)
        return taken

    def _give_back(self, scope: str | None, hidden: dict[str, dict[str, tuple[int, str]]]) -> None:
        self._take(scope)
        for owner, writers in hidden.items():
            self.last[owner].update(writers)
