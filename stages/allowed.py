"""Allowed: what an access allows of that which moved, and what to declare to be allowed more."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from stages.check import actors
from stages.order import covers
from state.access import Access
from state.watch import Moved

if TYPE_CHECKING:
    from stages.actor import Actor
    from stages.place import Place


def all_declared(places: "Iterable[Place]") -> Access:
    """What somebody at these places may change."""
    everyone = [access for _, access in actors(places)]
    names = {name for one in everyone for name in may_change(one)}
    writes = {name for one in everyone for name in one.writes}
    return Access(writes=tuple(writes), touches=tuple(names - writes), unsafe=any(one.unsafe for one in everyone))


def on_the_way(places: "Iterable[Place]") -> Access:
    """What somebody at these places may change without a row at once: on the way, or round stages that run in it."""
    places = list(places)
    names = {name for _, one in actors(places) for name in (*one.touches, *one.restores, *one.spoils)}
    for place in places:
        round_others = [hung.access for hung in place.around]
        round_others += [place.access] if place.has_own_code and place.is_composite else []
        names.update(name for one in round_others for name in one.writes)
    return Access(touches=tuple(names), unsafe=any(one.unsafe for _, one in actors(places)))


def may_change(access: Access) -> tuple[str, ...]:
    """The names of what an actor with this access may change, on the way or for good."""
    return (*access.writes, *access.touches, *access.restores, *access.spoils)


def is_allowed(access: Access, one: Moved) -> bool:
    """Whether an actor with this access may change what moved: the part as a whole, or each name in it."""
    names = may_change(access)
    if access.unsafe or any(covers(name, one.name) for name in names):
        return True
    return bool(one.inside) and all(any(covers(name, f"{one.name}.{below}") for name in names) for below in one.inside)


def named_in(one: Moved, names: Iterable[str]) -> list[Moved]:
    """Of what moved that which these names mean, if there is any: the part as a whole, or names in it."""
    if any(covers(name, one.name) for name in names):
        return [one]
    inside = tuple(below for below in one.inside if any(covers(name, f"{one.name}.{below}") for name in names))
    return [replace(one, inside=inside)] if inside else []


def is_forbidden(rule: str, name: str) -> bool:
    """Whether a name in `forbids`, which may be `*.params`, means this part."""
    return covers(name.partition(".")[0] + rule[1:] if rule.startswith("*.") else rule, name)


def remedy(actor: "Actor", found: list[Moved]) -> str:
    """What to declare. Fields and the generators change on the way only: in `writes` a field means a new value."""
    parts = tuple(one.name for one in found if "." in one.name)
    others = tuple(one.name for one in found if "." not in one.name)
    if actor.access.observer:
        wanted = [f"{what}={names!r}" for what, names in (("writes", parts), ("touches", others)) if names]
        return f"An observer changes nothing. Declare {' and '.join(wanted)} to make it a hook that may."
    told = []
    if parts:
        told.append(f"Add {_quoted(parts)} to its writes if it is there to change that, ")
        told.append("to its touches if that may change on the way." + " " * bool(others))
    return "".join([*told, f"Add {_quoted(others)} to its touches." if others else ""])


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
