"""Faults: everything that is wrong with a program, by the oracle; how to mend it; and whether findings tell the same."""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

from tests.integration.trees.oracle import Play, ways
from tests.integration.trees.plan import Actor, Plan, all_atoms, key_of
from tests.integration.trees.programs import Act, Program, acts_below

READINESS = ("read before write", "missing producer", "stale read", "written sometimes")
ORDER = ("cycle", "unordered writers")


class Judged:
    """A program with all its faults."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.plan = Plan(program)
        self.plays = [Play(self.plan, paths=paths) for paths in dict.fromkeys(ways(self.plan))]
        self.fullest = max(self.plays, key=lambda play: len(play.paths or ()))

    @cached_property
    def unknown(self) -> set[tuple[str, str]]:
        """Who declares a name that there is not: (actor path, name)."""
        plan = self.plan
        everyone = [(actor.path, actor.named([*actor.act.reads, *actor.act.changes])) for actor in plan.actors]
        for callback in self.program.callbacks:
            for hook in callback.hooks:
                if not plan.standing[hook.number]:
                    names = Actor("", "", hook.act, callback.names, plan.root).named(hook.act.reads + hook.act.writes)
                    own = [name for name in names if name not in callback.brings]
                    everyone.append((callback.name(hook), own))
        return {(path, name) for path, names in everyone for name in names if key_of(name) not in plan.known}

    @cached_property
    def unmatched(self) -> set[str]:
        """The hooks that stand nowhere."""
        pairs = [(callback, hook) for callback in self.program.callbacks for hook in callback.hooks]
        return {callback.name(hook) for callback, hook in pairs if not self.plan.standing[hook.number]}

    @cached_property
    def forbidden(self) -> set[tuple[str, str]]:
        """Who writes what is forbidden there: (actor path, path of the composite)."""
        inside = ((spot, held) for spot in self.plan.spots for below in spot.held for held in below.walk())
        return {
            (actor.path, spot.path)
            for spot, held in inside
            for actor in held.actors()
            if all_atoms(actor.named(actor.act.writes)) & spot.forbids
        }

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
    def brought_twice(self) -> set[str]:
        """The fields that several callbacks bring."""
        return {name for name, by in self.plan.brought.items() if len(by) > 1}

    @cached_property
    def bound_to_nothing(self) -> set[tuple[str, str]]:
        """The names bound that nobody there uses: (path of a place or hook, own name)."""
        found = set()
        for node in dict.fromkeys(self.program.tree.walk()):
            used = {owner for _, act in acts_below(node, {}) for owner in act.owners}
            path = next(spot.path for spot in self.plan.spots if spot.node is node)
            found |= {(path, own) for own in node.names if own not in used}
        for callback in self.program.callbacks:
            hung = [actor for actor in self.plan.actors if actor.callback is callback and not actor.hook.observes]
            used = {owner for actor in hung for owner in actor.act.owners} | callback.brings.keys()
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
        return any(kind == "cycle" for kind, _ in self.plan.unordered)

    def all(self) -> list[tuple[str, Any]]:
        """Every fault, by its kind."""
        listed = [("unknown", self.unknown), ("unmatched", self.unmatched), ("forbidden", self.forbidden)]
        listed += [("clashing", self.clashing), ("brought", self.brought_twice), ("bind", self.bound_to_nothing)]
        found = [(kind, one) for kind, faults in listed for one in sorted(faults, key=str)]
        return found + [("order", one) for one in self.plan.unordered] + [("starving", one) for one in self.starving]

    def assert_told_by(self, findings: Sequence[Any]) -> None:
        """Each fault is a finding, and each finding such a fault."""
        for finding in findings:
            assert finding.actors and finding.message.isascii()
            assert self._is_true(finding), (finding, self.all())
        told = [(finding.kind, set(finding.actors), finding.message) for finding in findings]

        def is_told(kinds: Sequence[str], actors: set[str], *words: str) -> bool:
            return any(
                kind in kinds and actors <= those and all(word in message for word in words)
                for kind, those, message in told
            )

        for path, name in self.unknown:
            assert is_told(["unknown field"], {path}, repr(name)), (path, name)
        for hook in self.unmatched:
            assert is_told(["unmatched target"], {hook}), hook
        for path, place in self.forbidden:
            assert is_told(["forbidden write"], {path, place}), (path, place)
        for pair in self.clashing:
            assert is_told(["clashing pairs"], set(pair)), pair
        for name in self.brought_twice:
            assert is_told(["schema conflict"], set(), name), name
        for path, own in self.bound_to_nothing:
            assert is_told(["unknown field"], {path}, f"bind({own}="), (path, own)
        for kind, hooks in self.plan.unordered:
            assert any(one == kind and those <= hooks for one, those, _ in told), (kind, hooks)
        for path, name in () if self.has_cycle else self.starving:
            assert is_told(READINESS, {path}, repr(name)), (path, name)

    def _is_true(self, finding: Any) -> bool:
        """Whether the oracle finds what a finding says."""
        actors = list(finding.actors)
        if finding.kind in READINESS:
            return self.has_cycle or self._is_starving(finding, actors)
        match finding.kind:
            case "unknown field":
                return {(actors[0], own) for own in re.findall(r"bind\((\w+)=", finding.message)} <= (
                    self.bound_to_nothing
                ) and ("bind(" in finding.message or all((path, _name_in(finding)) in self.unknown for path in actors))
            case "unmatched target":
                return actors[0] in self.unmatched
            case "forbidden write":
                return tuple(actors) in self.forbidden
            case "clashing pairs":
                return frozenset(actors) in self.clashing
            case "schema conflict":
                return any(repr(name) in finding.message for name in self.brought_twice)
            case "cycle":
                return any(kind == "cycle" and set(actors) <= hooks for kind, hooks in self.plan.unordered)
            case "unordered writers":
                point = actors[0].rpartition(":")[0] + ":"
                cycles = [hooks for kind, hooks in self.plan.unordered if kind == "cycle"]
                is_by_cycle = any(hook.startswith(point) for hooks in cycles for hook in hooks)
                return is_by_cycle or (finding.kind, set(actors)) in self.plan.unordered
        return False

    def _is_starving(self, finding: Any, actors: list[str]) -> bool:
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
                later = [path for play in self.plays for when, path, one in play.writes if one == name and when > moment]
                return bool(set(later) & set(actors))
        return bool(writers)


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
    plan, program = judged.plan, judged.program
    by_path = {actor.path: actor for actor in plan.actors}
    hooks = {callback.name(hook): hook for callback in program.callbacks for hook in callback.hooks}
    match kind:
        case "unknown":
            path, name = fault
            if path in by_path:
                _drop(by_path[path], lambda one: one == name)
            else:
                hooks[path].target, hooks[path].within = "/", None
        case "unmatched":
            hooks[fault].target, hooks[fault].within = "/", None
        case "forbidden":
            next(spot for spot in plan.spots if spot.path == fault[1]).node.forbids = []
        case "clashing":
            by_path[sorted(fault)[0]].act.restores = []
        case "brought":
            for callback in [one for one in program.callbacks if fault in one.brings][1:]:
                callback.brings = {}
                for hook in callback.hooks:
                    _take_out(hook.act, lambda own: own.rstrip("?") == fault)
        case "bind":
            spot = next((spot for spot in plan.spots if spot.path == fault[0]), None)
            (spot.node.names if spot else by_path[fault[0]].names).pop(fault[1], None)
        case "order":
            for actor in [by_path[path] for path in sorted(fault[1])]:
                actor.hook.before, actor.hook.after, actor.act.writes = [], [], []
        case "starving":
            path, name = fault
            is_plain = name in plan.scopes and plan.scopes[name] != "run" and len(path) % 2
            if is_plain and "." not in name:
                act = by_path[path].act
                act.reads = [own + "?" * (by_path[path].name(own) == name and own[-1] != "?") for own in act.reads]
            else:
                _drop(by_path[path], lambda one: one == name or one.partition(".")[0] == name)


def _drop(actor: Actor, is_meant: Any) -> None:
    """Take names, as State calls them, out of a declaration."""
    _take_out(actor.act, lambda own: is_meant(actor.name(own)))


def _take_out(act: Act, is_meant: Any) -> None:
    for which in ("reads", "writes", "touches", "restores"):
        setattr(act, which, [own for own in getattr(act, which) if not is_meant(own)])


def _name_in(finding: Any) -> str:
    """The field or part that a finding is about."""
    found = re.search(r" (?:reads?|declares?|declare) '([^']+)'", finding.message)
    assert found, finding
    return found[1]


