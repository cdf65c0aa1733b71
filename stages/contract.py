"""The contract of an actor: its declaration and its signature, read once."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from stages.errors import DeclarationError
from stages.stage import Composite, FunctionStage, Stage
from state.access import Access
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


def contract_of(stage: Stage) -> Contract:
    """The contract of a stage.

    Raises:
        DeclarationError: its signature or declaration cannot be used.
    """
    owner = repr(stage) if isinstance(stage, FunctionStage) else type(stage).__name__
    if isinstance(stage, FunctionStage):
        function: Callable[..., Any] = stage.__dict__["function"]
        facts = function.__stage__  # type: ignore[attr-defined]
        return _stage_contract(
            owner, function, facts["reads"], facts["writes"], facts["touches"], facts["state"], {}, facts["inline"]
        )
    function = type(stage).run
    if function is Composite.run:
        parameters: tuple[Parameter, ...] = ()
        given = (_names(owner, what, getattr(stage, what)) for what in ("reads", "writes", "touches"))
        inline = _names(owner, "inline", stage.inline)
        return Contract(Access.of(*given), parameters, (), stage.fields(), inline, source_of(function, type(stage)))
    return _stage_contract(
        owner,
        function,
        stage.reads,
        stage.writes,
        stage.touches,
        None,
        stage.fields(),
        stage.inline,
        type(stage),
        skip=1,
    )


def hook_contract(
    owner: str,
    function: Callable[..., Any],
    reads: Iterable[str],
    writes: Iterable[str],
    touches: Iterable[str],
    state: type | None,
    *,
    method: bool,
) -> Contract:
    """The contract of a hook. One that takes only `state` (and `outcome`) and declares nothing is an observer.

    Raises:
        DeclarationError: its signature or declaration cannot be used.
    """
    made = _contract(owner, function, reads, writes, touches, state, {}, (), skip=1 if method else 0)
    declares = made.access.reads or made.access.writes or made.access.touches
    if made.takes_view and not declares:
        return Contract(Access(observer=True), made.parameters, made.classes, {}, (), made.source)
    return made


def _stage_contract(owner: str, *given: Any, **how: Any) -> Contract:
    """The contract of what runs in a slot; how it will end is nothing that it can ask for."""
    made = _contract(owner, *given, **how)
    if any(parameter.name == "outcome" for parameter in made.parameters):
        told = "Only a hook knows how its stage ended; call the field of that name otherwise."
        raise DeclarationError(owner, f"takes 'outcome', which is reserved. {told}")
    return made


def _contract(
    owner: str,
    function: Callable[..., Any],
    reads: Iterable[str],
    writes: Iterable[str],
    touches: Iterable[str],
    state: type | None,
    brought: Brought,
    inline: tuple[str, ...],
    cls: type | None = None,
    skip: int = 0,
) -> Contract:
    parameters, annotation = _signature(owner, function, skip)
    wanted = None if annotation is None else _state_class(owner, function, annotation, state is not None)
    fields = [p.name + ("?" if p.optional else "") for p in parameters if p.name not in RESERVED]
    access = Access.of(
        [*_names(owner, "reads", reads), *fields], _names(owner, "writes", writes), _names(owner, "touches", touches)
    )
    classes = [wanted] if wanted is not None else []
    if state is not None:
        if not (isinstance(state, type) and issubclass(state, State)):
            raise DeclarationError(owner, f"state={state!r} is no State class.")
        classes.append(state)
    names = _names(owner, "inline", inline)
    return Contract(access, parameters, tuple(dict.fromkeys(classes)), brought, names, source_of(function, cls))


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


def _names(owner: str, what: str, names: Iterable[str]) -> tuple[str, ...]:
    """Declared names; a lone string is the usual slip: ("loss") for ("loss",)."""
    if isinstance(names, str):
        raise DeclarationError(owner, f"{what} = {names!r} is a string. Write {what} = ({names!r},), with the comma.")
    checked = tuple(names)
    for name in checked:
        if not isinstance(name, str):
            raise DeclarationError(owner, f"{what} holds {name!r}, which is no field's name.")
    return checked


def source_of(function: Callable[..., Any], cls: type | None = None) -> str:
    """Where a function's code stands: qualified name, file and first line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = f"{cls.__qualname__}.run" if cls is not None else getattr(function, "__qualname__", repr(function))
    return f"{name} {code.co_filename}:{code.co_firstlineno}" if code else name
