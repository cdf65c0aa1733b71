"""What a field of State is: its type, its scope, its default, and the validator that guards each write."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from torch import Tensor

from state.annotations import (
    CONTAINERS,
    NUMBERS,
    alternatives,
    is_plain,
    keeps,
    refuse_unusable,
    tensor_in,
    type_text,
    walk,
)
from state.errors import InvalidValue, SchemaError, short


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "not ready"


MISSING: Final = Missing.MISSING
"""Stands for "no value", where None is a value."""

Saved = Literal["saved", "derived", "volatile"]

_CONFIG = ConfigDict(arbitrary_types_allowed=True)


def field(
    *,
    scope: str = "run",
    default: Any = MISSING,
    factory: Callable[[Any], Any] | None = None,
    description: str = "",
    saved: Saved | None = None,
    because: str = "",
    **constraints: Any,
) -> Any:
    """Declare a field of a State class, where a plain default is not enough.

    Args:
        scope: how long a value is valid: "run", "epoch", "phase", "update", "batch", or a name of your own.
        default: the value each time the scope opens. Without one the field is *not ready* until somebody writes it.
        factory: makes that value from the state, for objects built from others (a scheduler from its optimizer) and
            for values that must be new each time; or list, dict or set, for an empty one. Either this or `default`.
        description: one line: meaning, shape, unit.
        saved: whether a checkpoint holds it: "saved", "derived" or "volatile". By default update and batch scopes are
            volatile and everything else is saved.
        because: how it is derived, or why it is volatile.
        constraints: what `pydantic.Field` takes: `gt=0`, `le=1`, `pattern=...`.

    Raises:
        SchemaError: both `default` and `factory` were given.
    """
    if default is not MISSING and factory is not None:
        raise SchemaError("A field takes default= or factory=, not both. Keep factory= if the value depends on others.")
    facts: Any = {"scope": scope, "factory": factory, "saved": saved, "because": because}
    return Field(default=default, description=description or None, json_schema_extra={"staged": facts}, **constraints)


@dataclass(frozen=True)
class Copies:
    """The factory of a field whose default can change in place: each value is a copy of its own."""

    original: Any

    def __call__(self, state: Any) -> Any:
        return fresh(self.original)


@dataclass(frozen=True)
class FieldSpec:
    """One field of a schema, as the classes that bring it declare it."""

    name: str
    annotation: Any
    scope: str
    default: Any
    factory: Callable[[Any], Any] | None
    description: str
    saved: Saved
    because: str
    owner: str

    @classmethod
    def of(cls, name: str, info: FieldInfo, owner: str) -> "FieldSpec":
        """The spec of a pydantic field; a field written without `field()` has run scope."""
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        facts: dict[str, Any] = extra.get("staged", {})  # type: ignore[assignment]  # ours, put there by field()
        refuse_unusable(f"{owner}.{name}", info)
        scope = facts.get("scope", "run")
        given = info.default if info.default_factory is None and not info.is_required() else MISSING
        default = given
        factory = facts.get("factory")
        if factory in (list, dict, set):  # as a dataclass has it
            factory = Copies(factory())
        if factory is None and info.default_factory is not None:
            make: Any = info.default_factory
            default, factory = MISSING, lambda state: make()
        elif default is not MISSING and scope != "run" and fresh(default) is not default:
            default, factory = MISSING, Copies(fresh(default))
        annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        short_lived = scope in ("update", "batch")
        saved: Saved = facts.get("saved") or ("volatile" if short_lived else "saved")
        because = facts.get("because") or ("ends with its scope" if short_lived else "")
        made = cls(name, annotation, scope, default, factory, info.description or "", saved, because, owner)
        if given is not MISSING:
            try:
                made.validate(given, owner)
            except InvalidValue as error:
                raise SchemaError(f"The default of {owner}.{name} is none that the field takes. {error}") from None
        return made

    @property
    def first(self) -> Any:
        """What the log shows as the value before the first write in a scope: the default, or that a factory made it."""
        if isinstance(self.factory, Copies):
            return self.factory.original
        return self.default if self.factory is None or self.scope == "run" else "made by its factory"

    @property
    def type_text(self) -> str:
        """The annotation as a person writes it: `Tensor | None`."""
        return type_text(self.annotation)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Compiled once; only the slow path of a write uses it."""
        try:
            return TypeAdapter(self.annotation, config=_CONFIG)
        except PydanticUserError as error:
            if error.code == "type-adapter-config-unused":  # a model, dataclass or TypedDict, which has its own
                return TypeAdapter(self.annotation)
            told = str(error).splitlines()[0]
            raise SchemaError(f"{self.owner}.{self.name} is declared {self.type_text}: {told}") from None

    @cached_property
    def is_plain(self) -> bool:
        """Whether a second value of a type accepted once needs no check beyond `type(value) is accepted`."""
        return all(is_plain(schema) for schema in alternatives(dict(self.adapter.core_schema)))

    def takes_tensor(self, value: Tensor) -> bool:
        """Whether a Tensor may stand here; otherwise pydantic would coerce it to a number, a device sync."""
        return any(keeps(schema, value) for schema in alternatives(dict(self.adapter.core_schema), through=True))

    @cached_property
    def holds_numbers(self) -> bool:
        """Whether it is a container of numbers, and so pydantic would coerce the tensors in it."""
        inside = list(walk(self.adapter.core_schema))
        return any(s["type"] in NUMBERS for s in inside) and not any(keeps(s, Tensor()) for s in inside)

    def validate(self, value: Any, actor: str) -> Any:
        """`value` as the field accepts it.

        Raises:
            InvalidValue: naming actor, field, what is allowed and what arrived.
        """
        inner = tensor_in(value) if isinstance(value, CONTAINERS) and self.holds_numbers else False
        if inner or (isinstance(value, Tensor) and not self.takes_tensor(value)):
            reason = f"The field is {self.type_text}; a Tensor is never converted, that would be a device sync. "
            raise InvalidValue(self.name, actor, value, reason + "Declare it Tensor, or convert it where you write it.")
        try:
            return self.adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"]
            reason = f"The field is {self.type_text}, set by {self.owner}: {problem}; got {type(value).__name__}."
            reason += " Does the function return what it makes?" if value is None else ""
            raise InvalidValue(self.name, actor, value, reason) from None


class Invariant:
    """A rule between fields, as `invariant` declares it."""

    def __init__(self, names: tuple[str, ...], rule: Callable[[Any], object]) -> None:
        self.names = names
        self.rule = rule
        self.__doc__ = rule.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.title = f"{owner.__name__}.{name}"
        owner.own_invariants = (*owner.__dict__.get("own_invariants", ()), self)  # type: ignore[attr-defined]

    def check(self, state: Any, field_name: str, actor: str) -> None:
        """Run the rule on `state`.

        Raises:
            InvalidValue: the rule raised AssertionError or ValueError, or returned False.
        """
        try:
            kept = self.rule(state)
        except (AssertionError, ValueError) as error:
            kept, told = False, str(error)
        else:
            told = ""
        if kept is False:
            values = ", ".join(f"{name}={short(getattr(state, name))}" for name in self.names)
            reason = (
                f"It breaks the invariant {self.title} ({values}){': ' + told if told else ''}. The old value stays."
            )
            raise InvalidValue(field_name, actor, getattr(state, field_name), reason)


def invariant(*names: str) -> Callable[[Callable[[Any], object]], Invariant]:
    """State a rule between fields, checked when one of `names` is written and all of them are ready.

    Example:
        >>> from state import State, invariant
        >>> class Counted(State):
        ...     updates: int = 0
        ...     batches_seen: int = 0
        ...
        ...     @invariant("updates", "batches_seen")
        ...     def updates_follow_batches(self):
        ...         assert self.updates <= self.batches_seen, "an update needs a batch"
        >>> Counted(batches_seen=2).updates
        0

    Raises:
        SchemaError: it names no field.
    """
    if not names or not all(isinstance(name, str) for name in names):
        raise SchemaError('An invariant names the fields that it is about: @invariant("updates", "batches_seen").')

    def decorate(rule: Callable[[Any], object]) -> Invariant:
        return Invariant(names, rule)

    return decorate


def fresh(default: Any) -> Any:
    """A default that nobody else holds; the object itself where it cannot change or cannot be copied."""
    try:
        return deepcopy(default)
    except Exception:  # a lock, a module, a tensor with a graph: what its class raises
        return default
