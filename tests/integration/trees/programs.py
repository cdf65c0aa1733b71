"""Programs: random trees of stages with hooks, as plain data. `building` makes stages of them, `oracle` plays them.

Every actor is an `Act`: what it declares is what it does. It reads each of its fields, changes each of its parts for
real, and writes a new number to each of its fields.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

FIELDS = {"a": "run", "b": "epoch", "c": "batch", "d": "batch", "e": "mine", "u": "update"}
"""The fields that actors write, with their scopes. All are whole numbers."""

DEFAULT = "c"
"""The one of them that has a default: 0."""

TOTAL, POSITION = "batches_seen", "batch_index"
"""What a loop of batches counts, over the run and in the scope of the batch."""

COMPONENTS = {
    "model": ("params", "grads", "buffers", "mode"),
    "other": ("params", "grads", "buffers", "mode"),
    "optimizer": ("state", "hyper"),
    "tally": ("state",),
}
BELOW = {"params": ("weight", "bias"), "hyper": ("lr", "weight_decay")}
"""What has names below a part."""

ROUNDS = 2
"""How often a loop of a program turns."""


@dataclass(eq=False)
class Act:
    """What one actor declares and does, by its own names.

    Attributes:
        reads: fields, parts and components; "a?" is optional.
        writes: fields and parts.
        form: "view" (it takes `state`) or "values" (it takes fields and returns them).
        unsafe: it says so, and then does not declare what it touches.
    """

    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    touches: list[str] = field(default_factory=list)
    restores: list[str] = field(default_factory=list)
    form: str = "view"
    unsafe: bool = False

    @property
    def changes(self) -> list[str]:
        """What it changes."""
        return [*self.writes, *self.touches, *self.restores]

    @property
    def declared(self) -> dict[str, tuple[str, ...]]:
        """The names that it declares, by what it declares them as."""
        touches = [] if self.unsafe else self.touches
        pairs = {"reads": self.reads, "writes": self.writes, "touches": touches, "restores": self.restores}
        return {how: tuple(names) for how, names in pairs.items()}

    @property
    def names(self) -> list[str]:
        """All of these names."""
        return [name for names in self.declared.values() for name in names]

    @property
    def owners(self) -> list[str]:
        """The fields and components that it declares."""
        return list(dict.fromkeys(name.rstrip("?").partition(".")[0] for name in self.names))

    @property
    def fields(self) -> list[str]:
        """The fields that it writes."""
        return [name for name in self.writes if name in FIELDS]

    @property
    def parts(self) -> list[str]:
        """The parts that it writes."""
        return [name for name in self.writes if name not in FIELDS]


@dataclass(eq=False)
class Node:
    """A stage: "leaf", or a composite.

    Attributes:
        number: its name in what actors tell; the switch of one that runs only sometimes.
        kind: "leaf", "own" (runs its stages once), "loop", "sometimes", or "chain", "when", "every", "repeat" of stock.
        is_empty: of a loop: whether it may turn not even once.
        names: what `bind` gives it, and of a composite all below it: own name -> State's.
    """

    number: int
    kind: str
    act: Act = field(default_factory=Act)
    held: "dict[str, Node]" = field(default_factory=dict)
    each: str | None = None
    is_empty: bool = False
    opens: str | None = None
    forbids: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def walk(self) -> "Iterator[Node]":
        """It and all below it; a node that fills several slots comes several times."""
        yield self
        for one in self.held.values():
            yield from one.walk()

    def acts(self, names: dict[str, str]) -> Iterator[tuple[dict[str, str], Act]]:
        """The actors in it, each with what is bound for it inside."""
        names = {**names, **self.names}
        yield names, self.act
        for one in self.held.values():
            yield from one.acts(names)


@dataclass(eq=False)
class Hook:
    """A hook. `thin` is "", or how it is thinned out: "when", "every" or "first"."""

    number: int
    side: str
    target: str
    act: Act
    within: str | None = None
    thin: str = ""
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def observes(self) -> bool:
        """Whether it declares nothing."""
        return self.act.form == "view" and not self.act.unsafe and not self.act.names


@dataclass(eq=False)
class Callback:
    """Hooks under one name."""

    number: int
    hooks: list[Hook]
    names: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What its class is called."""
        return f"C{self.number}"

    def name(self, hook: Hook) -> str:
        """What a hook of it is called."""
        return f"{self.title}.h{hook.number}"


@dataclass(eq=False)
class Program:
    """A tree, callbacks (a list of several is a tuple, which declares an order), and the names that State is given."""

    tree: Node
    groups: list[list[Callback]]
    given: set[str]

    @property
    def hooks(self) -> list[tuple[Callback, Hook]]:
        """All hooks in the order of registration, each with its callback."""
        return [(callback, hook) for group in self.groups for callback in group for hook in callback.hooks]

    @property
    def switches(self) -> list[int]:
        """The numbers of what a person switches on and off."""
        nodes = [node for node in self.tree.walk() if node.kind in ("sometimes", "when") or node.is_empty]
        return [node.number for node in nodes] + [hook.number for _, hook in self.hooks if hook.thin == "when"]
