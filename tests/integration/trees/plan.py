"""Plan: the places of a program, who stands at each, in State's names. Knows nothing of how the library does it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain, combinations, permutations

from tests.integration.trees.programs import (
    BELOW,
    COMPONENTS,
    FIELDS,
    POSITION,
    TOTAL,
    Act,
    Callback,
    Hook,
    Node,
    Program,
)


@cache
def atoms(name: str) -> frozenset[str]:
    """What a name stands for, down to what changes alone. Gradients are no part of a module that is only named."""
    words = name.split(".")
    if len(words) == 1 and name in COMPONENTS:
        parts = (f"{name}.{part}" for part in COMPONENTS[name] if part != "grads")
        return frozenset({name}.union(*map(atoms, parts)))
    below = BELOW.get(words[1], ()) if len(words) == 2 else ()
    return frozenset(f"{name}.{each}" for each in below) or frozenset({name})


def all_atoms(names: Iterable[str]) -> frozenset[str]:
    """What several names stand for."""
    return frozenset(chain.from_iterable(map(atoms, names)))


ALL_PARTS = all_atoms(f"{owner}.{part}" for owner, parts in COMPONENTS.items() for part in parts) | {"rng"}
"""Everything that can change in place."""


def key_of(name: str) -> str:
    """A field, or a part, of a name that may be below a part."""
    return ".".join(name.split(".")[:2])


@dataclass(eq=False)
class Actor:
    """A stage or hook at its place. `names` is what bind gives it."""

    path: str
    tag: str
    act: Act
    names: dict[str, str]
    spot: "Spot"
    hook: Hook | None = None
    callback: Callback | None = None
    rank: int = 0

    def named(self, own: list[str]) -> list[str]:
        """State's names for names of its own, without the question mark."""
        return [self.name(one) for one in own]

    def name(self, own: str) -> str:
        """State's name for one of its own."""
        owner, dot, rest = own.rstrip("?").partition(".")
        return self.names.get(owner, owner) + dot + rest

    @property
    def observes(self) -> bool:
        """Whether it is a hook that declares nothing."""
        return self.hook is not None and self.hook.observes

    @cached_property
    def may_change(self) -> frozenset[str]:
        """The parts that it may change."""
        declared = all_atoms(self.named(self.act.changes)) - self.spot.forbidden
        return ALL_PARTS if self.act.unsafe else declared


@dataclass(eq=False)
class Spot:
    """One place of the tree: of a stage, or the point at the end of a round, which is none."""

    path: str
    node: Node
    is_stage: bool
    parent: "Spot | None"
    names: dict[str, str]
    held: "list[Spot]" = field(default_factory=list)
    hooks: dict[str, list[Actor]] = field(default_factory=lambda: {"before": [], "around": [], "after": []})

    def __post_init__(self) -> None:
        self.actor = Actor(self.path, f"n{self.node.number}", self.node.act, self.names, self)

    @property
    def above(self) -> "list[Spot]":
        """Where it is inside, the innermost first."""
        return [] if self.parent is None else [self.parent, *self.parent.above]

    @cached_property
    def forbidden(self) -> frozenset[str]:
        """What those forbid that it is inside of."""
        return frozenset().union(*(spot.forbids for spot in self.above))

    @property
    def forbids(self) -> frozenset[str]:
        """What it forbids inside of it."""
        return all_atoms(self.actor.named(self.node.forbids)) if self.is_stage else frozenset()

    @property
    def is_switched(self) -> bool:
        """Whether what stands in it runs only sometimes."""
        node = self.node
        return self.is_stage and (node.kind in ("sometimes", "when", "every") or node.is_empty)

    def walk(self) -> "Iterator[Spot]":
        """It and all below it, in the order they run."""
        yield self
        for one in self.held:
            yield from one.walk()

    def actors(self) -> Iterator[Actor]:
        """Who stands here."""
        yield from self.hooks["before"]
        yield from self.hooks["around"]
        if self.is_stage:
            yield self.actor
        yield from self.hooks["after"]


class Plan:
    """All places of a program with their hooks in order.

    Attributes:
        unordered: (kind, paths of the hooks at one point that have no order).
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.root = _laid_out(program.tree, "top", None)
        self.spots = list(self.root.walk())
        self.unordered: list[tuple[str, set[str]]] = []
        self._orders: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        self.standing: dict[int, list[Actor]] = {}
        for rank, (callback, hook) in enumerate(program.hooks):
            self.standing[hook.number] = [
                self._hang(spot, callback, hook, rank) for spot in self.spots if _matches(spot, hook)
            ]
        for spot in self.spots:
            for side, hung in spot.hooks.items():
                spot.hooks[side] = self._ordered(hung)

    @cached_property
    def actors(self) -> list[Actor]:
        """Everyone, in the order they stand."""
        return [actor for spot in self.spots for actor in spot.actors()]

    @cached_property
    def known(self) -> frozenset[str]:
        """All names that can be declared, without what is below parts."""
        parts = {f"{owner}.{part}" for owner, parts in COMPONENTS.items() for part in parts}
        return frozenset({*FIELDS, *COMPONENTS, *parts, TOTAL, POSITION, "rng", "train_loader"})

    @cached_property
    def scopes(self) -> dict[str, str]:
        """The scope of each name that a value can be missing of."""
        opened = {scope for spot in self.spots for scope in (spot.node.each, spot.node.opens)}
        of_updates = "update" if "update" in opened else "batch"
        return {
            **FIELDS,
            "u": of_updates,
            **dict.fromkeys(COMPONENTS, "run"),
            **{TOTAL: "run", POSITION: "batch", "model.grads": of_updates, "other.grads": of_updates},
        }

    def writers(self, name: str) -> set[str]:
        """The paths of those who write a field or gradients."""
        return {actor.path for actor in self.actors if name in map(key_of, actor.named(actor.act.writes))}

    def _hang(self, spot: Spot, callback: Callback, hook: Hook, rank: int) -> Actor:
        path = f"{spot.path}:{hook.side}:{callback.name(hook)}"
        actor = Actor(path, f"h{hook.number}", hook.act, callback.names, spot, hook, callback, rank)
        spot.hooks[hook.side].append(actor)
        return actor

    def _ordered(self, hung: list[Actor]) -> list[Actor]:
        """The first order, by registration, that keeps all that is declared; observers last."""
        acting = [actor for actor in hung if not actor.observes]
        key = tuple(actor.rank for actor in acting)
        if key not in self._orders:
            self._orders[key] = _sound_orders(acting, self.program)
        sound = self._orders[key]
        if not sound:
            self.unordered.append(("cycle", {actor.path for actor in acting}))
            return hung
        for i, j in combinations(range(len(acting)), 2):
            if overlap(acting[i], acting[j]) and len({order.index(i) < order.index(j) for order in sound}) == 2:
                self.unordered.append(("unordered writers", {acting[i].path, acting[j].path}))
        return [acting[i] for i in sound[0]] + [actor for actor in hung if actor not in acting]


def _sound_orders(acting: list[Actor], program: Program) -> list[tuple[int, ...]]:
    """All orders that keep what is declared and, where nothing is, put writers before readers."""
    wanted = _declared(acting, program)
    known = closure(wanted)
    wanted |= {(i, j) for i, j in _by_access(acting) if (i, j) not in known and (j, i) not in known}
    orders = permutations(range(len(acting)))
    return [order for order in orders if all(order.index(i) < order.index(j) for i, j in wanted)]


def closure(pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """What follows from these orders."""
    found = set(pairs)
    while more := {(i, k) for i, j in found for other, k in found if j == other} - found:
        found |= more
    return found


def overlap(one: Actor, other: Actor) -> frozenset[str]:
    """What both write."""
    return all_atoms(one.named(one.act.writes)) & all_atoms(other.named(other.act.writes))


def _declared(acting: list[Actor], program: Program) -> set[tuple[int, int]]:
    groups = {callback.number: group for group in program.groups for callback in group}
    found = set()
    for i, first in enumerate(acting):
        for j, second in enumerate(acting):
            one, other = first.callback, second.callback
            assert one and other and first.hook and second.hook
            if one is not other:
                if groups[one.number] is groups[other.number] and first.rank < second.rank:
                    found.add((i, j))
                if {other.title, other.name(second.hook)} & set(first.hook.before):
                    found.add((i, j))
                if {one.title, one.name(first.hook)} & set(second.hook.after):
                    found.add((i, j))
            elif first.rank < second.rank:
                found.add((i, j))
    return found


def _by_access(acting: list[Actor]) -> Iterator[tuple[int, int]]:
    """A writer before each that reads and does not write the same."""
    for i, first in enumerate(acting):
        for j, second in enumerate(acting):
            own = all_atoms(second.named(second.act.writes))
            for name in first.named(first.act.writes):
                read = all_atoms(second.named(second.act.reads))
                if i != j and atoms(name) & read and not atoms(name) & own:
                    yield i, j


def _laid_out(node: Node, path: str, parent: Spot | None) -> Spot:
    names = {**(parent.names if parent else {}), **node.names}
    spot = Spot(path, node, True, parent, names)
    spot.held = [_laid_out(held, f"{path}/{slot}", spot) for slot, held in node.held.items()]
    if node.each == "batch":
        spot.held.append(Spot(f"{path}/checkpoint", node, False, spot, names))
    return spot


def _matches(spot: Spot, hook: Hook) -> bool:
    if hook.within and not any(_ends(one.path, hook.within) for one in (spot, *spot.above)):
        return False
    return spot.parent is None if hook.target == "/" else hook.target == "*" or _ends(spot.path, hook.target)


def _ends(path: str, target: str) -> bool:
    words = target.split("/")
    return path.split("/")[-len(words) :] == words
