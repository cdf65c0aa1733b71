"""Building: stages and callbacks of a program. Their actors do for real what they declare, and tell what they see."""

import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from learner import Callback, Composite, Stage, after, around, before
from stages import Chain, Every, Repeat, When
from stages.callbacks import HookMethod
from stages.cancel import Outcome
from tests.integration.trees.components import World, number_in, put
from tests.integration.trees.oracle import SEEN
from tests.integration.trees.places import ALL_PARTS, atoms
from tests.integration.trees.programs import COMPONENTS, FIELDS, POSITION, ROUNDS, TOTAL, Act, Hook, Node, Program
from tests.integration.trees.programs import Callback as Described

POINTS = {"before": before, "after": after, "around": around}


def nothing(tag: str) -> None:
    """What an actor does beyond what it declares."""


class Builder:
    """Makes stages and callbacks that work on one world.

    Args:
        also: called by each actor while it works, with its tag.
        broken: the tag of an actor that once does not give back what it restores.
    """

    def __init__(self, world: World, also: Callable[[str], None] = nothing, broken: str = "") -> None:
        self.world, self.also, self.broken = world, also, broken
        self.made: dict[Node, Any] = {}
        self.observers: set[str] = set()

    def tree(self, node: Node) -> Any:
        """A stage and all below it; the same object for the same node."""
        if node not in self.made:
            made = self._leaf(node) if node.kind == "leaf" else self._composite(node)
            self.made[node] = made.bind(**node.names) if node.names else made
        return self.made[node]

    def callbacks(self, program: Program) -> list[Any]:
        """What goes into callbacks=."""
        made = [[self._callback(one) for one in group] for group in program.groups]
        return [group[0] if len(group) == 1 else tuple(group) for group in made]

    def _callback(self, described: Described) -> Any:
        members = {f"h{hook.number}": self._hook(hook) for hook in described.hooks}
        made = type(described.title, (Callback,), members)()
        return made.bind(**described.names) if described.names else made

    def _hook(self, hook: Hook) -> HookMethod:
        tag, act = f"h{hook.number}", hook.act
        function = self._around(tag, act) if hook.side == "around" else self._working(tag, act)
        if hook.observes:
            self.observers.add(tag)
        options: dict[str, Any] = {**act.declared, "within": hook.within, "unsafe": act.unsafe}
        if hook.side != "around":
            del options["restores"]
        if hook.thin == "when":
            options["when"] = lambda state: hook.number in self.world.switched_on
        elif hook.thin:
            options[hook.thin] = "2 batches" if hook.thin == "every" else "1 batch"
        options |= {"runs_before": tuple(hook.before), "runs_after": tuple(hook.after)}
        return POINTS[hook.side](hook.target, **options)(function)

    def _leaf(self, node: Node) -> Any:
        members = {"run": self._working(f"n{node.number}", node.act), "opens": node.opens, "unsafe": node.act.unsafe}
        return type("Leaf", (Stage,), {**members, **node.act.declared})()

    def _composite(self, node: Node) -> Any:
        slots = {slot: self.tree(held) for slot, held in node.held.items()}
        settings: dict[str, Any] = {"forbids": tuple(node.forbids), "opens": node.opens}
        match node.kind:
            case "chain":
                return Chain(**slots, **settings)
            case "repeat":
                return Repeat(2, **slots, each=node.each, **settings)
            case "every":
                return Every("2 batches", **slots, **settings)
            case "when":
                return When(self._condition(node), **slots, **settings)
        return self._own_code(node)(**slots, **settings)

    def _condition(self, node: Node) -> Any:
        def condition(*given: Any) -> bool:
            self._read(f"n{node.number}", node.act, _given(node.act, given))
            return node.number in self.world.switched_on

        return _with_parameters(condition, _asked(node.act))

    def _own_code(self, node: Node) -> Any:
        builder, act, tag = self, node.act, f"n{node.number}"
        scoped = [name for name in act.fields if FIELDS[name] == node.each]  # no field of theirs is bound

        def run(self: Any, state: Any) -> None:
            builder._read(tag, act, state, only_ready=True)
            with builder._lending(tag, act, state):
                builder._move(act.touches, state)
                builder._write([name for name in act.fields if name not in scoped], state)
                builder.also(tag)
                runs = node.number in builder.world.switched_on or not (node.kind == "sometimes" or node.is_empty)
                for _ in range((ROUNDS if node.kind == "loop" else 1) if runs else 0):
                    with state.round() if node.each else nullcontext():
                        builder._write(scoped, state)
                        Composite.run(self, state)
                builder._move(act.parts, state)

        runs = {"own": "1", "sometimes": "0-1", "loop": "0+" if node.is_empty else "1+"}[node.kind]
        counts = (POSITION, TOTAL) if node.each == "batch" else (None, None)
        members = {"run": run, "runs": runs, "each": node.each, "counts": counts, "slot": "top", "unsafe": act.unsafe}
        return type("Own", (Composite,), {**members, **act.declared})

    def _working(self, tag: str, act: Act) -> Any:
        """The method of an actor that does all at once."""
        builder = self

        def work(state: Any) -> None:
            builder._read(tag, act, state)
            with builder._lending(tag, act, state):
                builder._move(act.touches, state)
                builder.also(tag)
                builder._move(act.parts, state)

        def of_view(self: Any, state: Any) -> None:
            work(state)
            builder._write(act.fields, state)

        def of_values(self: Any, *given: Any) -> Any:
            work(_given(act, given))
            made = tuple(builder.world.next() for _ in act.fields)
            return made[0] if len(made) == 1 else made or None

        return of_view if act.form == "view" else _with_parameters(of_values, [("self", False), *_asked(act)])

    def _around(self, tag: str, act: Act) -> Any:
        builder = self

        def of_view(self: Any, state: Any) -> Generator[None, Outcome, None]:
            builder._read(tag, act, state)
            with builder._lending(tag, act, state):
                builder._move(act.touches, state)
                builder.also(tag)
                outcome = yield
                if outcome.ok:
                    builder._move(act.parts, state)
            if outcome.ok:
                builder._write(act.fields, state)

        return of_view

    def _read(self, tag: str, act: Act, state: Any, *, only_ready: bool = False) -> None:
        if tag in self.observers:
            seen = {name: getattr(state, name) for name in SEEN if name in dir(state) and state.ready(name)}
            self.world.told.append((tag, seen))
        for own in act.reads:
            name = own.rstrip("?")
            if name in SEEN and (not only_ready or state.ready(name)):
                self.world.told.append((tag, own, getattr(state, name)))

    def _write(self, names: Sequence[str], state: Any) -> None:
        for name in names:
            setattr(state, name, self.world.next())

    def _move(self, names: Sequence[str], state: Any) -> None:
        for component, atom in _there(names, state):
            put(component, atom, number_in(component, atom) + 1)

    @contextmanager
    def _lending(self, tag: str, act: Act, state: Any) -> Iterator[None]:
        """Change what the actor restores, and give it back on every way out."""
        kept = [(component, atom, number_in(component, atom)) for component, atom in _there(act.restores, state)]
        self._move(act.restores, state)
        try:
            yield
        finally:
            if tag == self.broken:
                self.broken = ""
            else:
                for component, atom, number in kept:
                    put(component, atom, number)


def change(world: World, part: str) -> None:
    """Change a part behind the back of all declarations."""
    component = getattr(world, part.partition(".")[0], None)
    for atom in sorted(atoms(part)):
        put(component, atom, number_in(component, atom) + 1)


def _there(names: Sequence[str], state: Any) -> Iterator[tuple[Any, str]]:
    """The components and their parts that these names stand for, of those that are there."""
    for name in names:
        owner = name.partition(".")[0]
        component = getattr(state, owner) if owner in COMPONENTS and state.ready(owner) else None
        if component is not None or name == "rng":
            yield from ((component, atom) for atom in sorted(atoms(name) & ALL_PARTS))


def _given(act: Act, values: Sequence[Any]) -> Any:
    """The values that a function got, to be read as a view is."""
    names = [name for name, _ in _asked(act)]
    values_by_name = dict(zip(names, values, strict=True))
    return SimpleNamespace(**values_by_name, ready=lambda name: values_by_name.get(name) is not None)


def _asked(act: Act) -> list[tuple[str, bool]]:
    """The parameters of an actor that takes values: what it reads, without parts; those that are optional last."""
    reads = sorted(act.reads, key=lambda own: own.endswith("?"))
    return [(own.rstrip("?"), own.endswith("?")) for own in reads if "." not in own]


def _with_parameters(function: Any, parameters: Sequence[tuple[str, bool]]) -> Any:
    """The function, with a signature that names its parameters; an optional one has the default None."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    empty = inspect.Parameter.empty
    listed = [inspect.Parameter(name, kind, default=None if optional else empty) for name, optional in parameters]
    function.__signature__ = inspect.Signature(listed)
    return function
