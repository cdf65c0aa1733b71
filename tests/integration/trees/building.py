"""Building: the stages and callbacks of a program, whose actors do for real what they declare, and tell what they see."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learner import Callback, Composite, Stage, after, around, before, field, stage
from stages import Chain, Every, Repeat, When
from stages.callbacks import HookMethod
from tests.integration.trees.components import World, add, give_back, keep
from tests.integration.trees.oracle import SEEN
from tests.integration.trees.programs import COMPONENTS, ROUNDS, TOTAL, Act, Hook, Node, Program
from tests.integration.trees.programs import Callback as Described

POINTS = {"before": before, "after": after, "around": around}
INTS = {*SEEN, "p", "q"}

Intrusion = Callable[[Any, str], None]
"""What else an actor does, given the state it sees (None if it takes values) and its tag."""


class Builder:
    """Makes stages and callbacks that work on one world."""

    def __init__(self, world: World, intrude: Intrusion | None = None) -> None:
        self.world = world
        self.intrude = intrude
        self.made: dict[int, Any] = {}

    def tree(self, node: Node) -> Any:
        """A stage and all below it; the same object for the same node."""
        if id(node) not in self.made:
            self.made[id(node)] = self._stage(node)
        made = self.made[id(node)]
        return made.bind(**node.names) if node.names and not node.is_leaf else made

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

    def _stage(self, node: Node) -> Any:
        slots = {f"s{index}": self.tree(held) for index, held in enumerate(node.held)}
        match node.kind:
            case "leaf" | "inline":
                made = self._leaf(node)
                return made.bind(**node.names) if node.names else made
            case "chain":
                return Chain(**slots, forbids=tuple(node.forbids), opens=node.opens)
            case "repeat":
                return Repeat(2, **slots, each=node.each, forbids=tuple(node.forbids), opens=node.opens)
            case "every":
                return Every("2 batches", **slots, forbids=tuple(node.forbids), opens=node.opens)
            case "when":
                return When(self._condition(node), **slots, forbids=tuple(node.forbids), opens=node.opens)
        return self._own_code(node)(**slots, forbids=tuple(node.forbids), opens=node.opens)

    def _condition(self, node: Node) -> Any:
        def condition(*given: Any) -> bool:
            self._tell(node.number, node.act, given)
            return node.number in self.world.switched_on

        return _with_parameters(condition, [(own.rstrip("?"), own.endswith("?")) for own in node.act.reads])

    def _leaf(self, node: Node) -> Any:
        tag = f"n{node.number}"
        if node.kind == "inline":
            run: Any = self._inline_run(node)
        elif node.act.form == "view":
            run = self._view(tag, node.act)
        else:
            run = self._values(tag, node.act)
        if not node.opens and not node.act.restores and node.kind == "leaf":
            given = {name: tuple(getattr(node.act, name)) for name in ("reads", "writes", "touches")}
            return stage_of(stage(**given)(_without_self(run)))
        members = {"run": run, "opens": node.opens, "inline": ("inside",) if node.kind == "inline" else ()}
        return type("Leaf", (Stage,), {**members, **_declared(node.act)})()

    def _own_code(self, node: Node) -> Any:
        builder, act, tag = self, node.act, f"n{node.number}"

        def run(self: Any, state: Any) -> None:
            builder._read(tag, act, state, only_ready=True)
            kept = builder._lend(act, state)
            builder._move(act.touches, state)
            scoped = [name for name in act.fields if node.each and _scope(state, name) == node.each]
            builder._write([name for name in act.fields if name not in scoped], state)
            builder._intrude(state, tag)
            runs = node.number in builder.world.switched_on or not (node.kind == "sometimes" or node.is_empty)
            for _ in range((ROUNDS if node.kind == "loop" else 1) if runs else 0):
                if node.each is None:
                    Composite.run(self, state)
                    continue
                with state.round():
                    builder._write(scoped, state)
                    Composite.run(self, state)
            builder._move(act.parts, state)
            builder._take_back(act, state, kept)

        runs = {"own": "1", "sometimes": "0-1", "loop": "0+" if node.is_empty else "1+"}[node.kind]
        counts = ("batch_index", TOTAL) if node.each == "batch" else (None, None)
        members = {"run": run, "runs": runs, "each": node.each, "counts": counts, "slot": "top", **_declared(act)}
        return type("Own", (Composite,), members)

    def _view(self, tag: str, act: Act) -> Any:
        def run(self: Any, state: Any) -> None:
            builder._do(tag, act, state)

        builder = self
        return run

    def _inline_run(self, node: Node) -> Any:
        builder, act, tag = self, node.act, f"n{node.number}"

        def run(self: Any, state: Any) -> None:
            builder._read(tag, act, state, only_ready=True)
            kept = builder._lend(act, state)
            builder._move(act.parts, state)
            builder._write(act.fields, state)
            with state.stage("inside"):
                builder._move(act.touches, state)
                builder._intrude(state, tag)
            builder._take_back(act, state, kept)

        return run

    def _values(self, tag: str, act: Act) -> Any:
        builder, names = self, [own.rstrip("?") for own in sorted(act.reads, key=lambda own: own.endswith("?"))]
        asked = [name for name in names if "." not in name]

        def run(self: Any, *given: Any) -> Any:
            return builder._do(tag, act, _Given(dict(zip(asked, given, strict=True))))

        parameters = [("self", False), *((name, f"{name}?" in act.reads) for name in asked)]
        return _with_parameters(run, parameters)

    def _hook(self, hook: Hook) -> HookMethod:
        builder, act, tag = self, hook.act, f"h{hook.number}"
        if hook.side == "around":
            function = self._around(tag, act, hook.observes)
        elif hook.observes:

            def function(self: Any, state: Any) -> None:
                builder._look(tag, state)
                builder._intrude(state, tag)
        else:
            function = self._view(tag, act) if act.form == "view" else self._values(tag, act)
        options: dict[str, Any] = {"within": hook.within} if hook.within else {}
        if hook.thin == "when":
            options["when"] = lambda state: hook.number in builder.world.switched_on
        elif hook.thin:
            options[hook.thin] = "2 batches" if hook.thin == "every" else "1 batch"
        orders = {"runs_before": tuple(hook.before), "runs_after": tuple(hook.after)}
        point = POINTS[hook.side](hook.target, **options, **orders, **_declared(act, hook.side))
        return point(function)

    def _around(self, tag: str, act: Act, observes: bool) -> Any:
        builder = self

        def enter(state: Any) -> Iterator[Any]:
            if observes:
                builder._look(tag, state)
            builder._read(tag, act, state)
            kept = builder._lend(act, state)
            builder._move(act.touches, state)
            builder._intrude(state, tag)
            yield
            builder._move(act.parts, state)
            builder._take_back(act, state, kept)
            builder._write(act.fields, state)

        if act.form == "view":

            def view(self: Any, state: Any) -> Iterator[Any]:
                yield from enter(state)

            return view
        names = [own.rstrip("?") for own in sorted(act.reads, key=lambda own: own.endswith("?"))]
        asked = [name for name in names if "." not in name]

        def values(self: Any, *given: Any) -> Iterator[Any]:
            yield from enter(_Given(dict(zip(asked, given, strict=True))))

        return _with_parameters(values, [("self", False), *((name, f"{name}?" in act.reads) for name in asked)])

    def _do(self, tag: str, act: Act, state: Any) -> Any:
        self._read(tag, act, state)
        kept = self._lend(act, state)
        self._move(act.touches, state)
        self._intrude(state, tag)
        self._move(act.parts, state)
        self._take_back(act, state, kept)
        if not isinstance(state, _Given):
            self._write(act.fields, state)
            return None
        made = tuple(self.world.next() for _ in act.fields)
        return made[0] if len(made) == 1 else made or None

    def _intrude(self, state: Any, tag: str) -> None:
        if self.intrude is not None:
            self.intrude(state, tag)

    def _look(self, tag: str, state: Any) -> None:
        self.world.told.append((tag, {name: getattr(state, name) for name in SEEN if state.ready(name)}))

    def _read(self, tag: str, act: Act, state: Any, *, only_ready: bool = False) -> None:
        for own in act.reads:
            name = own.rstrip("?")
            if name in INTS and (not only_ready or state.ready(name)):
                self.world.told.append((tag, own, getattr(state, name)))

    def _tell(self, number: int, act: Act, given: Sequence[Any]) -> None:
        self.world.told.extend((f"n{number}", own, value) for own, value in zip(act.reads, given, strict=True))

    def _write(self, names: Sequence[str], state: Any) -> None:
        for name in names:
            setattr(state, name, self.world.next())

    def _move(self, names: Sequence[str], state: Any) -> None:
        for name in names:
            owner, _, part = name.partition(".")
            component = _component(state, owner)
            if component is not None or name == "rng":
                add(component, part)

    def _lend(self, act: Act, state: Any) -> list[Any]:
        kept = []
        for name in act.restores:
            component = _component(state, name.partition(".")[0])
            kept.append(keep(component, name.partition(".")[2]) if component is not None or name == "rng" else None)
        self._move(act.restores, state)
        return kept

    def _take_back(self, act: Act, state: Any, kept: list[Any]) -> None:
        for name, value in zip(act.restores, kept, strict=True):
            if value is not None:
                give_back(_component(state, name.partition(".")[0]), name.partition(".")[2], value)


class _Given:
    """Values that a function got, to be read as a view is."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def ready(self, name: str) -> bool:
        return getattr(self, name, None) is not None


def stage_of(function: Any) -> Any:
    """A stage object of its own for a function."""
    from stages.stage import FunctionStage

    return FunctionStage(function)


def _component(state: Any, owner: str) -> Any:
    return getattr(state, owner) if owner in COMPONENTS and state.ready(owner) else None


def _scope(state: Any, name: str) -> str:
    """The scope of the field that an actor calls `name`."""
    return str(state._owner.known[type(state).declared[name]].scope)


def _declared(act: Act, side: str = "around") -> dict[str, Any]:
    names = ("reads", "writes", "touches", "restores") if side == "around" else ("reads", "writes", "touches")
    return {name: tuple(getattr(act, name)) for name in names}


def _with_parameters(function: Any, parameters: Sequence[tuple[str, bool]]) -> Any:
    """The function, with a signature that names its parameters; an optional one has the default None."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    sure = [inspect.Parameter(name, kind) for name, optional in parameters if not optional]
    function.__signature__ = inspect.Signature(
        [*sure, *(inspect.Parameter(name, kind, default=None) for name, optional in parameters if optional)]
    )
    return function


def _without_self(run: Any) -> Any:
    """A method as a function."""
    parameters = list(inspect.signature(run).parameters.values())[1:]

    def function(*given: Any) -> Any:
        return run(None, *given)

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function
