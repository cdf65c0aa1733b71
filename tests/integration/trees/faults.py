"""Faults: what is wrong with a program, by the oracle; how to mend it; and whether findings tell the same."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

from stages.check import Finding
from tests.integration.trees.oracle import Play
from tests.integration.trees.places import Actor, all_atoms, key_of
from tests.integration.trees.plan import Plan
from tests.integration.trees.programs import Act, Program

READINESS = ("read before write", "missing producer", "stale read", "written sometimes")


class Judged:
    """A program with all its faults."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.plan = Plan(program)
        self.plays = [Play(self.plan, paths=paths) for paths in dict.fromkeys(ways(self.plan))]

    @cached_property
    def unmatched(self) -> dict[str, Actor]:
        """The hooks that stand nowhere, by name."""
        return {
            callback.name(hook): Actor(callback.name(hook), "", hook.act, callback.names, self.plan.root, hook)
            for callback, hook in self.program.hooks
            if not self.plan.standing[hook.number]
        }

    @cached_property
    def unknown(self) -> set[tuple[str, str]]:
        """Who declares a name that there is not: (actor path, name)."""
        everyone = [*self.plan.actors, *self.unmatched.values()]
        pairs = ((actor.path, name) for actor in everyone for name in actor.named(actor.act.names))
        return {(path, name) for path, name in pairs if key_of(name) not in self.plan.known}

    @cached_property
    def forbidden(self) -> set[tuple[str, str]]:
        """Who writes what is forbidden there: (actor path, path of the composite)."""
        inside = ((spot, held) for spot in self.plan.spots for below in spot.held for held in below.walk())
        return {
            (actor.path, spot.path)
            for spot, held in inside
            for actor in held.actors()
            if all_atoms(self._changed_by(actor)) & spot.forbids
        }

    def _changed_by(self, actor: Actor) -> set[str]:
        """What an actor writes, and what the optimizer updates that it steps."""
        written = set(actor.named(actor.act.writes))
        is_update = "optimizer.state" in written and any(key_of(name).endswith(".params") for name in written)
        return written | ({"model.params.weight", "model.params.bias"} if is_update else set())

    @cached_property
    def clashing(self) -> set[frozenset[str]]:
        """Pairs of hooks round one place that restore one part."""
        return {
            frozenset({one.path, other.path})
            for spot in self.plan.spots
            for one, other in combinations(spot.hooks["around"], 2)
            if all_atoms(one.named(one.act.restores)) & all_atoms(other.named(other.act.restores))
        }

    @cached_property
    def bound_to_nothing(self) -> set[tuple[str, str]]:
        """The names bound that nobody there uses: (path of a place or hook, own name)."""
        found = set()
        for spot in {spot.node: spot for spot in reversed(self.plan.spots)}.values():
            used = {owner for _, act in spot.node.acts({}) for owner in act.owners}
            found |= {(spot.path, own) for own in spot.node.names if own not in used}
        for callback, _ in self.program.hooks:
            hung = [actor for actor in self.plan.actors if actor.callback is callback and not actor.observes]
            used = {owner for actor in hung for owner in actor.act.owners}
            found |= {(hung[0].path, own) for own in callback.names if hung and own not in used}
        return found

    @cached_property
    def starving(self) -> dict[tuple[str, str], list[Play]]:
        """Who reads what has no value, (actor path, name), with the plays in which that happens."""
        found: dict[tuple[str, str], list[Play]] = defaultdict(list)
        for play in self.plays:
            for fault in play.faults:
                found[fault].append(play)
        return found

    @property
    def has_cycle(self) -> bool:
        """Whether hooks have no order, so that nothing can be said of who finds what."""
        return any(kind == "cycle" for kind, _ in self.plan.unordered)

    def all(self) -> list[tuple[str, Any]]:
        """Every fault, by its kind."""
        found: list[tuple[str, Any]] = [("order", one) for one in self.plan.unordered]
        found += [("clashing", pair) for pair in sorted(self.clashing, key=sorted)]
        listed = [("forbidden", self.forbidden), ("bind", self.bound_to_nothing), ("unknown", self.unknown)]
        found += [(kind, one) for kind, pairs in listed for one in sorted(pairs)]
        found += [("unmatched", hook) for hook in self.unmatched]
        return found + [("starving", one) for one in self.starving]

    def assert_told_by(self, findings: Sequence[Finding]) -> None:
        """Each fault is a finding, and each finding such a fault."""
        for finding in findings:
            assert finding.actors and finding.message.isascii()
            assert self._is_true(finding, list(finding.actors)), (finding, self.all())
        for kind, fault in self.all():
            assert any(self._is_of(finding, kind, fault) for finding in findings), (kind, fault)

    def _is_of(self, finding: Finding, kind: str, fault: Any) -> bool:
        """Whether a finding tells of this fault."""
        match kind:
            case "unmatched":
                return finding.kind == "unmatched target" and fault in finding.actors
            case "order":
                return finding.kind == fault[0] and bool(set(finding.actors) <= fault[1])
            case "forbidden" | "clashing":
                return finding.kind in ("forbidden write", "clashing pairs") and set(finding.actors) == set(fault)
        name = f"bind({fault[1]}=" if kind == "bind" else repr(fault[1])
        kinds = READINESS if kind == "starving" else ("unknown field",)
        is_told = finding.kind in kinds and fault[0] in finding.actors and name in finding.message
        return is_told or (kind == "starving" and self.has_cycle)

    def _is_true(self, finding: Finding, actors: list[str]) -> bool:
        """Whether the oracle finds what a finding says."""
        if finding.kind in READINESS:
            return self.has_cycle or self._is_starving(finding, actors)
        match finding.kind:
            case "unknown field" if "bind(" in finding.message:
                return {(actors[0], own) for own in re.findall(r"bind\((\w+)=", finding.message)} <= (
                    self.bound_to_nothing
                )
            case "unknown field":
                return all((path, _name_in(finding)) in self.unknown for path in actors)
            case "unmatched target":
                return actors[0] in self.unmatched
            case "forbidden write":
                return tuple(actors) in self.forbidden
            case "clashing pairs":
                return frozenset(actors) in self.clashing
            case "cycle":
                return any(kind == "cycle" and set(actors) <= hooks for kind, hooks in self.plan.unordered)
            case "unordered writers":
                return self.has_cycle or (finding.kind, set(actors)) in self.plan.unordered
        return False

    def _is_starving(self, finding: Finding, actors: list[str]) -> bool:
        """Whether its readers find no value, each in some way to run, and whether that has the reason it gives."""
        name = _name_in(finding)
        writers = self.plan.writers(name)
        readers = [path for path in actors if (path, name) in self.starving]
        if actors[0] not in readers or not set(actors) <= writers.union(readers):
            return False
        moment = min(play.faults[actors[0], name] for play in self.starving[actors[0], name])
        match finding.kind:
            case "missing producer":
                return not writers or "nobody writes" in finding.message or "only it writes" in finding.message
            case "written sometimes":
                wrote = [{path for _, path, one in play.writes if one == name} for play in self.plays]
                return any(0 < sum(path in paths for paths in wrote) < len(wrote) for path in actors)
            case "read before write":
                writes = [write for play in self.plays for write in play.writes]
                return any(when > moment and path in actors and one == name for when, path, one in writes)
        return bool(writers)


def ways(plan: Plan) -> Iterator[frozenset[str]]:
    """What may run of all that runs only sometimes: any of it, where that is little.

    Else for each actor what it stands in and nothing else; that with any other place that opens a scope, in which a
    value may end; and all.
    """
    thinned = [actor for hung in plan.standing.values() for actor in hung if actor.hook and actor.hook.thin]
    switches = {spot.path for spot in plan.spots if spot.is_switched} | {actor.path for actor in thinned}
    if len(switches) <= 3:
        for size in range(len(switches) + 1):
            yield from map(frozenset, combinations(sorted(switches), size))
        return
    above = {spot: frozenset(one.path for one in spot.above if one.is_switched) for spot in plan.spots}
    needed = {*above.values(), *(above[actor.spot] | {actor.path} for actor in thinned)}
    ending = {above[spot] for spot in plan.spots if spot.node.each or spot.node.opens}
    ending.add(frozenset())
    yield from {one | other for one in needed for other in ending} | {frozenset(), frozenset(switches)}


def mended(program: Program, keep: int) -> Judged:
    """The program without its faults, `keep` of them excepted: changed in place, and judged."""
    kept: list[tuple[str, Any]] = []
    for _ in range(60):
        judged = Judged(program)
        faults = judged.all()
        kept += [fault for fault in faults if fault not in kept][: keep - len(kept)]
        left = [fault for fault in faults if fault not in kept]
        if not left:
            return judged
        for kind, fault in left:
            _mend(judged, kind, fault)
    raise AssertionError(f"cannot be mended: {left}")


def _mend(judged: Judged, kind: str, fault: Any) -> None:
    """Take out what makes a fault."""
    actors: dict[str, Any] = {actor.path: actor for actor in judged.plan.actors} | judged.unmatched
    spots = {spot.path: spot for spot in judged.plan.spots}
    match kind:
        case "unmatched":
            actors[fault].hook.target, actors[fault].hook.within = "/", None
        case "forbidden":
            spots[fault[1]].node.forbids = []
        case "clashing":
            actors[min(fault)].act.restores = []
        case "bind":
            (spots[fault[0]].node.names if fault[0] in spots else actors[fault[0]].names).pop(fault[1], None)
        case "order":
            for path in fault[1]:
                actors[path].hook.before, actors[path].hook.after, actors[path].act.writes = [], [], []
        case "unknown" | "starving":
            actor, name = actors[fault[0]], fault[1]
            _take_out(actor.act, lambda own: actor.name(own) == name or actor.name(own).partition(".")[0] == name)


def _take_out(act: Act, is_meant: Callable[[str], bool]) -> None:
    for how in ("reads", "writes", "touches", "restores"):
        setattr(act, how, [own for own in getattr(act, how) if not is_meant(own)])


def _name_in(finding: Finding) -> str:
    """The field or part that a finding is about."""
    found = re.search(r" (?:reads?|declares?|declare) '([^']+)'", finding.message)
    assert found, finding
    return found[1]
