"""What a field of State is: its type, its scope, its default, and the validator that guards each write."""

from abc import ABCMeta
from collections.abc import Callable, Generator, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Final, ForwardRef, Literal, get_args, get_origin

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from torch import Tensor

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
# Schemas of pydantic that hand back a value of the exact type accepted before as it is.
_PLAIN_SCHEMAS = {"is-instance", "any", "int", "float", "str", "bool", "none", "callable"}
# Checks that look at the type of a value only; jaxtyping and torch.FloatTensor bring others.
_BY_TYPE = (type.__instancecheck__, ABCMeta.__instancecheck__)
# Schemas that check the value by one that they hold, and where it stands in them.
_AROUND = {
    "default": "schema",
    "custom-error": "schema",
    "function-after": "schema",
    "function-before": "schema",
    "function-wrap": "schema",
    "json-or-python": "python_schema",
    "lax-or-strict": "lax_schema",
}
_NUMBERS = {"int", "float", "bool", "complex", "decimal"}
_CONTAINERS = (dict, list, tuple, set, frozenset)


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
            for values that must be new each time. Either this or `default`.
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
        _refuse_unusable(f"{owner}.{name}", info)
        scope = facts.get("scope", "run")
        default = MISSING if info.is_required() else info.get_default(call_default_factory=False)
        factory = facts.get("factory")
        if factory is None and info.default_factory is not None:
            make: Any = info.default_factory
            default, factory = MISSING, lambda state: make()
        elif default is not MISSING and scope != "run" and fresh(default) is not default:
            original = fresh(default)
            default, factory = MISSING, lambda state: fresh(original)
        annotation = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        short_lived = scope in ("update", "batch")
        saved: Saved = facts.get("saved") or ("volatile" if short_lived else "saved")
        because = facts.get("because") or ("ends with its scope" if short_lived else "")
        made = cls(name, annotation, scope, default, factory, info.description or "", saved, because, owner)
        if not info.is_required() and info.default_factory is None and info.default is not MISSING:
            try:
                made.validate(info.default, owner)
            except InvalidValue as error:
                raise SchemaError(f"The default of {owner}.{name} is none that the field takes. {error}") from None
        return made

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
        return all(_is_plain(schema) for schema in _flat(dict(self.adapter.core_schema)))

    def takes_tensor(self, value: Tensor) -> bool:
        """Whether a Tensor may stand here; otherwise pydantic would coerce it to a number, a device sync."""
        return any(_keeps(schema, value) for schema in _flat(dict(self.adapter.core_schema), through=True))

    @cached_property
    def holds_numbers(self) -> bool:
        """Whether it is a container of numbers, and so pydantic would coerce the tensors in it."""
        inside = list(_walk(self.adapter.core_schema))
        return any(s["type"] in _NUMBERS for s in inside) and not any(_keeps(s, Tensor()) for s in inside)

    def validate(self, value: Any, actor: str) -> Any:
        """`value` as the field accepts it.

        Raises:
            InvalidValue: naming actor, field, what is allowed and what arrived.
        """
        inner = _tensor_in(value) if isinstance(value, _CONTAINERS) and self.holds_numbers else False
        if inner or (isinstance(value, Tensor) and not self.takes_tensor(value)):
            reason = f"The field is {self.type_text}; a Tensor is never converted, that would be a device sync. "
            raise InvalidValue(self.name, actor, value, reason + "Declare it Tensor, or convert it where you write it.")
        try:
            return self.adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]["msg"]
            reason = f"The field is {self.type_text}, set by {self.owner}: {problem}; got {type(value).__name__}."
            raise InvalidValue(self.name, actor, value, reason) from None


class Invariant:
    """A rule between fields, as `invariant` declares it."""

    def __init__(self, names: tuple[str, ...], rule: Callable[[Any], object]) -> None:
        self.names = names
        self.rule = rule
        self.__doc__ = rule.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
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
    """

    def decorate(rule: Callable[[Any], object]) -> Invariant:
        return Invariant(names, rule)

    return decorate


def type_text(annotation: Any) -> str:
    """An annotation without module names."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    if hasattr(annotation, "__metadata__"):
        return type_text(annotation.__origin__)
    return str(annotation).replace("typing.", "").replace("torch.nn.modules.module.", "").replace("torch.", "")


def fresh(default: Any) -> Any:
    """A default that nobody else holds; the object itself where it cannot change or cannot be copied."""
    try:
        return deepcopy(default)
    except Exception:  # a lock, a module, a tensor with a graph: what its class raises
        return default


def _refuse_unusable(name: str, info: FieldInfo) -> None:
    """Refuse what pydantic would take, and what would then not do what it says.

    Raises:
        SchemaError: an annotation that copies the value into a generator or is not defined yet; an alias.
    """
    shown = f"{name} is declared {type_text(info.annotation)}"
    inside = list(_annotations(info.annotation))
    if any(found is each or get_origin(found) is each for found in inside for each in (Iterable, Generator)):
        raise SchemaError(f"{shown}: pydantic would wrap the value into a generator. Annotate it Any, or with a class.")
    if any(isinstance(found, ForwardRef | str) for found in inside):
        raise SchemaError(f"{shown}, which is not defined there yet. Define it above the State class, or import it.")
    if info.alias is not None or info.validation_alias is not None:
        raise SchemaError(f"{name} has an alias. A field has one name; rename it, or bind the stage to it.")


def _annotations(annotation: Any) -> Iterator[Any]:
    """An annotation and all inside it that are types of values: not what a callable takes, nor the words of a Literal."""
    yield annotation
    if get_origin(annotation) not in (Literal, Callable):
        inside = get_args(annotation)
        for each in inside[:1] if hasattr(annotation, "__metadata__") else inside:
            yield from _annotations(each)


def _flat(schema: dict[str, Any], *, through: bool = False) -> list[dict[str, Any]]:
    """The alternatives of a pydantic core schema: members of a union, the inside of an optional.

    With `through`, validators and other wrappers are seen through.
    """
    kind = schema["type"]
    if kind == "nullable":
        return _flat(schema["schema"], through=through) + [{"type": "none"}]
    if kind == "union":
        choices = (choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"])
        return [member for choice in choices for member in _flat(choice, through=through)]
    if through and kind in _AROUND:
        return _flat(schema[_AROUND[kind]], through=True)
    if through and kind == "chain":
        return _flat(schema["steps"][0], through=True)
    return [schema]


def _is_plain(schema: dict[str, Any]) -> bool:
    by_type = schema["type"] != "is-instance" or type(schema["cls"]).__instancecheck__ in _BY_TYPE
    return by_type and schema["type"] in _PLAIN_SCHEMAS and set(schema) <= {"type", "cls", "cls_repr", "metadata"}


def _keeps(schema: Any, value: Tensor) -> bool:
    """Whether a schema hands back a Tensor as it is, or leaves it to the user's function."""
    if schema["type"] == "is-instance":
        return isinstance(value, schema["cls"])
    return schema["type"] in ("any", "function-plain")


def _walk(schema: Any) -> Iterator[dict[str, Any]]:
    """A pydantic core schema and all that it holds."""
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield schema
        for name, inside in schema.items():
            if name not in ("metadata", "serialization", "json_schema"):
                yield from _walk(inside)
    elif isinstance(schema, list | tuple):
        for inside in schema:
            yield from _walk(inside)


def _tensor_in(value: Any) -> bool:
    """Whether a container holds a Tensor."""
    if isinstance(value, _CONTAINERS):
        return any(_tensor_in(inside) for inside in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, Tensor)
