"""Programs: random trees of stages with hooks, as plain data. `building` makes stages of them, `oracle` plays them.

Every actor is an `Act`: what it declares is what it does. It reads each of its fields, changes each of its parts for
real, and writes a new number to each of its fields.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

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
PARTS = (
    "model.params",
    "model.params.weight",
    "model.params.bias",
    "model.buffers",
    "model.mode",
    "optimizer.hyper",
    "optimizer.hyper.lr",
    "optimizer.state",
    "tally.state",
    "rng",
)
GRADS = "model.grads"
ROUNDS = 2
"""How often a loop of a program turns."""

COMPOSITES = ("chain", "own", "loop", "sometimes", "when", "every", "repeat")


@dataclass(eq=False)
class Act:
    """What one actor declares and does, by its own names.

    Attributes:
        reads: fields, parts and components; "a?" is optional.
        writes: fields and parts.
        form: "view" (it takes `state`) or "values" (it takes fields and returns them).
    """

    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    touches: list[str] = field(default_factory=list)
    restores: list[str] = field(default_factory=list)
    form: str = "view"

    @property
    def changes(self) -> list[str]:
        """What it may change."""
        return [*self.writes, *self.touches, *self.restores]

    @property
    def owners(self) -> list[str]:
        """The fields and components that it names."""
        return list(dict.fromkeys(name.rstrip("?").partition(".")[0] for name in (*self.reads, *self.changes)))

    @property
    def fields(self) -> list[str]:
        """The fields that it writes."""
        return [name for name in self.writes if "." not in name and name != "rng"]

    @property
    def parts(self) -> list[str]:
        """The parts that it writes."""
        return [name for name in self.writes if name not in self.fields]

    @property
    def declares(self) -> bool:
        return bool(self.reads or self.changes)


@dataclass(eq=False)
class Node:
    """A stage: "leaf", "inline" (a leaf with an inline stage), or one of COMPOSITES.

    Attributes:
        number: its name in what actors tell; the switch of one that runs only sometimes.
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

    @property
    def is_leaf(self) -> bool:
        return self.kind in ("leaf", "inline")

    def walk(self) -> "Iterator[Node]":
        yield self
        for one in self.held.values():
            yield from one.walk()


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
        return self.act.form == "view" and not self.act.declares


@dataclass(eq=False)
class Callback:
    """Hooks under one name, with the fields that they bring: name -> type. `is_function`: hooked by a decorator."""

    number: int
    hooks: list[Hook]
    names: dict[str, str] = field(default_factory=dict)
    brings: dict[str, type] = field(default_factory=dict)
    is_function: bool = False

    @property
    def title(self) -> str:
        return f"C{self.number}"

    def name(self, hook: Hook) -> str:
        """What a hook of it is called."""
        return self.title if self.is_function else f"{self.title}.h{hook.number}"


@dataclass(eq=False)
class Program:
    """A tree, callbacks (a list of several is a tuple, which declares an order), and the names that State is given."""

    tree: Node
    groups: list[list[Callback]]
    given: set[str]

    @property
    def callbacks(self) -> list[Callback]:
        return [one for group in self.groups for one in group]


def programs() -> st.SearchStrategy[Program]:
    """Whole programs: each is what the bytes choose, one byte a choice, and zeros choose the simplest."""
    return st.binary(min_size=400, max_size=400).map(lambda data: Choices(data).program())


class Choices:
    """Makes a program out of bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = iter(data)
        self.numbers = iter(range(1000))

    def pick(self, *options: Any) -> Any:
        """One of these."""
        return options[next(self.data, 0) % len(options)]

    def mostly(self, *options: Any) -> Any:
        """The first of these, or now and then another one."""
        chosen = next(self.data, 0) % (3 * len(options)) - 2 * len(options)
        return options[max(chosen, 0)]

    def some(self, most: int, names: Sequence[str]) -> list[str]:
        """Up to so many of these."""
        count = next(self.data, 0) % (most + 1)
        return list({name.rstrip("?"): name for name in [self.pick(*names) for _ in range(count)]}.values())

    def program(self) -> Program:
        """A whole program."""
        pool = [self.leaf() for _ in range(self.pick(0, 1))]  # may fill several slots
        tree = self.composite(pool, 0)
        sizes = self.pick([], [1], [1], [2], [1, 1], [2, 1], [1, 1, 1], [3])
        numbers = iter(range(sum(sizes)))
        groups = [[self.callback(next(numbers)) for _ in range(size)] for size in sizes]
        given = self.pick({"a", "other"}, {"a", "other"}, {"a", "other"}, {"a"}, {"other"}, set())
        return Program(tree, groups, given | {"model", "optimizer", "tally"})

    def act(self, form: str = "", reads: int = 2, *, may_restore: bool = True) -> Act:
        """What one actor declares; what it gives back it does not change for good."""
        act = Act(self.some(reads, READ), self.some(2, WRITTEN), self.some(self.mostly(0, 2), (*PARTS, GRADS)))
        act.form = form or self.pick("view", "values")
        changed = owners_and_parts(act.writes + act.touches)
        restores = self.mostly([], *RESTORED) if may_restore else []
        act.restores = [name for name in restores if not changed & owners_and_parts([name])]
        return act

    def leaf(self) -> Node:
        """A leaf stage."""
        kind = self.mostly("leaf", "inline")
        node = Node(next(self.numbers), kind, tidied(self.act("view" if kind == "inline" else "")))
        node.names = self.bound([({}, node.act)])
        node.opens = self.mostly(None, "mine", "batch")
        return node

    def composite(self, pool: list[Node], depth: int) -> Node:
        """A composite, and all below it."""
        node = Node(next(self.numbers), self.pick(*COMPOSITES) if depth else "own")
        if node.kind in ("own", "loop", "sometimes"):
            node.act = self.act("view", 1) if self.mostly(False, True) else Act()
        if node.kind == "when":
            node.act = Act(self.some(1, list(FIELDS)))
        if node.kind == "loop":
            node.each = self.pick("batch", "batch", "epoch", "update", "mine")
            node.is_empty = self.mostly(False, True)
        if node.kind == "repeat":
            node.each = self.pick(None, "mine", "update")
        scopes = ("run", node.each)  # the scopes of other fields may not be open, or end inside
        node.act.writes = [name for name in node.act.writes if name != GRADS and FIELDS.get(name, "run") in scopes]
        node.opens = self.mostly(None, "mine", "epoch")
        node.forbids = self.mostly([], [], ["a"], ["model"], ["model.params"], ["rng", "d"], ["optimizer"])
        for _ in range(self.pick(1, 2, 3)):
            which = self.pick(*range(10))
            if which < 3 + 2 * depth or depth == 3:
                held = pool[0] if pool and which == 0 else self.leaf()
            else:
                held = self.composite(pool, depth + 1)
            if held not in node.held.values():
                node.held[f"s{len(node.held)}"] = held
        written = {name for one in node.walk() if not one.is_leaf for name in one.act.fields}
        names = self.bound(list(acts_below(node, {})))
        node.names = {own: other for own, other in names.items() if own not in written}
        return node

    def callback(self, number: int) -> Callback:
        """A callback of one or two hooks, some of which bring a field."""
        held = [self.hook() for _ in range(self.pick(1, 2))]
        made = Callback(number, held, brings=self.mostly({}, {"p": int}, {"p": float}, {"q": int}))
        for name in made.brings:
            held[0].act.writes.append(name)
            held[-1].act.reads.append(f"{name}?")
        for hook in held:
            if hook.side == "around" and hook.act.fields:
                hook.act.form = "view"  # such a hook returns nothing
            tidied(hook.act)
        made.names = self.bound([({}, hook.act) for hook in held])
        return made

    def hook(self) -> Hook:
        """A hook, every third an observer."""
        side = self.pick("before", "after", "after", "around")
        act = Act() if self.pick(0, 1, 2) == 0 else self.act("", 1, may_restore=side == "around")
        hook = Hook(next(self.numbers), side, self.pick(*TARGETS), act, self.mostly(None, None, "s0", "top/s1"))
        hook.thin = self.mostly("", "when", "every", "first")
        if self.pick(False, True):
            hook.before, hook.after = self.some(1, TITLES), self.some(1, TITLES)
        return hook

    def bound(self, below: Sequence[tuple[dict[str, str], Act]]) -> dict[str, str]:
        """What to bind for actors, which have names already; nothing that makes one of two names of an actor."""
        names: dict[str, str] = self.mostly({}, *BINDS)
        used = {owner for _, act in below for owner in act.owners}
        names = {own: other for own, other in names.items() if other not in used}
        if self.pick(*[True] * 9, False):
            names = {own: other for own, other in names.items() if own in used}
        for inner, act in below:
            called = [{**names, **inner}.get(owner, owner) for owner in act.owners]
            if len(set(called)) < len(called):
                return {}
        return names


READ = (
    *["a", "b", "c", "d", "e", "u"] * 4,
    *["a?", "b?", "d?", "e?", "u?"] * 2,
    *["model", "tally", "model.params", GRADS, GRADS, GRADS, TOTAL, POSITION, "optimizer.hyper.lr", "ghost"],
    *["model.parms", "a.state"],
)
WRITTEN = (*[*FIELDS] * 3, *PARTS[:-1], GRADS, GRADS, GRADS)  # the generators are touched, not written
RESTORED = (["model.params"], ["model.mode"], ["rng"], ["optimizer.hyper"], ["optimizer.hyper.lr"])
BINDS = ({"a": "b"}, {"d": "u"}, {"model": "other"}, {"c": "a", "model": "other"}, {"e": "d"})
TARGETS = ("/", "*", "s0", "s0", "s1", "s1", "s2", "s0/s1", "s1/s0", "checkpoint", "inside", "s9")
TITLES = ("C0", "C1", "C2", "C9", "C1.h1")


def tidied(act: Act) -> Act:
    """An actor that takes values is given the components whose parts it changes, too."""
    if act.form == "values":
        owners = dict.fromkeys(name.partition(".")[0] for name in act.changes if "." in name)
        act.reads += [f"{owner}?" for owner in owners if owner not in act.reads]
    return act


def acts_below(node: Node, names: dict[str, str]) -> Iterator[tuple[dict[str, str], Act]]:
    """The actors in a tree, each with what is bound for it inside the tree."""
    names = {**names, **node.names}
    yield names, node.act
    for one in node.held.values():
        yield from acts_below(one, names)


def owners_and_parts(names: list[str]) -> set[str]:
    """The first two words of each dotted name."""
    return {".".join(name.split(".")[:2]) for name in names}
