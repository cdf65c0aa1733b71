"""Choices: a whole program out of bytes, so that Hypothesis makes it smaller by making bytes smaller."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.integration.trees.programs import COMPONENTS, FIELDS, POSITION, TOTAL, Act, Callback, Hook, Node, Program

PARTS = [f"{owner}.{part}" for owner in ("model", "optimizer", "tally") for part in COMPONENTS[owner]]
DEEP = ["model.params.weight", "model.params.bias", "optimizer.hyper.lr"]
READ = (
    *[*FIELDS] * 4,
    *["a?", "b?", "d?", "e?", "u?"] * 2,
    *["model", "tally", "model.params", *["model.grads"] * 3, TOTAL, POSITION, "optimizer.hyper.lr"],
    *["ghost", "model.parms", "a.state"],
)
WRITTEN = (*[*FIELDS] * 3, *PARTS, *DEEP, *["model.grads"] * 2)
TOUCHED = (*PARTS, *DEEP, "rng")
RESTORED = (["model.params"], ["model.mode"], ["rng"], ["optimizer.hyper"], ["optimizer.hyper.lr"])
BINDS = ({"a": "b"}, {"d": "u"}, {"model": "other"}, {"c": "a", "model": "other"}, {"e": "d"})
COMPOSITES = ("chain", "own", "loop", "sometimes", "when", "every", "repeat")
TARGETS = ("/", "/", "*", "s0", "s0", "s0", "s1", "s0/s1", "checkpoint", "s9")
TITLES = ("C0", "C1", "C2", "C9", "C1.h1")


def programs() -> st.SearchStrategy[Program]:
    """Whole programs: each is what the bytes choose, one byte a choice, and zeros choose the simplest."""
    return st.binary(min_size=400, max_size=400).map(lambda data: Choices(data).program())


class Choices:
    """Makes a program out of bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = iter(data)
        self.numbers = iter(range(1000))
        self.hooks: list[Hook] = []

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
        sizes = self.pick([], [1], [1, 1], [2, 1], [1, 1, 1], [1, 1, 2])
        numbers = iter(range(sum(sizes)))
        groups = [[self.callback(next(numbers)) for _ in range(size)] for size in sizes]
        given = self.pick({"a", "other"}, {"a", "other"}, {"a", "other"}, {"a"}, {"other"}, set())
        return Program(tree, groups, given | {"model", "optimizer", "tally"})

    def act(self, form: str, reads: int = 2, *, restores: bool) -> Act:
        """What one actor declares; what it gives back it does not change for good."""
        act = Act(self.some(reads, READ), self.some(2, WRITTEN), self.some(self.mostly(0, 2), TOUCHED), form=form)
        act.touches = [name for name in act.touches if name not in act.writes]
        act.unsafe = self.mostly(False, False, True)
        changed = owners_and_parts(act.changes)
        lent = self.pick(*RESTORED) if restores else []
        act.restores = [name for name in lent if not changed & owners_and_parts([name])]
        if form == "values":  # then it is given the components whose parts it changes, too
            owners = dict.fromkeys(name.partition(".")[0] for name in act.changes if "." in name)
            act.reads += [f"{owner}?" for owner in owners if owner not in act.reads]
        return act

    def leaf(self) -> Node:
        """A leaf stage."""
        node = Node(
            next(self.numbers), "leaf", self.act(self.pick("view", "values"), restores=self.mostly(False, True))
        )
        node.names = self.bound([({}, node.act)])
        node.opens = self.mostly(None, "mine", "batch")
        return node

    def composite(self, pool: list[Node], depth: int) -> Node:
        """A composite, and all below it."""
        node = Node(next(self.numbers), self.pick(*COMPOSITES) if depth else "own")
        if node.kind in ("own", "loop", "sometimes"):
            node.act = self.act("view", 1, restores=self.mostly(False, True)) if self.mostly(False, True) else Act()
        if node.kind == "when":
            node.act = Act(self.some(1, [*FIELDS]), form="values")
        if node.kind == "loop":
            node.each = self.pick("batch", "batch", "epoch", "update", "mine")
            node.is_empty = self.mostly(False, True)
        if node.kind == "repeat":
            node.each = self.pick(None, "mine", "update")
        scopes = ("run", node.each)  # the scopes of other fields may not be open, or end inside
        node.act.writes = [
            name for name in node.act.writes if name != "model.grads" and FIELDS.get(name, "run") in scopes
        ]
        node.opens = self.mostly(None, "mine", "epoch")
        node.forbids = self.mostly([], [], ["a"], ["model"], ["model.params"], ["rng", "d"], ["optimizer"])
        for _ in range(self.pick(1, 2, 3)):
            which = self.pick(*range(10))
            if which < 3 + 3 * depth or depth == 3:
                held = pool[0] if pool and which == 0 else self.leaf()
            else:
                held = self.composite(pool, depth + 1)
            if held not in node.held.values():
                node.held[f"s{len(node.held)}"] = held
        written = {name for one in node.walk() if one.kind != "leaf" for name in one.act.fields}
        names = self.bound([*node.acts({})])
        node.names = {own: other for own, other in names.items() if own not in written}
        return node

    def callback(self, number: int) -> Callback:
        """A callback of one or two hooks."""
        made = Callback(number, [self.hook() for _ in range(self.pick(1, 2))])
        made.names = self.bound([({}, hook.act) for hook in made.hooks])
        return made

    def hook(self) -> Hook:
        """A hook, every fourth an observer; or one more like the last one, so that the two meet."""
        if self.hooks and self.mostly(False, True):
            return replace(deepcopy(self.hooks[-1]), number=next(self.numbers))
        side = self.pick("before", "after", "after", "around")
        form = "view" if side == "around" else self.pick("view", "values")
        act = (
            Act()
            if self.pick(*range(4)) == 0
            else self.act(form, 1, restores=side == "around" and self.pick(False, True))
        )
        hook = Hook(next(self.numbers), side, self.pick(*TARGETS), act, self.mostly(None, None, None, "s0"))
        hook.thin = self.mostly("", "when", "every", "first")
        if self.pick(False, True):
            hook.before, hook.after = self.some(1, TITLES), self.some(1, TITLES)
        self.hooks.append(hook)
        return hook

    def bound(self, below: Sequence[tuple[dict[str, str], Act]]) -> dict[str, str]:
        """What to bind for actors, which have names already; nothing that makes one of two names of an actor."""
        names: dict[str, str] = self.mostly({}, *BINDS)
        used = {name.partition(".")[0].rstrip("?") for _, act in below for name in (*act.reads, *act.changes)}
        names = {own: other for own, other in names.items() if other not in used}
        if self.pick(*[True] * 9, False):
            names = {own: other for own, other in names.items() if own in used}
        for inner, act in below:
            called = [{**names, **inner}.get(owner, owner) for owner in act.owners]
            if len(set(called)) < len(called):
                return {}
        return names


def owners_and_parts(names: list[str]) -> set[str]:
    """The first two words of each dotted name."""
    return {".".join(name.split(".")[:2]) for name in names}
