"""Invariants: what is always so before, after or around a slot, checked while the tree runs."""

import inspect
import os
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from stages.check import key_of
from stages.errors import DeclarationError, InvariantBroken, InvariantWarning, UnknownSlot
from stages.phases import Phase
from stages.place import Place, matches
from state import Change, ChangeLog
from state.errors import StateError, UnknownField, short
from state.watch import Look, moved

if TYPE_CHECKING:
    from stages.node import Node
    from stages.runner import Runner

Consequence = Literal["raise", "warn", "record"]

_OURS = ("state", "changed", "place", "log")
"""Parameters of a check that are no fields."""

_NOBODY = ("setup", "external", "user")

_ROOT = Path(__file__).parents[1]
_LIBRARY = tuple(f"{_ROOT / package}{os.sep}" for package in ("state", "stages", "learner"))


@dataclass(frozen=True, init=False)
class Writes:
    """As the target of an Invariant: the stages, but for composites, that declare to write all of these names.

    Example:
        >>> from stages.invariants import Writes
        >>> Writes("*.params", "*.state")
        Writes(names=('*.params', '*.state'))
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
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
    """

    told: str
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class Invariant:
    """What is always so at a slot, and what happens if it is not.

    Args:
        name: what is always so, in words: "the loss is positive".
        check: gives True or None where that holds; where it does not, False, a text that says what is wrong, or a
            Wrong. Its parameters are fields, or of these: `state`, all of it to read; `changed`, the names of what
            `compares` found to differ from before; `place`, the Place; `log`, the ChangeLog of the run. Where a field
            has no value it is not called. An object that keeps what it saw is copied for each Learner.
        before, after, around: one of them: where. A slot or path; a class of phases; or `Writes("*.params")` for the
            stages that declare to write that. `around` is for `compares`.
        within: a class of phases or a path: only places inside it.
        compares: parts that are looked at, bit by bit, before and after the slot: "*.params".
        hooks: whether the hooks before and after the slot count to it, or only its stage and those around that.
        then: "raise" an InvariantBroken, "warn" once, or only "record" it: in the log it is in every case.
        about: fields or parts whose last writer is named when it is broken; by default those that `changed`, or that
            the check reads.
        sampled: check in the rounds that the guard looks at, and raise only in the first of them; later warn.

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
        if not isinstance(self.target, str | Writes) and not _is_phase(self.target):
            told = "Name a slot, 'fit/batch/update', a class of phases, or Writes('*.params')."
            raise DeclarationError(owner, f"{given[0]}={short(self.target)} is no place. {told}")
        if isinstance(self.compares, str) or isinstance(self.about, str):
            raise DeclarationError(
                owner, "compares= and about= are tuples. Write compares=('*.params',), with the comma."
            )
        if (self.around is not None) is not bool(self.compares):
            raise DeclarationError(
                owner, "around= and compares= belong together: what is to be compared round the slot."
            )
        if self.then not in get_args(Consequence):
            raise DeclarationError(owner, f"then={self.then!r} is none of {list(get_args(Consequence))}.")
        if "changed" in self.parameters and not self.compares:
            raise DeclarationError(owner, "its check takes 'changed', and nothing is compared. Say compares=.")

    @property
    def target(self) -> Any:
        """Where it stands, without the side."""
        return next((one for one in (self.before, self.after, self.around) if one is not None), None)

    @property
    def parameters(self) -> tuple[str, ...]:
        """What the check is called with.

        Raises:
            DeclarationError: it takes any number of them.
        """
        found = inspect.signature(self.check).parameters.values()
        if any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.KEYWORD_ONLY) for one in found):
            told = "its check takes *args, **kwargs or keywords. Name the fields that it reads, or `state`."
            raise DeclarationError(f"Invariant({self.name!r})", told)
        return tuple(one.name for one in found)

    def stands_at(self, place: Place) -> bool:
        """Whether it is to be checked at this place."""
        if place.kind != "stage" or (self.within is not None and not _is_inside(place, self.within)):
            return False
        return self.target.fits(place) if isinstance(self.target, Writes) else matches(place, self.target, None)


class Rule:
    """One invariant at one node."""

    def __init__(self, node: "Node", invariant: Invariant) -> None:
        self._node = node
        self._runner: Runner = node.runner
        self.invariant = invariant
        names = node.place.names
        self._needs = [names.get(one, one) for one in invariant.parameters if one not in _OURS]
        self._compares = [one for one in self._runner.assembly.names if _is_among(one, invariant.compares)]
        self._looks: list[Look | None] = []
        self._warned: set[str] = set()

    def begin(self) -> None:
        """The slot begins.

        Raises:
            InvariantBroken: it does not hold.
        """
        is_due = self._runner.audited or not self.invariant.sampled
        if self.invariant.around is not None:
            self._looks.append(self._look() if is_due else None)
        elif self.invariant.before is not None and is_due:
            self._hold()

    def end(self, error: BaseException | None) -> None:
        """The slot has ended; if not well, nothing is asked.

        Raises:
            InvariantBroken: it does not hold.
        """
        before = self._looks.pop() if self._looks else None
        if error is not None:
            return
        if before is not None:
            found = moved(before, self._look())
            self._hold(tuple(f"{one.name}.{below}" for one in found for below in one.inside))
        elif self.invariant.after is not None and (self._runner.audited or not self.invariant.sampled):
            self._hold()

    def _look(self) -> Look:
        return self._runner.parts.look_at(self._compares, contents=True)

    def _hold(self, changed: tuple[str, ...] = ()) -> None:
        runner, values = self._runner, self._runner.values
        if any(name not in values for name in self._needs):
            return
        wanted = self.invariant.parameters
        if "log" in wanted and runner.recording is None:
            return
        place = self._node.place
        ours: dict[str, Callable[[], Any]] = {
            "state": lambda: runner.observer_view(runner.external),
            "changed": lambda: changed,
            "place": lambda: place,
            "log": self._log,
        }
        said = self.invariant.check(
            *[ours[one]() if one in ours else values[place.names.get(one, one)] for one in wanted]
        )
        about = self.invariant.about or tuple(dict.fromkeys(map(key_of, changed)))
        if isinstance(said, Wrong):
            self._break(said.told, said.about or about)
        elif isinstance(said, str) and said:
            self._break(said, about)
        elif not isinstance(said, str) and said is not None and not bool(said):
            self._break("its check says no", about)

    def _break(self, told: str, about: tuple[str, ...]) -> None:
        runner, invariant = self._runner, self.invariant
        actor, source, did = self._culprit(about or tuple(self._needs), goes_up=not about)
        recording = runner.recording
        slot = None if recording is None else recording.slot(actor, "broken", None, invariant.name)
        if recording is not None and slot is not None:
            recording.mark(slot, told)
        error = InvariantBroken(invariant.name, actor, source, did, told, self._node.path)
        guard = runner.guard
        is_early = not invariant.sampled or guard is None or guard.raises or guard.is_debugging
        if invariant.then == "raise" and is_early:
            raise error
        if invariant.then != "record" and actor not in self._warned:
            self._warned.add(actor)
            warnings.warn(InvariantWarning(f"{error} It is on record, and warned of once."), stacklevel=2)

    def _culprit(self, about: tuple[str, ...], *, goes_up: bool) -> tuple[str, str, str]:
        """Who wrote last what it is about, where the code of that stands, and what was done.

        With `goes_up`, where that was a stage of this library, rather who wrote last what it was made of and is none.
        """
        found = []
        for name in about if self._runner.recording is not None else ():
            try:
                found.append(self._last_write(name))
            except StateError:  # it is not recorded
                continue
        known = [one for one in found if one is not None and one.actor not in _NOBODY]
        if not known:
            return self._node.path, self._node.source, ""
        last = max(known, key=lambda one: one.seq)
        if goes_up and _is_ours(last):
            made_of = self._log().upstream(last)
            of_others = [one for one in made_of if one.actor not in _NOBODY and not _is_ours(one)]
            if of_others:
                first = max(of_others, key=lambda one: one.seq)
                return first.actor, first.source, f"wrote {first.field!r}, of which {last.field!r} was made"
        return last.actor, last.source, f"wrote {last.field!r} last"

    def _last_write(self, name: str) -> Change | None:
        """The last one; if that was in another phase, rather the last one in the phase that this is in."""
        log, own = self._log(), self._node.place.phase
        found = log.where(field=name)
        if not found or own is None:
            return found[-1] if found else None
        phases = [(place.path, place.stage) for place in self._runner.assembly.places if _is_phase(type(place.stage))]
        around = [stage for path, stage in phases if found[-1].actor.startswith(f"{path}/")]
        if around and around[-1] is not own:
            inside = log.where(actor=f"{next(path for path, stage in phases if stage is own)}/*", field=name)
            found = inside or found
        return found[-1]

    def _log(self) -> ChangeLog:
        recording = self._runner.recording
        assert recording is not None
        return ChangeLog(recording.store, recording)


def placed(
    invariants: Iterable[Invariant], places: Iterable[Place], known: Iterable[str]
) -> dict[str, list[Invariant]]:
    """The invariants by the paths of the places where they stand.

    One whose target is a slot has to have its place and its fields. One for phases or writers stands wherever they are.

    Args:
        known: the names of all fields and parts.

    Raises:
        DeclarationError: something is no Invariant.
        UnknownSlot, UnknownField: one of a slot asks for what there is not.
    """
    places, known, invariants = list(places), set(known), list(invariants)
    found: dict[str, list[Invariant]] = {}
    for invariant in invariants:
        if not isinstance(invariant, Invariant):
            told = "Write Invariant('...', check, after='update')."
            raise DeclarationError("invariants", f"got {short(invariant)}. {told}")
    for invariant in deepcopy(invariants):  # together, for two may share what they keep
        here = [place for place in places if invariant.stands_at(place)]
        who, is_general = f"Invariant({invariant.name!r})", not isinstance(invariant.target, str)
        if not here and not is_general:
            raise UnknownSlot(invariant.target, [place.path for place in places if place.kind == "stage"], who)
        fields = [one for one in invariant.parameters if one not in _OURS]
        for place in here:
            missing = [name for one in fields if (name := place.names.get(one, one)) not in known]
            if missing and not is_general:
                raise UnknownField(missing[0], known, who=who)
            if not missing:
                found.setdefault(place.path, []).append(invariant)
    return found


def _is_ours(change: Change) -> bool:
    """Whether a stage or hook of this library did it."""
    return change.source.rpartition(" ")[2].startswith(_LIBRARY)


def _is_among(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, one) for one in patterns)


def _is_phase(target: object) -> bool:
    return isinstance(target, type) and issubclass(target, Phase)


def _is_inside(place: Place, within: str | type) -> bool:
    return matches(place, place.path, within)
