"""Invariants: what is always so before, after or around a slot, checked while the tree runs."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

from stages.check import key_of
from stages.declared import refuse_unknown_parts
from stages.errors import DeclarationError, UnknownSlot
from stages.phases import Phase
from stages.place import Place, matches
from state.errors import UnknownField, nearest, short, suggestion

Consequence = Literal["raise", "warn", "record"]

OURS = ("state", "changed", "place", "log")
"""Parameters of a check that are no fields."""


@dataclass(frozen=True, init=False)
class Writes:
    """As the target of an Invariant: the stages, but for composites, that declare to write all of these names.

    Raises:
        DeclarationError: there is no name, or it names a part that no component has.

    Example:
        >>> from stages.invariants import Writes
        >>> Writes("*.params", "*.state")
        Writes(names=('*.params', '*.state'))
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        if not names or not all(isinstance(name, str) and name for name in names):
            raise DeclarationError("Writes", f"got {short(names)}. Name what is written: Writes('*.params').")
        refuse_unknown_parts("Writes", "it", names)
        object.__setattr__(self, "names", names)

    def fits(self, place: Place) -> bool:
        """Whether the stage at this place is one."""
        written = [key_of(name) for name in place.access.writes]
        is_leaf = place.has_own_code and not place.is_composite
        return is_leaf and all(any(fnmatchcase(one, name) for one in written) for name in self.names)


Target = str | type | Writes


class Wrong(NamedTuple):
    """What a check may give where something is wrong, to say also what it is about.

    Attributes:
        told: what is wrong, in words.
        about: fields or parts whose last writer is named.
        by: who it was, where that is known without the log: path and source.
    """

    told: str
    about: tuple[str, ...] = ()
    by: tuple[str, str] | None = None


@dataclass(frozen=True)
class Invariant:
    """What is always so at a slot, and what happens if it is not.

    Args:
        name: what is always so, in words: "the loss is positive".
        check: gives True or None where that holds; where it does not, False, a text that says what is wrong, or a
            Wrong. Its parameters are fields, or of these: `state`, all of it to read; `changed`, the names of what
            `compares` found to differ from before; `place`, the Place; `log`, the ChangeLog of the run. Where a field
            has no value it is not called.
        before, after, around: one of them: where. A slot or path; a class of phases; or `Writes("*.params")` for the
            stages that declare to write that. `around` is for `compares`.
        within: a class of phases or a path: only places inside it.
        compares: parts that are looked at, bit by bit, before and after the slot: "*.params".
        hooks: whether the hooks before and after the slot count to it, or only its stage and those around that.
        then: "raise" an InvariantBroken, "warn" once, or only "record" it: in the log it is in every case.
        about: fields or parts whose last writer is named when it is broken; by default those that `changed`, or that
            the check reads.
        sampled: check in the rounds that the guard looks at, and raise only in the first of them; later warn. A check
            that fails itself then warns too, and does not end the run.

    Raises:
        DeclarationError: it cannot be used like this.

    Example:
        >>> from learner import Invariant
        >>> Invariant("the loss is positive", lambda loss: loss > 0, after="forward").then
        'raise'
    """

    name: str
    check: Callable[..., object]
    before: Target | None = None
    after: Target | None = None
    around: Target | None = None
    within: str | type | None = None
    compares: tuple[str, ...] = ()
    then: Consequence = "raise"
    hooks: bool = True
    about: tuple[str, ...] = ()
    sampled: bool = False

    def __post_init__(self) -> None:
        owner = f"Invariant({short(self.name)})"
        given = [which for which in ("before", "after", "around") if getattr(self, which) is not None]
        if not isinstance(self.name, str) or not self.name.strip():
            raise DeclarationError(owner, "has no name. Say in words what is always so.")
        if not callable(self.check):
            told = "It wants a function of fields: lambda loss: loss > 0."
            raise DeclarationError(owner, f"its check is {short(self.check)}. {told}")
        if len(given) != 1:
            told = f"got {given or 'none of them'}. Say one of before=, after= and around=."
            raise DeclarationError(owner, told)
        if not isinstance(self.target, str | Writes) and not is_phase(self.target):
            told = "Name a slot, 'fit/batch/update', a class of phases, or Writes('*.params')."
            raise DeclarationError(owner, f"{given[0]}={short(self.target)} is no place. {told}")
        if not (self.within is None or isinstance(self.within, str) or is_phase(self.within)):
            told = "Name a class of phases, or a path: 'fit'."
            raise DeclarationError(owner, f"within={short(self.within)} is no place. {told}")
        if isinstance(self.compares, str) or isinstance(self.about, str):
            raise DeclarationError(
                owner, "compares= and about= are tuples. Write compares=('*.params',), with the comma."
            )
        refuse_unknown_parts(owner, "compares", self.compares)
        if (self.around is not None) is not bool(self.compares):
            raise DeclarationError(
                owner, "around= and compares= belong together: what is to be compared round the slot."
            )
        if self.then not in get_args(Consequence):
            near = suggestion(nearest(self.then, get_args(Consequence)))
            raise DeclarationError(owner, f"then={self.then!r} is none of {list(get_args(Consequence))}.{near}")
        if "changed" in self.parameters and not self.compares:
            raise DeclarationError(owner, "its check takes 'changed', and nothing is compared. Say compares=.")

    @cached_property
    def target(self) -> Any:
        """Where it stands, without the side."""
        return next((one for one in (self.before, self.after, self.around) if one is not None), None)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """What the check is called with.

        Raises:
            DeclarationError: it takes any number of them.
        """
        try:
            found = [*inspect.signature(self.check).parameters.values()]
        except (TypeError, ValueError) as error:  # one that is written in C
            told = "its check does not tell its parameters. Wrap it: lambda loss: ..."
            raise DeclarationError(f"Invariant({self.name!r})", told) from error
        if any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.KEYWORD_ONLY) for one in found):
            told = "its check takes *args, **kwargs or keywords. Name the fields that it reads, or `state`."
            raise DeclarationError(f"Invariant({self.name!r})", told)
        return tuple(one.name for one in found if one.default is one.empty)

    def stands_at(self, place: Place) -> bool:
        """Whether it is to be checked at this place."""
        if place.kind != "stage" or (self.within is not None and not _is_inside(place, self.within)):
            return False
        return self.target.fits(place) if isinstance(self.target, Writes) else matches(place, self.target, None)


def placed(
    invariants: Iterable[Invariant], places: Iterable[Place], known: Iterable[str]
) -> dict[str, list[Invariant]]:
    """The invariants by the paths of the places where they stand.

    One whose target is a slot has to have its place and its fields. One for phases or writers stands wherever they are,
    within a path that there is.

    Args:
        known: the names of all fields and parts.

    Raises:
        DeclarationError: something is no Invariant.
        UnknownSlot, UnknownField: one of a slot, or within one, asks for what there is not.
    """
    places, known, invariants = list(places), set(known), list(invariants)
    found: dict[str, list[Invariant]] = {}
    standing: dict[tuple[object, object], list[Place]] = {}  # many stand at the same places
    for invariant in invariants:
        if not isinstance(invariant, Invariant):
            told = "Write Invariant('...', check, after='update')."
            raise DeclarationError("invariants", f"got {short(invariant)}. {told}")
    for invariant in invariants:
        where = invariant.target, invariant.within
        if where not in standing:
            standing[where] = [place for place in places if invariant.stands_at(place)]
        here = standing[where]
        who, is_general = f"Invariant({invariant.name!r})", not isinstance(invariant.target, str)
        within = invariant.within
        if isinstance(within, str) and not any(matches(place, within, None) for place in places):
            raise UnknownSlot(within, [place.path for place in places if place.kind == "stage"], who)
        if not here and not is_general:
            raise UnknownSlot(invariant.target, [place.path for place in places if place.kind == "stage"], who)
        fields = [one for one in invariant.parameters if one not in OURS]
        for name in invariant.compares if not is_general else ():
            if not any(fnmatchcase(one, name) for one in known):
                raise UnknownField(name, known, who=who)
        for place in here:
            missing = [name for one in fields if (name := place.names.get(one, one)) not in known]
            if missing and not is_general:
                raise UnknownField(missing[0], known, who=who)
            if not missing:
                found.setdefault(place.path, []).append(invariant)
    return found


def is_among(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, one) for one in patterns)


def is_phase(target: object) -> bool:
    return isinstance(target, type) and issubclass(target, Phase)


def _is_inside(place: Place, within: str | type) -> bool:
    return matches(place, place.path, within)
