"""Access: what an actor declares to read and write, and the view of State that holds it to that."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar

from state.errors import AccessDenied, UnknownField, short
from state.fields import FieldSpec

Kind = TypeVar("Kind")

Names = Mapping[str, str]
"""How an actor calls fields -> how State calls them, where that differs."""


@dataclass(frozen=True)
class Access:
    """The declaration of one actor, in State's names. Parts are spelt with dots: `model.grads`.

    Attributes:
        reads: fields and parts it uses. Reading a component covers its parts, `grads` excepted.
        writes: fields it will have written when it ends well, and parts it is there to change.
        touches: parts that may change in place on the way; they provide nothing and order nothing.
        spoils: parts that are of no use after it until somebody writes them anew: gradients that are scaled.
        restores: parts that may be others in between, and are afterwards what they were before.
        optional: those of `reads` that may have no value; they are given as None then.
        awaited: those of `optional` that somebody has to write all the same, if only sometimes.
        unsure: those of `writes` that it may leave as they are, where it has nothing to write.
        observer: reads everything, declares nothing, changes nothing.
        unsafe: reads and writes everything; what it declares is what others may rest on.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()
    restores: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    awaited: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    spoils: tuple[str, ...] = ()
    observer: bool = False
    unsafe: bool = False

    @classmethod
    def of(
        cls,
        reads: Iterable[str] = (),
        writes: Iterable[str] = (),
        touches: Iterable[str] = (),
        restores: Iterable[str] = (),
    ) -> "Access":
        """An access from declared names: `name?` is an optional read, or a write that there may be.

        One that is read both as `name` and as `name?` is optional, and there has to be somebody who writes it.
        """
        asked, written = tuple(reads), tuple(writes)
        optional, unsure = (frozenset(name[:-1] for name in names if name.endswith("?")) for names in (asked, written))
        plain, sure = (tuple(dict.fromkeys(name.removesuffix("?") for name in names)) for names in (asked, written))
        touched, restored = (tuple(dict.fromkeys(names)) for names in (touches, restores))
        return cls(plain, sure, touched, restored, optional, optional.intersection(asked), unsure)

    def may_lack(self, name: str, is_seldom: bool) -> bool:
        """Whether it is no fault that a read finds no value. `is_seldom`: somebody writes it, though not always."""
        return name in self.optional and (is_seldom or name not in self.awaited)

    def renamed(self, names: Names) -> "Access":
        """The declaration in State's names, of an actor that calls fields by others."""
        return self.mapped(lambda name: (rename(name, names),)) if names else self

    def mapped(self, each: Callable[[str], Iterable[str]]) -> "Access":
        """The same with other names in the place of each: none, one or several."""

        def named(given: Iterable[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(new for name in given for new in each(name)))

        lists = {which: named(getattr(self, which)) for which in ("reads", "writes", "touches", "restores", "spoils")}
        marks = {which: frozenset(named(getattr(self, which))) for which in ("optional", "awaited", "unsure")}
        return replace(self, **lists, **marks)  # type: ignore[arg-type]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name in it, once."""
        return tuple(dict.fromkeys((*self.reads, *self.writes, *self.touches, *self.restores, *self.spoils)))

    @property
    def field_writes(self) -> tuple[str, ...]:
        """The names in `writes` that are fields: what is assigned, not changed in place."""
        return tuple(name for name in self.writes if "." not in name)

    @property
    def part_writes(self) -> tuple[str, ...]:
        """The names in `writes` that are parts: what changes in place."""
        return tuple(name for name in self.writes if "." in name)

    def owners(self, part: str) -> set[str]:
        """The components of which it writes this part, such as "grads"."""
        return {name.partition(".")[0] for name in self.writes if name.endswith(f".{part}")}

    @property
    def readable(self) -> frozenset[str]:
        """The fields whose object the actor gets: those it reads, and the owners of the parts it names."""
        parts = (name for name in (*self.part_writes, *self.touches, *self.restores, *self.spoils) if "." in name)
        owners = (name.partition(".")[0] for name in parts)
        return frozenset(name.partition(".")[0] for name in self.reads) | frozenset(owners)


class Owner(Protocol):
    """Who a view belongs to: the node of a stage or hook."""

    path: str
    access: Access
    writers: Mapping[str, Callable[[Any], None]]
    known: Mapping[str, FieldSpec]

    def not_ready(self, name: str) -> Exception: ...


class View:
    """State as one actor may see it: the declared names, nothing else.

    Names that begin with `_` raise AttributeError, as `copy` and `rich` expect when they probe an object. All other
    refusals are errors of ours that `hasattr` does not swallow.
    """

    __slots__ = ("_owner", "_values", "_written")
    declared: ClassVar[Mapping[str, str]] = {}  # how this actor calls a field -> how State calls it

    def __init__(self, owner: Owner, values: dict[str, Any]) -> None:
        object.__setattr__(self, "_owner", owner)
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_written", set())

    def ready(self, name: str) -> bool:
        """Whether field `name` has a value now."""
        field = type(self).declared.get(name, name)
        if field not in self._owner.known:
            raise UnknownField(name, self._owner.known)
        return field in self._values

    def components(self, kind: type[Kind]) -> dict[str, Kind]:
        """The declared values that are a `kind` now, by field."""
        values = self._values
        declared = type(self).declared.items()
        return {name: values[field] for name, field in declared if field in values and isinstance(values[field], kind)}

    def values_of(self, scope: str) -> dict[str, Any]:
        """The values that declared fields of `scope` have now, by field."""
        values, specs = self._values, self._owner.known
        called = {field: name for name, field in type(self).declared.items()}
        fields = (field for field, spec in specs.items() if spec.scope == scope and field in called)
        return {called[field]: values[field] for field in fields if field in values}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        owner: Owner = self._owner
        if name not in owner.known:
            raise UnknownField(name, owner.known, who=f"{owner.path}: State")
        raise AccessDenied(owner.path, name, "read", owner.access.reads, self._called(name, "reads"))

    def __setattr__(self, name: str, value: Any) -> None:
        owner: Owner = self._owner
        write = owner.writers.get(name)
        if write is None:
            if name.startswith("_"):
                raise AttributeError(f"{owner.path} may not set {name!r}: the view holds the fields of State only.")
            if name not in owner.known:
                raise UnknownField(name, owner.known, who=f"{owner.path}: State")
            remedy = self._called(name, "writes, or do this in a stage that declares it")
            raise AccessDenied(owner.path, name, "write", owner.access.writes, remedy)
        write(value)
        self._written.add(name)

    def _called(self, name: str, where: str) -> str:
        """The remedy for a name that this actor has not: declare it, or use the one it was bound by."""
        own = [own for own, field in type(self).declared.items() if field == name != own]
        return f"It was bound: it calls that {own[0]!r}." if own else f"Add {name!r} to its {where}."

    def __delattr__(self, name: str) -> None:
        remedy = "A value cannot be deleted; it ends with its scope."
        raise AccessDenied(self._owner.path, name, "write", self._owner.access.writes, remedy)

    def __dir__(self) -> list[str]:
        return list(type(self).declared)

    def __repr__(self) -> str:
        owner: Owner = self._owner
        access, declared = owner.access, type(self).declared
        sees_all = access.observer or access.unsafe
        rights = {
            name: ("r" if sees_all or field in access.readable else "-") + ("w" if name in owner.writers else "-")
            for name, field in declared.items()
        }
        values = {name: self._values[field] for name, field in declared.items() if field in self._values}
        return view_table(owner.path, rights, values)


def view_table(path: str, rights: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """What a view prints as: a line for each name with its rights, "rw", and its value."""
    rows = [f"state of {path}:"]
    for name, right in rights.items():
        value = short(values[name]) if name in values else "not ready"
        rows.append(f"  {name:<20} {right}  {value}")
    return "\n".join(rows)


def rename(name: str, names: Names) -> str:
    """State's name for a field or part: "model.grads" is "critic.grads" where model is called so."""
    owner, dot, rest = name.partition(".")
    return names.get(owner, owner) + dot + rest


def own_names(field: str, names: Names) -> tuple[str, ...]:
    """How an actor calls a field of State: not as State does, where `bind` gave it another name."""
    own = tuple(own for own, other in names.items() if other == field)
    return own if own or field in names else (field,)


def view_of(kind: Any, access: Access, known: Iterable[str], names: Names) -> type[Any]:
    """The view of an actor with this access to the `known` fields, as a subclass of `kind`."""
    fields = frozenset(known)
    readable = fields if access.observer or access.unsafe else access.readable & fields
    called = frozenset((own, field) for field in fields for own in own_names(field, names)) if names else frozenset()
    writable = fields if access.unsafe else frozenset(access.field_writes)
    return view_class(kind, readable, access.optional & fields, writable, called)


@cache
def view_class(
    kind: Any,
    readable: frozenset[str],
    optional: frozenset[str],
    writable: frozenset[str],
    called: frozenset[tuple[str, str]] = frozenset(),
) -> type[Any]:
    """The view that knows `readable` and `writable` fields, as a subclass of `kind`; one class per set of names.

    `called` are pairs of the actor's name for a field and State's, where some differ.
    """
    fields = readable | writable
    pairs = sorted((own, field) for own, field in called if field in fields) or [
        (name, name) for name in sorted(fields)
    ]
    body: dict[str, Any] = {"__slots__": (), "declared": dict(pairs)}
    for own, field in pairs:
        if field in optional:
            body[own] = property(_optional(field))
        else:
            body[own] = property(_reader(field) if field in readable else _own(own, field))
    return type(kind.__name__, (kind,), body)


def _reader(name: str) -> Callable[[View], Any]:
    def read(view: View) -> Any:
        try:
            return view._values[name]
        except KeyError:
            raise view._owner.not_ready(name) from None

    return read


def _optional(name: str) -> Callable[[View], Any]:
    return lambda view: view._values.get(name)


def _own(name: str, field: str) -> Callable[[View], Any]:
    """Read back what this actor has set in this call; the value from before needs `reads` too."""

    def read(view: View) -> Any:
        if name not in view._written:
            remedy = f"It may read {name!r} back once it has set it; add it to its reads for the value from before."
            raise AccessDenied(view._owner.path, name, "read", view._owner.access.reads, remedy)
        try:
            return view._values[field]
        except KeyError:  # its scope has closed since
            raise view._owner.not_ready(field) from None

    return read
