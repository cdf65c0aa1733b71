"""Binding: a copy of a stage or callback that works on other fields of State than those it names."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_origin

from pydantic.fields import FieldInfo

from stages.errors import DeclarationError
from state.access import Names, own_names, rename
from state.errors import short
from state.fields import FieldSpec, field
from state.schema import Brought
from state.state import State, refuse_reserved

Thing = TypeVar("Thing")
Kind = TypeVar("Kind")


def bound_copy(thing: Thing, names: Names) -> Thing:
    """A copy of a stage or callback that reads and writes `names`: its own name -> State's name.

    Raises:
        DeclarationError: it is no field's name.
        SchemaError: no field can be called so.
    """
    for own, other in names.items():
        if not isinstance(other, str) or not other.isidentifier():
            told = f"Name a field of State: bind({own}='critic'), say."
            raise DeclarationError(type(thing).__name__, f"bind({own}={short(other)}) names no field. {told}")
        refuse_reserved(other, f"bind({own}=...)")
    made = copy.copy(thing)
    made.__dict__.pop("_bound", None)
    made.__dict__["_names"] = {**names_of(thing), **names}
    return made


def names_of(thing: object) -> Names:
    """What `bind` gave a stage or callback."""
    names: Names = getattr(thing, "__dict__", {}).get("_names", {})
    return names


def brought_as(brought: Brought, classes: Iterable[type[State]], names: Names, known: Iterable[str]) -> Brought:
    """What an actor brings, in State's names: its own fields, and those of its State classes.

    The classes of an actor that was bound are no part of the schema: it calls their fields by other names.

    Args:
        known: fields that State has from elsewhere; those of the classes stand back for them.
    """
    if not names:
        return brought
    fields = {rename(name, names): _renamed(name, given, names) for name, given in brought.items()}
    held = {*known, *fields}
    for cls in classes:
        for name, spec in cls.specs.items():
            if names.get(name, name) not in held:
                fields[names.get(name, name)] = _as_field(spec, names)
    return fields


def misfits(classes: Iterable[type[State]], names: Names, known: Mapping[str, FieldSpec]) -> Iterator[tuple[str, str]]:
    """Fields of State classes that `bind` points at a field of quite another type: own name, and why it cannot be."""
    for cls in classes:
        for own, other in names.items():
            here, there = cls.specs.get(own), known.get(other)
            if here and there and _are_strangers(here.annotation, there.annotation):
                types = f"{here.type_text} in {cls.__name__}, {there.type_text} in {there.owner}"
                yield own, f"{own!r} and {other!r} are of two types: {types}."


class BoundState:
    """State as an actor that was bound calls its fields, for the factories of what it brings."""

    def __init__(self, state: State, names: Names) -> None:
        self._state = state
        self._names = names

    def ready(self, name: str) -> bool:
        """Whether field `name` has a value now."""
        return self._state.ready(self._names.get(name, name))

    def components(self, kind: type[Kind]) -> dict[str, Kind]:
        """The values that are a `kind` now, by the names that the actor has for them."""
        found = self._state.components(kind).items()
        return {own: value for name, value in found for own in own_names(name, self._names)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, self._names.get(name, name))


def _renamed(name: str, given: tuple[Any, Any], names: Names) -> tuple[Any, Any]:
    """A field of `fields()`; its factory, if it has one, finds State as the actor calls it."""
    annotation, info = given
    if not isinstance(info, FieldInfo):
        return given
    spec = FieldSpec.of(name, FieldInfo.from_annotated_attribute(annotation, info), "bind")
    return given if spec.factory is None else _as_field(spec, names)


def _as_field(spec: FieldSpec, names: Names) -> tuple[Any, Any]:
    """A field as `fields()` would bring it."""
    make = spec.factory
    facts: dict[str, Any] = {"scope": spec.scope, "default": spec.default, "description": spec.description}
    facts["factory"] = None if make is None else lambda state: make(BoundState(state, names))
    return spec.annotation, field(**facts, saved=spec.saved, because=spec.because)


def _are_strangers(one: Any, other: Any) -> bool:
    """Whether no value is both: two classes, neither of which derives from the other."""
    one, other = (kind.__origin__ if get_origin(kind) is Annotated else kind for kind in (one, other))
    if one is Any or other is Any or not (isinstance(one, type) and isinstance(other, type)):
        return False
    try:
        return not (issubclass(one, other) or issubclass(other, one))
    except TypeError:  # a protocol, of which one cannot ask that
        return False
