"""Oracle: plays a program by hand over plain numbers: what each actor sees, who finds nothing, what moves, and when."""

from collections.abc import Collection, Iterator
from itertools import combinations
from typing import Any

from tests.integration.trees.plan import Actor, Plan, Spot, atoms, key_of
from tests.integration.trees.programs import (
    COMPONENTS,
    DEFAULT,
    FIELDS,
    POSITION,
    ROUNDS,
    TOTAL,
    Program,
)

SEEN = (*FIELDS, TOTAL, POSITION)
"""The fields that an observer looks at."""


class Play:
    """One run of a program by hand.

    Attributes:
        told: what the actors saw, in order.
        values: what State holds now.
        parts: the number in each part.
        faults: who reads what has no value, with the moment of it.
        writes: who wrote what, with the moment of it.
        violation: the first actor that changed what it may not, or did not give back, and what; None if there is none.
        ran: who worked, in order, and whether all loops round it were in their first three rounds then.
    """

    def __init__(
        self, plan: Plan, *, paths: Collection[str] | None = None, numbers: Collection[int] = (), broken: str = ""
    ) -> None:
        """Play `plan`.

        Args:
            paths: of what runs only sometimes, all that runs, at these paths; "every" and "first" count for nothing.
            numbers: without `paths`, the switches that are on.
            broken: the tag of an actor that does not give back what it restores, the first time it runs.
        """
        self.plan = plan
        self.paths, self.numbers, self.broken = paths, numbers, broken
        given = plan.program.given
        self.values: dict[str, Any] = {TOTAL: 0, "train_loader": None, **dict.fromkeys(given - {"a"})}
        if "a" in given:
            self.values["a"] = 7
        self.parts = dict.fromkeys(
            [atom for name in COMPONENTS for atom in (*atoms(name) - {name},)] + ["model.grads", "other.grads", "rng"], 0
        )
        self.boundary = dict(self.parts)
        self.told: list[Any] = []
        self.faults: dict[tuple[str, str], int] = {}
        self.writes: list[tuple[int, str, str]] = []
        self.violation: tuple[str, frozenset[str]] | None = None
        self.ran: list[tuple[str, str, bool]] = []
        self.count: dict[str, int] = {}
        self.turns: dict[str, int] = {}  # the rounds that we are in
        self.written = self.moment = 0
        self.not_given_back: tuple[str, frozenset[str]] = ("", frozenset())
        self.open: list[str] = []
        self.rounds: list[int] = []
        self.place(plan.root)

    def place(self, spot: Spot) -> None:
        """A place with its hooks and its scope."""
        opens = spot.node.opens if spot.kind == "stage" else None
        hidden = self.enter(opens)
        for hook in spot.hooks["before"]:
            self.hook(hook)
        entered = [(hook, self.begin(hook)) for hook in spot.hooks["around"] if self.is_wanted(hook)]
        if spot.kind == "stage":
            self.body(spot)
            self.prove(spot.actor)
        elif spot.kind == "inline":
            self.move(spot.actor, spot.actor.act.touches)
            self.settle(spot.actor)
        for hook, kept in reversed(entered):
            self.end(hook, kept)
        for hook in spot.hooks["after"]:
            self.hook(hook)
        self.leave(opens, hidden)

    def body(self, spot: Spot) -> None:
        """What the stage of a place does."""
        node, actor = spot.node, spot.actor
        match node.kind:
            case "leaf":
                self.read(actor)
                self.change(actor, "all")
            case "inline":
                self.read(actor, below=spot)
                kept = self.lend(actor)
                self.move(actor, actor.act.parts)
                self.write(actor, actor.act.fields)
                self.settle(actor)
                self.held(spot)
                self.take_back(actor, kept)
                self.settle(actor)
            case "chain":
                self.held(spot)
            case "repeat":
                for _ in range(2):
                    self.round(spot, ())
            case "when" | "every":
                if node.kind == "when":
                    self.read(actor)
                if self.runs(spot.path, node.number, node.kind):
                    self.held(spot)
            case _:
                self.own_code(spot)

    def own_code(self, spot: Spot) -> None:
        """A composite that does something itself: it writes first, and changes parts last."""
        node, actor = spot.node, spot.actor
        self.read(actor, below=spot)
        kept = self.lend(actor)
        self.move(actor, actor.act.touches)
        in_rounds = [name for name in actor.act.fields if node.each and self.scope(actor.name(name)) == node.each]
        self.write(actor, [name for name in actor.act.fields if name not in in_rounds])
        if not spot.is_switched or self.runs(spot.path, node.number, "when"):
            self.settle(actor)
            for _ in range(ROUNDS if node.kind == "loop" else 1):
                self.round(spot, in_rounds)
        self.move(actor, actor.act.parts)
        self.take_back(actor, kept)
        self.settle(actor)

    def round(self, spot: Spot, names: Collection[str]) -> None:
        """The stages that a place holds, in a round of its scope, if it has one."""
        hidden = self.enter(spot.node.each)
        turns, self.turns = self.turns, {**self.turns, spot.path: self.count.get(spot.path, 0) + 1}
        self.count[spot.path] = self.turns[spot.path]
        if spot.node.each == "batch":
            self.values[POSITION] = self.values[TOTAL]
            self.rounds.append(self.values[TOTAL] + 1)
        self.write(spot.actor, list(names))
        self.held(spot)
        if spot.node.each == "batch":
            self.values[TOTAL] += 1
        self.leave(spot.node.each, hidden)
        for held in spot.held:
            if held.kind == "checkpoint":
                self.place(held)
                self.rounds.pop()
        self.turns = turns

    def held(self, spot: Spot) -> None:
        for held in spot.held:
            if held.kind != "checkpoint":
                self.place(held)

    def hook(self, actor: Actor) -> None:
        """A hook before or after."""
        if not self.is_wanted(actor):
            return
        self.look(actor)
        self.read(actor)
        self.change(actor, "all")

    def begin(self, actor: Actor) -> dict[str, int]:
        """A hook around, up to its yield."""
        self.look(actor)
        self.read(actor)
        return self.change(actor, "enter")

    def look(self, actor: Actor) -> None:
        """What an observer looks at: everything, by its own names."""
        if actor.hook and actor.hook.observes:
            renamed = set(actor.names.values()) - actor.names.keys()
            names = {own: actor.name(own) for own in SEEN if own not in renamed}
            self.told.append((actor.tag, {own: self.values[name] for own, name in names.items() if name in self.values}))

    def end(self, actor: Actor, kept: dict[str, int]) -> None:
        """A hook around, from its yield on; what it got it may look at again."""
        told = len(self.told)
        self.read(actor)
        del self.told[told:]
        self.change(actor, "leave", kept)

    def change(
        self, actor: Actor, half: str, kept: dict[str, int] | None = None
    ) -> dict[str, int]:
        """What an actor changes, then the boundary: all of it, or one half of a hook around."""
        act = actor.act
        if half != "leave":
            kept = self.lend(actor)
            self.move(actor, act.touches)
        assert kept is not None
        if half != "enter":
            self.move(actor, act.parts)
            self.take_back(actor, kept)
            self.write(actor, act.fields)
            if actor.hook:
                self.prove(actor)
        self.settle(actor)
        return kept

    def read(self, actor: Actor, below: Spot | None = None) -> None:
        """Read all that an actor declares; what a composite reads may also come from `below` it."""
        self.moment += 1
        for own in (*actor.act.reads, *actor.act.parts):
            name, is_optional = actor.name(own), own.endswith("?")
            if key_of(name) not in self.plan.known or name == "rng":
                continue
            owner = name.partition(".")[0]
            missing = owner not in self.values and owner
            if name.endswith(".grads") and own in actor.act.reads and name not in self.values:
                missing = missing or name
            if missing and not is_optional and not (below and self.is_written_below(below, missing)):
                self.faults.setdefault((actor.path, missing), self.moment)
            if name == owner and owner not in COMPONENTS and (own in actor.act.reads) and not (below and missing):
                self.told.append((actor.tag, own, self.values.get(name)))

    def write(self, actor: Actor, names: list[str]) -> None:
        for own in names:
            self.written += 1
            self.moment += 1
            self.values[actor.name(own)] = self.written
            self.writes.append((self.moment, actor.path, actor.name(own)))

    def move(self, actor: Actor, names: list[str]) -> None:
        """Change parts in place."""
        for own in names:
            name = actor.name(own)
            if name != "rng" and name.partition(".")[0] not in self.values:
                continue
            for atom in atoms(name) & self.parts.keys():
                self.parts[atom] = 1 - self.parts[atom] if atom.endswith(".mode") else self.parts[atom] + 1
            if name.endswith(".grads") and own in actor.act.writes:
                self.moment += 1
                self.values[name] = True
                self.writes.append((self.moment, actor.path, name))

    def lend(self, actor: Actor) -> dict[str, int]:
        """Change what the actor gives back later; the answer is what there was."""
        names = actor.named(actor.act.restores)
        kept = {atom: self.parts[atom] for name in names for atom in atoms(name) & self.parts.keys()}
        self.move(actor, actor.act.restores)
        return {atom: number for atom, number in kept.items() if atom == "rng" or atom.split(".")[0] in self.values}

    def take_back(self, actor: Actor, kept: dict[str, int]) -> None:
        """Give back what was lent."""
        if actor.tag == self.broken:
            self.broken = ""
            self.not_given_back = (actor.path, frozenset(one for one in kept if kept[one] != self.parts[one]))
        else:
            self.parts.update(kept)

    def prove(self, actor: Actor) -> None:
        """What an actor lent is there again."""
        path, atoms = self.not_given_back
        if path == actor.path and atoms and self.violation is None:
            self.violation = self.not_given_back

    def settle(self, actor: Actor) -> None:
        """The boundary: what moved since the last one is this actor's doing."""
        self.ran.append((actor.tag, actor.path, max(self.turns.values(), default=1) <= 3))
        moved = {atom for atom, number in self.parts.items() if number != self.boundary[atom]}
        self.boundary = dict(self.parts)
        seen = {atom for atom in moved if atom == "rng" or atom.partition(".")[0] in self.plan.program.given}
        wrong = frozenset(seen - actor.may_change or seen & actor.spot.forbidden)
        if wrong and self.violation is None:
            self.violation = (actor.path, wrong)

    def enter(self, scope: str | None) -> dict[str, Any]:
        """Open a scope, empty but for defaults."""
        if scope is None:
            return {}
        hidden = self.take(scope)
        self.open.append(scope)
        if scope == self.plan.scopes[DEFAULT]:
            self.values[DEFAULT] = 0
        return hidden

    def leave(self, scope: str | None, hidden: dict[str, Any]) -> None:
        """Close a scope: its values end; those of one that was open before come back."""
        if scope is not None:
            self.take(scope)
            self.open.remove(scope)
            if scope in self.open:
                self.values.update(hidden)

    def take(self, scope: str) -> dict[str, Any]:
        names = [name for name in self.values if self.scope(name) == scope]
        return {name: self.values.pop(name) for name in names}

    def scope(self, name: str) -> str:
        return self.plan.scopes.get(name, "run")

    def is_written_below(self, spot: Spot, name: str) -> bool:
        below = {place.path for held in spot.held for place in held.walk()}
        return any(path.partition(":")[0] in below for path in self.plan.writers(name))

    def is_wanted(self, actor: Actor) -> bool:
        hook = actor.hook
        assert hook
        return not hook.thin or self.runs(actor.path, hook.number, hook.thin)

    def runs(self, path: str, number: int, how: str) -> bool:
        """Whether something runs that runs only sometimes."""
        if self.paths is not None:
            return path in self.paths
        round_number = self.rounds[-1] if self.rounds else self.values[TOTAL]
        if how in ("every", "first"):
            return round_number % 2 == 0 if how == "every" else round_number <= 1
        return number in self.numbers


def ways(plan: Plan) -> Iterator[frozenset[str]]:
    """What may run of all that runs only sometimes: any of it, where that is little.

    Else for each actor that it runs and nothing else; that with any other place that opens a scope, in which a value
    may end; and all.
    """
    thinned = [actor for hung in plan.standing.values() for actor in hung if actor.hook and actor.hook.thin]
    switches = {spot.path for spot in plan.spots if spot.is_switched} | {actor.path for actor in thinned}
    if len(switches) <= 4:
        for size in range(len(switches) + 1):
            yield from map(frozenset, combinations(sorted(switches), size))
        return
    above = {spot: frozenset(one.path for one in spot.above if one.is_switched) for spot in plan.spots}
    needed = {*above.values(), *(above[actor.spot] | {actor.path} for actor in thinned)}
    ending = {above[spot] for spot in plan.spots if spot.node.each or spot.node.opens}
    yield from {one | other for one in needed for other in ending | {frozenset()}} | {frozenset(), frozenset(switches)}


def switches(program: Program) -> list[int]:
    """The numbers of what a person switches on and off."""
    nodes = [node for node in program.tree.walk() if node.kind in ("sometimes", "when") or node.is_empty]
    hooks = [hook for callback in program.callbacks for hook in callback.hooks if hook.thin == "when"]
    return [one.number for one in (*nodes, *hooks)]
