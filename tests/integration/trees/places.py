"""Places: what names stand for, where stages and hooks stand, and who stands there, in State's names."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain

from tests.integration.trees.programs import BELOW, COMPONENTS, Act, Callback, Hook, Node


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
        return ALL_PARTS if self.is_unsafe else declared

    @property
    def is_unsafe(self) -> bool:
        """Whether it may change everything: it says so, or something that it is inside of, unless it only observes."""
        return self.act.unsafe or (not self.observes and any(spot.node.act.unsafe for spot in self.spot.above))


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
