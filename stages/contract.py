"""The contract of an actor: its declaration and its signature, read once."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stages.declared import flag_in, names_in, refuse_unknown_parts, scope_in
from stages.errors import DeclarationError
from stages.stage import Composite, FunctionStage, Stage
from state.access import Access
from state.parts import RNG
from state.schema import Brought
from state.state import State

RESERVED = ("state", "outcome")
"""Parameter names that ask for something else than a field: the view, and how the stage ended."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a `run` or hook: a field's name, `state` or `outcome`."""

    name: str
    optional: bool


@dataclass(frozen=True)
class Contract:
    """What an actor declares.

    Attributes:
        access: its reads, writes and touches; parameters count as reads.
        parameters: what its function is called with, in order.
        classes: State classes whose fields it needs.
        brought: fields it brings itself.
        inline: names of its inline stages.
        source: where its code stands, "module.Class.run file.py:12".
    """

    access: Access
    parameters: tuple[Parameter, ...]
    classes: tuple[type[State], ...]
    brought: Brought
    inline: tuple[str, ...]
    source: str

    @property
    def takes_view(self) -> bool:
        """Whether it asks for the view, and so writes through it instead of returning values."""
        return any(parameter.name == "state" for parameter in self.parameters)

    @property
    def fields(self) -> frozenset[str]:
        """The fields it declares, itself or by a part, and those it brings, as it calls them."""
        return frozenset(name.partition(".")[0] for name in (*self.access.names, *self.brought))


def contract_of(stage: Stage) -> Contract:
    """The contract of a stage.

    Raises:
        DeclarationError: its signature or declaration cannot be used.
    """
    owner = repr(stage) if isinstance(stage, FunctionStage) else type(stage).__name__
    if isinstance(stage, FunctionStage):
        function: Callable[..., Any] = stage.__dict__["function"]
        facts = function.__stage__  # type: ignore[attr-defined]
        made = _contract(owner, function, facts, facts["state"])
        return _of_a_stage(owner, function, replace(made, inline=names_in(owner, "inline", facts["inline"])))
    function = type(stage).run
    facts = {what: getattr(stage, what) for what in ("reads", "writes", "touches", "restores", "spoils", "unsafe")}
    inline = names_in(owner, "inline", stage.inline)
    scope_in(owner, "opens", stage.opens)
    if isinstance(stage, Composite):
        scope_in(owner, "each", stage.each)
        names_in(owner, "forbids", stage.forbids)
    if function is Composite.run:
        source = source_of(function, type(stage))
        return Contract(_declared(owner, facts, ()), (), (), stage.fields(), inline, source)
    made = _contract(owner, function, facts, None, type(stage), skip=1)
    return _of_a_stage(owner, function, replace(made, brought=stage.fields(), inline=inline))


def hook_contract(
    owner: str, function: Callable[..., Any], side: str, facts: Mapping[str, Any], state: type | None, *, method: bool
) -> Contract:
    """The contract of a hook. One that takes only `state` (and `outcome`) and declares nothing is an observer.

    Args:
        facts: its reads, writes and touches, and `restores` of one that stands around.

    Raises:
        DeclarationError: its signature or declaration cannot be used.
    """
    if isinstance(function, Stage):
        raise DeclarationError(
            owner, f"got {function!r}, a stage, as a hook. Put it into the tree: learner.insert(...)."
        )
    made = _contract(owner, function, facts, state, skip=1 if method else 0)
    _refuse_side(owner, function, side, made)
    access = made.access
    declares = access.reads or access.writes or access.touches or access.restores or access.unsafe
    return replace(made, access=Access(observer=True)) if made.takes_view and not declares else made


def _of_a_stage(owner: str, function: Callable[..., Any], made: Contract) -> Contract:
    """The contract of what runs in a slot; how it will end is nothing that it can ask for."""
    if any(parameter.name == "outcome" for parameter in made.parameters):
        told = "Only a hook knows how its stage ended; call the field of that name otherwise."
        raise DeclarationError(owner, f"takes 'outcome', which is reserved. {told}")
    _refuse_async(owner, function)
    if is_generator(function):
        raise DeclarationError(owner, "has a `yield`, so calling it would run nothing. Only a hook `around` yields.")
    return made


def _refuse_side(owner: str, function: Callable[..., Any], side: str, made: Contract) -> None:
    """Refuse what a hook on this side cannot be: a generator before or after, anything else around."""
    _refuse_async(owner, function)
    if side != "around":
        if is_generator(function):
            told = "has a `yield`, so calling it would run nothing. A hook that yields stands around: @around(...)."
            raise DeclarationError(owner, told)
        if made.access.restores:
            told = f"restores={list(made.access.restores)} is for a hook `around`, which changes and gives back."
            raise DeclarationError(owner, told)
        return
    if not is_generator(function):
        told = "stands around a stage and has no `yield`. Write `outcome = yield` where the stage is to run."
        raise DeclarationError(owner, told)
    if any(parameter.name == "outcome" for parameter in made.parameters):
        raise DeclarationError(owner, "takes 'outcome' before there is one. It is what `yield` gives: outcome = yield.")
    if made.access.field_writes and not made.takes_view:
        told = f"writes {list(made.access.field_writes)} and returns nothing. Take `state`, and set them there."
        raise DeclarationError(owner, told)
    fields = [name for name in made.access.restores if "." not in name and name != RNG]
    if fields:
        told = f"restores={fields} names fields. A pair gives back parts, such as 'model.params', or 'rng'."
        raise DeclarationError(owner, told)


def _refuse_async(owner: str, function: Callable[..., Any]) -> None:
    """Refuse what would have to be awaited, and so would not run at all."""
    plain = inspect.unwrap(function)
    if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
        raise DeclarationError(owner, "is async, and nobody would await it. Stages and hooks are plain functions.")


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether calling it only makes a generator."""
    return inspect.isgeneratorfunction(inspect.unwrap(function))


def _contract(
    owner: str,
    function: Callable[..., Any],
    facts: Mapping[str, Any],
    state: type | None,
    cls: type | None = None,
    skip: int = 0,
) -> Contract:
    """What a function declares, by its signature and by `facts`: reads, writes, touches, restores, unsafe."""
    parameters, annotation = _signature(owner, function, skip)
    wanted = None if annotation is None else _state_class(owner, function, annotation, state is not None)
    fields = [p.name + ("?" if p.optional else "") for p in parameters if p.name not in RESERVED]
    classes = [wanted] if wanted is not None else []
    if state is not None:
        if not (isinstance(state, type) and issubclass(state, State)):
            raise DeclarationError(owner, f"state={state!r} is no State class.")
        classes.append(state)
    access = _declared(owner, facts, fields)
    return Contract(access, parameters, tuple(dict.fromkeys(classes)), {}, (), source_of(function, cls))


def _declared(owner: str, facts: Mapping[str, Any], parameters: Iterable[str]) -> Access:
    """The access that `facts` and the parameters declare."""
    which = ("reads", "writes", "touches", "restores", "spoils")
    reads, *others, spoils = declared = [names_in(owner, what, facts.get(what, ())) for what in which]
    for what, names in zip(which, declared, strict=True):
        refuse_unknown_parts(owner, what, names)
    unsafe = flag_in(owner, "unsafe", facts.get("unsafe", False))
    for name in others[0]:
        if "." in name and name.endswith("?"):
            told = f"writes {name!r}. Only a field is marked so; of a part write {name[:-1]!r}: it may change or not."
            raise DeclarationError(owner, told)
    if RNG in others[0]:
        raise DeclarationError(owner, f"writes {RNG!r}, which is no field. What draws from the generators touches it.")
    return replace(Access.of([*reads, *parameters], *others), spoils=spoils, unsafe=unsafe)


def parameters_of(owner: str, function: Callable[..., Any]) -> tuple[tuple[str, bool], ...]:
    """The fields that a function of fields takes, and whether each is optional.

    Raises:
        DeclarationError: its signature cannot be used, or it takes `state` or `outcome`.
    """
    parameters, _ = _signature(owner, function, 0)
    for parameter in parameters:
        if parameter.name in RESERVED:
            raise DeclarationError(owner, f"takes {parameter.name!r}. Name the fields it reads: lambda updates: ...")
    return tuple((parameter.name, parameter.optional) for parameter in parameters)


def _signature(owner: str, function: Callable[..., Any], skip: int) -> tuple[tuple[Parameter, ...], Any]:
    """The parameters of a function, and the annotation of its `state`, or None."""
    try:
        given = list(inspect.signature(function).parameters.values())[skip:]
    except (TypeError, ValueError):
        raise DeclarationError(owner, f"the signature of {function!r} cannot be read. Wrap it in a def.") from None
    parameters, annotation = [], None
    for parameter in given:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            told = "Its parameters are the fields it reads: name them, or take `state`."
            raise DeclarationError(owner, f"takes *{parameter.name}. {told}")
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            told = "It is called both ways, so its signature takes no '*' and no '/'."
            raise DeclarationError(owner, f"parameter {parameter.name!r} is {parameter.kind.description}. {told}")
        if parameter.default not in (parameter.empty, None):
            told = "A parameter is a field; one with default None is optional. Settings belong into the constructor."
            raise DeclarationError(owner, f"parameter {parameter.name!r} has the default {parameter.default!r}. {told}")
        if parameter.name == "state" and parameter.annotation is not parameter.empty:
            annotation = parameter.annotation
        parameters.append(Parameter(parameter.name, parameter.default is None))
    return tuple(parameters), annotation


def _state_class(owner: str, function: Callable[..., Any], annotation: Any, is_given: bool) -> type[State] | None:
    """The State class of an annotation, also of one that is a string; None for Any and object.

    One that cannot be found is no fault where the declaration gives the class by `state=`.
    """
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, inspect.unwrap(function).__globals__)  # what typing.get_type_hints does
        except Exception:
            if is_given:
                return None
            told = "Define it at module level; a hook or a function can say state=... in its declaration instead."
            raise DeclarationError(owner, f"the annotation {annotation!r} of `state` cannot be found. {told}") from None
    if annotation is Any or annotation is object:
        return None
    if isinstance(annotation, type) and issubclass(annotation, State):
        return annotation
    raise DeclarationError(owner, f"annotates `state` with {annotation!r}, which is no State class.")


def source_of(function: Callable[..., Any], cls: type | None = None) -> str:
    """Where a function's code stands: qualified name, file and first line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = f"{cls.__qualname__}.run" if cls is not None else getattr(function, "__qualname__", repr(function))
    return f"{name} {code.co_filename}:{code.co_firstlineno}" if code else name
