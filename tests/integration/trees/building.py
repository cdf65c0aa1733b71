"""Building: the stages and callbacks of a program, whose actors do for real what they declare, and tell what they see."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from learner import Callback, Composite, Stage, after, around, before, field, stage
from stages import Chain, Every, Repeat, When
from stages.callbacks import HookMethod
from stages.stage import as_stage
from tests.integration.trees.components import World, add, give_back, keep
from tests.integration.trees.oracle import SEEN
from tests.integration.trees.programs import COMPONENTS, FIELDS, POSITION, ROUNDS, TOTAL, Act, Hook, Node, Program
from tests.integration.trees.programs import Callback as Described

POINTS = {"before": before, "after": after, "around": around}
INTS = {*SEEN, "p", "q"}


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

    def tree(self, node: Node) -> Any:
        """A stage and all below it; the same object for the same node."""
        if node not in self.made:
            made = self._leaf(node) if node.is_leaf else self._composite(node)
            self.made[node] = made.bind(**node.names) if node.names else made
        return self.made[node]

    def callbacks(self, program: Program) -> list[Any]:
        """What goes into callbacks=."""
        made = [[self.callback(one) for one in group] for group in program.groups]
        return [group[0] if len(group) == 1 else tuple(group) for group in made]

    def callback(self, described: Described) -> Any:
        """One callback, of a class of its own."""
        members: dict[str, Any] = {f"h{hook.number}": self._hook(hook) for hook in described.hooks}
        if described.brings:
            brought = {name: (kind, field(scope="batch")) for name, kind in described.brings.items()}
            members["fields"] = lambda self: brought
        made = type(described.title, (Callback,), members)()
        return made.bind(**described.names) if described.names else made

    def function(self, described: Described) -> tuple[str, str, dict[str, Any], Any]:
        """For `learner.after(target, **options)(function)`: side, target, options and function of the one hook."""
        (hook,) = described.hooks
        method = self._hook(hook)
        function = _without_self(method.function)
        function.__name__ = described.title
        return hook.side, hook.target, dict(method.points[0].options), function

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
            self.world.told.extend((f"n{node.number}", own, value) for own, value in zip(node.act.reads, given))
            return node.number in self.world.switched_on

        return _with_parameters(condition, _asked(node.act))

    def _leaf(self, node: Node) -> Any:
        run: Any = self._inline(node) if node.kind == "inline" else self._run(f"n{node.number}", node.act)
        if node.kind == "leaf" and not node.opens and not node.act.restores:
            given = {name: tuple(getattr(node.act, name)) for name in ("reads", "writes", "touches")}
            return as_stage(stage(**given)(_without_self(run)))
        members = {"run": run, "opens": node.opens, "inline": ("inside",) if node.kind == "inline" else ()}
        return type("Leaf", (Stage,), {**members, **_declared(node.act)})()

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
        members = {"run": run, "runs": runs, "each": node.each, "counts": counts, "slot": "top"}
        return type("Own", (Composite,), {**members, **_declared(act)})

    def _inline(self, node: Node) -> Any:
        builder, act, tag = self, node.act, f"n{node.number}"

        def run(self: Any, state: Any) -> None:
            builder._read(tag, act, state, only_ready=True)
            with builder._lending(tag, act, state):
                builder._move(act.parts, state)
                builder._write(act.fields, state)
                with state.stage("inside"):
                    builder._move(act.touches, state)
                    builder.also(tag)

        return run

    def _run(self, tag: str, act: Act) -> Any:
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
            work(_Given(act, given))
            made = tuple(builder.world.next() for _ in act.fields)
            return made[0] if len(made) == 1 else made or None

        return of_view if act.form == "view" else _with_parameters(of_values, [("self", False), *_asked(act)])

    def _observer(self, tag: str) -> Any:
        def look(_: Any, state: Any) -> None:
            self._look(tag, state)
            self.also(tag)

        return look

    def _around(self, tag: str, act: Act, observes: bool) -> Any:
        builder = self

        def work(state: Any) -> Iterator[Any]:
            if observes:
                builder._look(tag, state)
            builder._read(tag, act, state)
            with builder._lending(tag, act, state):
                builder._move(act.touches, state)
                builder.also(tag)
                outcome = yield
                if outcome.ok:
                    builder._move(act.parts, state)
            if outcome.ok:
                builder._write(act.fields, state)

        def of_view(self: Any, state: Any) -> Iterator[Any]:
            yield from work(state)

        def of_values(self: Any, *given: Any) -> Iterator[Any]:
            yield from work(_Given(act, given))

        return of_view if act.form == "view" else _with_parameters(of_values, [("self", False), *_asked(act)])

    def _hook(self, hook: Hook) -> HookMethod:
        tag = f"h{hook.number}"
        if hook.side == "around":
            function = self._around(tag, hook.act, hook.observes)
        else:
            function = self._observer(tag) if hook.observes else self._run(tag, hook.act)
        options: dict[str, Any] = {"within": hook.within} if hook.within else {}
        if hook.thin == "when":
            options["when"] = lambda state: hook.number in self.world.switched_on
        elif hook.thin:
            options[hook.thin] = "2 batches" if hook.thin == "every" else "1 batch"
        options |= {"runs_before": tuple(hook.before), "runs_after": tuple(hook.after)}
        return POINTS[hook.side](hook.target, **options, **_declared(hook.act, hook.side))(function)

    def _look(self, tag: str, state: Any) -> None:
        names = [name for name in SEEN if name in dir(state) and state.ready(name)]
        self.world.told.append((tag, {name: getattr(state, name) for name in names}))

    def _read(self, tag: str, act: Act, state: Any, *, only_ready: bool = False) -> None:
        for own in act.reads:
            name = own.rstrip("?")
            if name in INTS and (not only_ready or state.ready(name)):
                self.world.told.append((tag, own, getattr(state, name)))

    def _write(self, names: Sequence[str], state: Any) -> None:
        for name in names:
            setattr(state, name, self.world.next())

    def _move(self, names: Sequence[str], state: Any) -> None:
        for name in names:
            component = _component(state, name)
            if component is not None or name == "rng":
                add(component, name.partition(".")[2])

    @contextmanager
    def _lending(self, tag: str, act: Act, state: Any) -> Iterator[None]:
        """Change what the actor restores, and give it back on every way out."""
        there = [(_component(state, name), name.partition(".")[2]) for name in act.restores]
        kept = [keep(component, part) if component or part == "" else None for component, part in there]
        self._move(act.restores, state)
        try:
            yield
        finally:
            is_broken, self.broken = tag == self.broken, "" if tag == self.broken else self.broken
            for (component, part), value in zip(there, kept, strict=True):
                if value is not None and not is_broken:
                    give_back(component, part, value)


class _Given:
    """The values that a function got, to be read as a view is."""

    def __init__(self, act: Act, values: Sequence[Any]) -> None:
        self.__dict__.update(zip([name for name, _ in _asked(act)], values, strict=True))

    def ready(self, name: str) -> bool:
        return getattr(self, name, None) is not None


def _component(state: Any, name: str) -> Any:
    owner = name.partition(".")[0]
    return getattr(state, owner) if owner in COMPONENTS and state.ready(owner) else None


def _declared(act: Act, side: str = "around") -> dict[str, Any]:
    names = ("reads", "writes", "touches", "restores") if side == "around" else ("reads", "writes", "touches")
    return {name: tuple(getattr(act, name)) for name in names}


def _asked(act: Act) -> list[tuple[str, bool]]:
    """The parameters of an actor that takes values: what it reads, without parts; those that are optional last."""
    reads = sorted(act.reads, key=lambda own: own.endswith("?"))
    return [(own.rstrip("?"), own.endswith("?")) for own in reads if "." not in own]


def _with_parameters(function: Any, parameters: Sequence[tuple[str, bool]]) -> Any:
    """The function, with a signature that names its parameters; an optional one has the default None."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    defaults: list[dict[str, Any]] = [{}, {"default": None}]
    listed = [inspect.Parameter(name, kind, **defaults[optional]) for name, optional in parameters]
    function.__signature__ = inspect.Signature(listed)
    return function


def _without_self(run: Any) -> Any:
    """A method as a function."""
    parameters = list(inspect.signature(run).parameters.values())[1:]

    def call(*given: Any) -> Any:
        return run(None, *given)

    def start(*given: Any) -> Iterator[Any]:
        yield from run(None, *given)

    function: Any = start if inspect.isgeneratorfunction(run) else call
    function.__signature__ = inspect.Signature(parameters)
    return function
