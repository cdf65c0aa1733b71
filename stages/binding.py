"""Binding: a copy of a stage or callback that works on other fields of State than those it names."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from stages.errors import DeclarationError
from state.access import Names, rename
from state.fields import FieldSpec, field
from state.schema import Brought
from state.state import State, refuse_reserved

Thing = TypeVar("Thing")


def bound_copy(thing: Thing, names: Names) -> Thing:
    """A copy of a stage or callback that reads and writes `names`: its own name -> State's name.

    Raises:
        DeclarationError: a name is none that a field can have.
    """
    for own, other in names.items():
        if not isinstance(other, str) or not other.isidentifier():
            told = f"Name a field of State: bind({own}='critic'), say."
            raise DeclarationError(type(thing).__name__, f"bind({own}={other!r}) names no field. {told}")
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
    """What an actor brings, in State's names: its own fields, and those of its State classes that go by other names.

    Args:
        known: fields that State has from elsewhere; those of the classes stand back for them.
    """
    if not names:
        return brought
    fields = {rename(name, names): _made_of(name, given, names) for name, given in brought.items()}
    held = {*known, *fields}
    for cls in classes:
        for name, spec in cls.specs.items():
            other = names.get(name, name)
            if other not in held and other != name:
                fields[other] = _as_field(spec)
    return fields


class BoundState:
    """State under the names that an actor has for its fields, as its factories see it."""

    def __init__(self, state: State, names: Names) -> None:
        self._state = state
        self._names = names

    def ready(self, name: str) -> bool:
        """Whether a field has a value."""
        return self._state.ready(self._names.get(name, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, self._names.get(name, name))


def _made_of(name: str, given: tuple[Any, Any], names: Names) -> tuple[Any, Any]:
    """A field whose factory, if it has one, is given State under these names."""
    annotation, default = given
    if not isinstance(default, FieldInfo):
        return given
    spec = FieldSpec.of(name, FieldInfo.from_annotated_attribute(annotation, default), "bind")
    factory = spec.factory
    if factory is None:
        return given
    return _as_field(replace(spec, factory=lambda state: factory(BoundState(state, names))))


def _as_field(spec: FieldSpec) -> tuple[Any, Any]:
    """A field as `fields()` would bring it."""
    facts = {"scope": spec.scope, "default": spec.default, "factory": spec.factory, "description": spec.description}
    return spec.annotation, field(**facts, saved=spec.saved, because=spec.because)
