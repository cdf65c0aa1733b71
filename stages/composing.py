"""Composing: the schema of a tree, from the fields of the user's State and of all actors."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic.fields import FieldInfo

from stages.binding import brought_as, misfits, names_of
from stages.callbacks import Hook
from stages.finding import Finding
from stages.place import Place
from state.access import Access, Names, rename
from state.errors import SchemaError
from state.fields import MISSING, FieldSpec
from state.schema import Brought, compose
from state.state import State


def composed(
    classes: list[tuple[str, type[State]]], brought: list[tuple[str, Brought]]
) -> tuple[type[State], list[Finding], list[type[State]]]:
    """The schema; where it has conflicts, the one without those who cause them, and a finding for each of these.

    So that one conflict does not hide what else is wrong. The classes that were left out come last.
    """
    try:
        return compose(classes, brought), [], []
    except SchemaError:
        pass
    kept, left_out = classes[:1], []
    fitting: list[tuple[str, Brought]] = []
    found: list[Finding] = []
    for who, cls in classes[1:]:
        try:
            compose([*kept, (who, cls)])
            kept.append((who, cls))
        except SchemaError as error:
            found.append(Finding("error", "schema conflict", (who,), str(error)))
            left_out.append(cls)
    for who, fields in brought:
        for name, given in fields.items():
            try:
                compose(kept, [*fitting, (who, {name: given})])
                fitting.append((who, {name: given}))
            except SchemaError as error:
                found.append(Finding("error", "schema conflict", (who,), str(error)))
    return compose(kept, fitting), found, left_out


def classes_of(schema: type[State], places: list[Place], hooks: list[Hook]) -> list[tuple[str, type[State]]]:
    """Who needs which State class; the user's own first. Those of actors that were bound are left out: see `bind`."""
    classes = {schema: schema.__name__}
    for place in places:
        for cls in place.contract.classes if not place.names else ():
            classes.setdefault(cls, place.path)
    for hook in hooks:
        for cls in hook.contract.classes if not names_of(hook.callback) else ():
            classes.setdefault(cls, hook.name)
    return [(who, cls) for cls, who in classes.items()]


def brought_of(
    places: list[Place], classes: list[tuple[str, type[State]]], findings: list[Finding]
) -> Iterator[tuple[str, Brought]]:
    """The fields that stages and callbacks bring; names with `{phase}` once for each phase they stand in.

    Two callbacks that bring one field, which each takes for its own, go to `findings`; so do two stages that bring one
    with different values.
    """
    shared: set[tuple[int, int]] = set()
    known = {name: spec for _, cls in classes for name, spec in cls.specs.items()}
    seen: set[tuple[int, frozenset[tuple[str, str]]]] = set()
    bringers: dict[str, Hook] = {}
    settings: dict[str, tuple[str, Any]] = {}
    for place in places:
        key = (id(place.stage), frozenset(place.names.items()))
        if place.kind == "stage" and key not in seen:
            seen.add(key)
            brought = brought_as(place.contract.brought, place.contract.classes, place.names, known)
            findings += _misfits(place.path, place.contract.classes, place.names, known)
            findings += _other_values(place, settings)
            if brought:
                yield place.path, brought
        for hung in place.hooks:
            fields = hung.hook.callback.fields()
            word = place.phase.word if place.phase else "{phase}"
            own = {name.replace("{phase}", word): given for name, given in fields.items()}
            named = brought_as(own, hung.hook.contract.classes, hung.names, known)
            findings += _misfits(hung.path, hung.hook.contract.classes, hung.names, known)
            for name in (rename(name, hung.names) for name in own):
                other = bringers.setdefault(name, hung.hook)
                pair = (id(other.callback), id(hung.hook.callback))
                if other.callback is not hung.hook.callback and pair not in shared:
                    shared.add(pair)
                    told = f"{other.name} and {hung.hook.name} both bring the field {name!r}, and would share it."
                    ways = f"Give one of them another name= or bind({name}=...), or remove it."
                    findings.append(Finding("error", "schema conflict", (hung.path,), f"{told} {ways}"))
            yield hung.path, {name: given for name, given in named.items() if "{" not in name}


def _misfits(
    path: str, classes: Iterable[type[State]], names: Names, known: Mapping[str, FieldSpec]
) -> Iterator[Finding]:
    """Fields that `bind` points at a field of another type."""
    for own, told in misfits(classes, names, known):
        ways = f"Bind it to a field of its own: bind({own}='other_{own}')."
        yield Finding("error", "schema conflict", (path,), f"{path}: {told} {ways}")


def _other_values(place: Place, settings: dict[str, tuple[str, Any]]) -> Iterator[Finding]:
    """Fields that a stage brings with another value than an earlier one: only one of the two could count."""
    for own, value in _plain_values(place.contract.brought):
        name = rename(own, place.names)
        other, theirs = settings.setdefault(name, (place.path, value))
        if value != theirs:
            told = f"{other} and {place.path} both bring the field {name!r}, with {theirs!r} and {value!r}."
            ways = f"Let one of them use a field of its own: bind({own}='other_{own}')."
            yield Finding("error", "schema conflict", (other, place.path), f"{told} {ways}")


def values_brought(places: Iterable[Place]) -> dict[str, Any]:
    """The plain values that stages and callbacks bring in fields, by State's name: settings that may be annealed."""
    found: dict[str, Any] = {}
    for place in places:
        actors = [(place.contract.brought, place.names)] if place.kind == "stage" else []
        actors += [(hung.hook.callback.fields(), hung.names) for hung in place.hooks]
        found.update((rename(own, names), value) for brought, names in actors for own, value in _plain_values(brought))
    return found


def _plain_values(brought: Brought) -> Iterator[tuple[str, Any]]:
    for name, (_, given) in brought.items():
        value = given.default if isinstance(given, FieldInfo) else given
        if isinstance(value, bool | int | float | str):
            yield name, value


def spelt_out(access: Access, names: Mapping[str, FieldSpec]) -> Access:
    """`*.mode` as the mode of every component that has one; what is touched as `loss_fn.buffers?`, if it is there."""
    if any(name.endswith("?") for name in access.touches):
        there = (name.removesuffix("?") for name in access.touches if not name.endswith("?") or name[:-1] in names)
        access = replace(access, touches=tuple(there))
    spelt = {name for name in access.names if name.startswith("*.")}
    if not spelt:
        return access
    parts = {name: [known for known in names if known.count(".") == 1 and known.endswith(name[1:])] for name in spelt}
    anyone = {known for name in access.reads for known in parts.get(name, ())}  # whichever components there are
    made = access.mapped(lambda name: parts.get(name, [name]))
    return replace(made, optional=made.optional | (anyone - set(access.reads)))


def freed(access: Access, is_freed: bool) -> Access:
    """The access of an actor inside an unsafe composite, if `is_freed`: unsafe too, unless it only observes."""
    return replace(access, unsafe=True) if is_freed and not access.observer else access


def given_fields(schema: type[State], state: State | None) -> set[str]:
    """The fields that have a value before anything runs."""
    run = {name: spec for name, spec in schema.specs.items() if spec.scope == "run"}
    if state is None:
        return set(run)
    own = type(state).specs
    made = {name for name, spec in run.items() if spec.factory is not None or (name not in own and _has_default(spec))}
    return made | {name for name in run if name in state.__dict__}


def _has_default(spec: FieldSpec) -> bool:
    return spec.default is not MISSING
