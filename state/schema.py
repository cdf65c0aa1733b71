"""One schema from many: the State class that has the fields of all actors, and what its names cover."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import create_model
from pydantic.fields import FieldInfo
from torch import Tensor

from state.errors import FieldNotReady, SchemaError
from state.fields import MISSING, FieldSpec, field, fresh
from state.parts import RNG, parts_of
from state.state import State, refuse_reserved

Brought = Mapping[str, tuple[Any, Any]]
"""Fields that one actor brings: name -> (annotation, default or `field(...)`)."""


def compose(classes: Iterable[tuple[str, type[State]]], brought: Iterable[tuple[str, Brought]] = ()) -> type[State]:
    """The State class with the fields of all `classes` and the `brought` ones.

    Args:
        classes: pairs of who needs it and the State class; the first one is the user's own.
        brought: pairs of who brings them and the fields.

    Returns:
        One of `classes` when it has everything, else a new class derived from them.

    Raises:
        SchemaError: a name with two types or scopes, naming both owners.
    """
    bases: list[type[State]] = []
    seen: dict[str, tuple[FieldSpec, str]] = {}
    for who, cls in classes:
        if not any(issubclass(base, cls) for base in bases):
            bases = [base for base in bases if not issubclass(cls, base)] + [cls]
        for spec in cls.specs.values():
            if not _narrowed(spec.name, cls, bases):
                _same(seen, spec, f"{spec.owner} (for {who})")
    extra: dict[str, tuple[Any, Any]] = {}
    for who, fields in brought:
        for name, (annotation, default) in fields.items():
            refuse_reserved(name, who)
            info = default if isinstance(default, FieldInfo) else field(default=default)
            spec = FieldSpec.of(name, FieldInfo.from_annotated_attribute(annotation, info), who)
            if _same(seen, spec, who):
                extra[name] = (annotation, info)
    if len(bases) == 1 and not extra:
        return bases[0]
    names = "And".join(base.__name__.removesuffix("Composed") for base in bases)
    try:
        composed: type[State] = create_model(f"{names}Composed", __base__=tuple(bases), **extra)  # type: ignore[call-overload]
    except TypeError as error:  # no order of the bases keeps the order that each of them has
        raise SchemaError(f"{[base.__name__ for base in bases]} cannot be one schema: {error}") from None
    composed.specs = {name: seen[name][0] for name in composed.model_fields}
    return composed


def upgrade(state: State, cls: type[State]) -> None:
    """Give `state` the class `cls` in place: whoever holds it holds the live one. New run fields get their defaults."""
    for name, spec in cls.specs.items():
        if name not in type(state).specs and spec.scope == "run" and spec.default is not MISSING:
            copied = isinstance(spec.default, list | dict | set | Tensor)
            state.__dict__[name] = fresh(spec.default) if copied else spec.default
    object.__setattr__(state, "__class__", cls)


def build(state: State) -> list[str]:
    """Make the run fields that have a factory and no value yet, each after those that it reads.

    Returns:
        Their names, in the order they were made.

    Raises:
        FieldNotReady: a factory reads a field that nobody makes.
    """
    waiting = [
        s for s in state.specs.values() if s.scope == "run" and s.factory is not None and not state.ready(s.name)
    ]
    made: list[str] = []
    while waiting:
        still = []
        for spec in waiting:
            assert spec.factory is not None
            try:
                value = spec.factory(state)
            except FieldNotReady as error:
                if error.field not in {other.name for other in waiting} - {spec.name}:
                    raise
                still.append(spec)
                continue
            state.__dict__[spec.name] = spec.validate(value, "setup")
            made.append(spec.name)
        if len(still) == len(waiting):
            names = sorted(spec.name for spec in still)
            raise SchemaError(f"The factories of {names} wait for each other. Let one of them not read the other.")
        waiting = still
    return made


def vocabulary(cls: type[State], state: State | None = None) -> dict[str, FieldSpec]:
    """Every name an actor may declare, with the field it belongs to: fields, their parts, and `rng`.

    The parts follow from the object where there is one, else from the annotation.
    """
    names: dict[str, FieldSpec] = {
        RNG: FieldSpec(RNG, Any, "run", MISSING, None, "random number generators", "saved", "", "State")
    }
    for name, spec in cls.specs.items():
        names[name] = spec
        value = None if state is None else state.__dict__.get(name)
        kind = spec.annotation if value is None else type(value)
        for part in parts_of(kind):
            names[f"{name}.{part}"] = spec
    return names


def _narrowed(name: str, cls: type[State], others: Iterable[type[State]]) -> bool:
    """Whether another class declares a field anew that it has from the same place as `cls`: its word counts then."""
    spec = cls.specs[name]
    return any(
        other.specs.get(name, spec) is not spec
        and any(vars(base).get("specs", {}).get(name) is spec for base in other.__mro__)
        for other in others
    )


def _same(seen: dict[str, tuple[FieldSpec, str]], spec: FieldSpec, who: str) -> bool:
    """Note a field; False if it is there already with the same meaning.

    Raises:
        SchemaError: it is there with another type or scope.
    """
    if spec.name not in seen:
        seen[spec.name] = (spec, who)
        return True
    other, owner = seen[spec.name]
    if (other.annotation, other.scope) == (spec.annotation, spec.scope):
        return False
    first, second = other.type_text, spec.type_text
    if first == second and other.scope == spec.scope:  # they differ in their constraints
        first, second = str(other.annotation), str(spec.annotation)
    told = f"{owner} declares it {first} in scope {other.scope!r}"
    here = f"{who} declares it {second} in scope {spec.scope!r}"
    raise SchemaError(f"Field {spec.name!r} is declared twice: {told}; {here}. Rename one of them.")
