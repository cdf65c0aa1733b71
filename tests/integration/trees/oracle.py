"""Oracle: plays a program by hand over plain numbers: what each actor sees, who finds nothing, what moves, and when."""

from collections.abc import Collection, Iterable
from typing import Any

from tests.integration.trees.places import ALL_PARTS, Actor, Spot, atoms, key_of
from tests.integration.trees.plan import Plan
from tests.integration.trees.programs import DEFAULT, FIELDS, POSITION, ROUNDS, TOTAL

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
        worked: the tags of who worked, each with its path then, and whether all loops round it were in an early round.
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
        self.plan, self.paths, self.numbers, self.broken = plan, paths, numbers, broken
        given = dict.fromkeys(plan.program.given)
        self.values: dict[str, Any] = {TOTAL: 0, "train_loader": None, **given, **({"a": 7} if "a" in given else {})}
        self.parts = dict.fromkeys(ALL_PARTS, 0)
        self.settled = dict(self.parts)
        self.told: list[Any] = []
        self.faults: dict[tuple[str, str], int] = {}
        self.writes: list[tuple[int, str, str]] = []
        self.violation: tuple[str, frozenset[str]] | None = None
        self.kept_back: tuple[str, frozenset[str]] = ("", frozenset())
        self.worked: dict[str, tuple[str, bool]] = {}
        self.rounds_done: dict[str, int] = {}
        self.rounds: list[int] = []  # the number in the run of each round of a loop that we are in
        self.batches: list[int] = []  # the same of those that are batches
        self.written = self.moment = 0
        self.open: list[str] = []
        self.place(plan.root)

    def place(self, spot: Spot) -> None:
        """A place with its hooks and its scope."""
        opens = spot.node.opens if spot.is_stage else None
        hidden = self.enter(opens)
        for hook in filter(self.is_wanted, spot.hooks["before"]):
            self.work(hook)
        entered = [(hook, self.begin(hook)) for hook in filter(self.is_wanted, spot.hooks["around"])]
        if spot.is_stage:
            self.body(spot)
            self.prove(spot.actor)
        for hook, kept in reversed(entered):
            self.finish(hook, kept)
            self.prove(hook)
        for hook in filter(self.is_wanted, spot.hooks["after"]):
            self.work(hook)
        self.leave(opens, hidden)

    def body(self, spot: Spot) -> None:
        """What the stage of a place does."""
        node = spot.node
        match node.kind:
            case "leaf":
                self.work(spot.actor)
            case "chain":
                self.held(spot)
            case "repeat":
                for _ in range(2):
                    self.round(spot, ())
            case "when" | "every":
                self.read(spot.actor)
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
        each = spot.node.each
        hidden = self.enter(each)
        self.rounds_done[spot.path] = self.rounds_done.get(spot.path, 0) + 1
        self.rounds += [self.rounds_done[spot.path]] if each else []
        if each == "batch":
            self.values[POSITION] = self.values[TOTAL]
            self.batches.append(self.values[TOTAL] + 1)
        self.write(spot.actor, names)
        self.held(spot)
        if each == "batch":
            self.values[TOTAL] += 1
        self.leave(each, hidden)
        if each == "batch":
            for held in spot.held:
                if not held.is_stage:  # the point at the end of the round
                    self.place(held)
            self.batches.pop()
        del self.rounds[-1 if each else len(self.rounds) :]

    def held(self, spot: Spot) -> None:
        """The stages that a place holds, in order."""
        for held in spot.held:
            if held.is_stage:
                self.place(held)

    def work(self, actor: Actor) -> None:
        """A leaf, or a hook before or after."""
        self.finish(actor, self.begin(actor), at_once=True)

    def begin(self, actor: Actor) -> dict[str, int]:
        """The first half of what an actor does; of a hook around that up to its yield. The answer is what it lent."""
        if actor.hook and actor.hook.observes:
            renamed = set(actor.names.values()) - actor.names.keys()
            names = {own: actor.name(own) for own in SEEN if own not in renamed}
            seen = {own: self.values[name] for own, name in names.items() if name in self.values}
            self.told.append((actor.tag, seen))
        self.read(actor)
        kept = self.lend(actor)
        self.move(actor, actor.act.touches)
        if actor.hook and actor.hook.side == "around":
            self.settle(actor)
        return kept

    def finish(self, actor: Actor, kept: dict[str, int], *, at_once: bool = False) -> None:
        """The other half."""
        if not at_once:  # it may use again what it was given
            told = len(self.told)
            self.read(actor)
            del self.told[told:]
        self.move(actor, actor.act.parts)
        self.take_back(actor, kept)
        self.write(actor, actor.act.fields)
        self.settle(actor)

    def read(self, actor: Actor, below: Spot | None = None) -> None:
        """Read all that an actor declares; what a composite reads may also come from `below` it."""
        self.moment += 1
        for own in (*actor.act.reads, *actor.act.parts):
            name, is_asked = actor.name(own), own in actor.act.reads
            owner = name.partition(".")[0]
            if key_of(name) not in self.plan.known:
                continue
            missing = owner if owner not in self.values else ""
            if name.endswith(".grads") and is_asked and name not in self.values:
                missing = missing or name
            is_found_below = bool(missing and below and self.is_written_below(below, missing))
            if missing and not own.endswith("?") and not is_found_below:
                self.faults.setdefault((actor.path, missing), self.moment)
            if name in SEEN and is_asked and not (below and missing):
                self.told.append((actor.tag, own, self.values.get(name)))

    def write(self, actor: Actor, names: Iterable[str]) -> None:
        """Write a new number to each of these fields."""
        for own in names:
            self.written += 1
            self.moment += 1
            self.values[actor.name(own)] = self.written
            self.writes.append((self.moment, actor.path, actor.name(own)))

    def move(self, actor: Actor, names: Iterable[str]) -> None:
        """Change parts in place, where there is the component: the number in each is one more."""
        for own in names:
            name = actor.name(own)
            if name != "rng" and name.partition(".")[0] not in self.values:
                continue
            for atom in atoms(name) & ALL_PARTS:
                self.parts[atom] = (self.parts[atom] + 1) % (2 if atom.endswith(".mode") else 1 << 30)
            if name.endswith(".grads") and own in actor.act.writes:
                self.moment += 1
                self.values[name] = True
                self.writes.append((self.moment, actor.path, name))

    def lend(self, actor: Actor) -> dict[str, int]:
        """Change what the actor gives back later; the answer is what there was."""
        there = [name for name in actor.named(actor.act.restores) if name == "rng" or name.split(".")[0] in self.values]
        kept = {atom: self.parts[atom] for name in there for atom in atoms(name) & ALL_PARTS}
        self.move(actor, actor.act.restores)
        return kept

    def take_back(self, actor: Actor, kept: dict[str, int]) -> None:
        """Give back what was lent."""
        if actor.tag == self.broken:
            self.broken = ""
            self.kept_back = (actor.path, frozenset(one for one in kept if kept[one] != self.parts[one]))
        else:
            self.parts.update(kept)

    def prove(self, actor: Actor) -> None:
        """What an actor lent is there again."""
        path, missing = self.kept_back
        if path == actor.path and missing and self.violation is None:
            self.violation = self.kept_back

    def settle(self, actor: Actor) -> None:
        """The boundary: what moved since the last one is this actor's doing."""
        self.worked.setdefault(actor.tag, (actor.path, max(self.rounds, default=1) <= 3))
        moved = {atom for atom, number in self.parts.items() if number != self.settled[atom]}
        self.settled = dict(self.parts)
        seen = {atom for atom in moved if atom == "rng" or atom.partition(".")[0] in self.plan.program.given}
        wrong = frozenset(seen - actor.may_change)
        if wrong and self.violation is None:
            self.violation = (actor.path, wrong)

    def enter(self, scope: str | None) -> dict[str, Any]:
        """Open a scope, empty but for defaults; the answer is what it hides."""
        if scope is None:
            return {}
        hidden = self.take(scope)
        self.open.append(scope)
        if scope == self.scope(DEFAULT):
            self.values[DEFAULT] = 0
        return hidden

    def leave(self, scope: str | None, hidden: dict[str, Any]) -> None:
        """Close a scope: its values end; those of one that was open before come back."""
        if scope is not None:
            self.take(scope)
            self.open.remove(scope)
            self.values.update(hidden if scope in self.open else {})

    def take(self, scope: str) -> dict[str, Any]:
        """Take the values of a scope out."""
        names = [name for name in self.values if self.scope(name) == scope]
        return {name: self.values.pop(name) for name in names}

    def scope(self, name: str) -> str:
        """The scope of a name."""
        return self.plan.scopes.get(name, "run")

    def is_written_below(self, spot: Spot, name: str) -> bool:
        """Whether somebody at a place below this one writes it."""
        below = {place.path for held in spot.held for place in held.walk()}
        return any(path.partition(":")[0] in below for path in self.plan.writers(name))

    def is_wanted(self, actor: Actor) -> bool:
        """Whether a hook runs now."""
        assert actor.hook
        return not actor.hook.thin or self.runs(actor.path, actor.hook.number, actor.hook.thin)

    def runs(self, path: str, number: int, how: str) -> bool:
        """Whether something runs that runs only sometimes."""
        if self.paths is not None:
            return path in self.paths
        if how not in ("every", "first"):
            return number in self.numbers
        batches = self.batches[-1] if self.batches else self.values[TOTAL]
        return batches % 2 == 0 if how == "every" else batches <= 1
