"""Upholding: one invariant at one place of a tree that runs: when it is asked, and what is told of who broke it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stages.cancel import Reached
from stages.check import key_of
from stages.errors import InvariantBroken, InvariantWarning
from stages.invariants import OURS, Invariant, Wrong, is_among, is_phase
from stages.scalars import EXTERNAL
from state import Change, ChangeLog
from state.access import View
from state.errors import StateError
from state.sources import is_of_library, warn_at
from state.watch import Look, moved

if TYPE_CHECKING:
    from stages.node import Node
    from stages.runner import Runner

_NOBODY = ("setup", EXTERNAL, "user")


class Glance:
    """What invariants that are asked at one boundary look at: the first of them looks for all.

    It keeps no look of its own once the last of them has had it.
    """

    def __init__(self, rules: "list[Rule]") -> None:
        """Those that compare something, of one side of a node, and are asked in the same rounds."""
        self._first, self._last = rules[0], rules[-1]
        self._names = {name for rule in rules for name in rule.compares}
        self._look: Look | None = None

    def look(self, asker: "Rule", runner: "Runner") -> Look:
        """What all of them compare, as it was when the first of them asked: as the guard saw it there, if it did."""
        if asker is self._first or self._look is None:
            guard = runner.guard if runner.audited else None
            seen = None if guard is None else guard.seen(self._names)
            self._look = runner.parts.look_at(self._names, contents=True) if seen is None else seen
        found = self._look
        if asker is self._last:
            self._look = None
        return found


class Rule:
    """One invariant at one node.

    Attributes:
        compares: the names of the parts that it compares.
        glance: what it looks with.
    """

    def __init__(self, node: "Node", invariant: Invariant) -> None:
        self._node = node
        self._runner: Runner = node.runner
        self.invariant = invariant
        names = node.place.names
        self._needs = [names.get(one, one) for one in invariant.parameters if one not in OURS]
        self.compares = [one for one in self._runner.assembly.names if is_among(one, invariant.compares)]
        self.glance = Glance([self])
        self._looks: list[Look | None] = []
        self._view: View | None = None

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
        """The slot has ended; if not well, nothing is asked. The whole tree ends well where a run reaches its limit.

        Raises:
            InvariantBroken: it does not hold.
        """
        before = self._looks.pop() if self._looks else None
        if error is not None and not (isinstance(error, Reached) and self._node.place.parent is None):
            return
        if before is not None:
            found = [one for one in moved(before, self._look()) if one.name in self.compares]
            self._hold(tuple(f"{one.name}.{below}" for one in found for below in one.inside))
        elif self.invariant.after is not None and (self._runner.audited or not self.invariant.sampled):
            self._hold()

    def _look(self) -> Look:
        return self.glance.look(self, self._runner)

    def _hold(self, changed: tuple[str, ...] = ()) -> None:
        runner, values = self._runner, self._runner.values
        if any(name not in values for name in self._needs):
            return
        wanted = self.invariant.parameters
        if "log" in wanted and runner.recording is None:
            return
        place = self._node.place
        given = [self._given(one, changed) for one in wanted]
        try:
            said = self.invariant.check(*given)
            if isinstance(said, Tensor):
                said = bool(said.all())
        except Exception as error:
            error.add_note(f"While Invariant({self.invariant.name!r}) was asked at {place.path}.")
            if self.invariant.then == "raise" and not self.invariant.sampled:
                raise
            self._warn("", "", f"Invariant({self.invariant.name!r}) cannot be asked at {place.path}: {error}")
            return
        about = self.invariant.about or tuple(dict.fromkeys(map(key_of, changed)))
        if isinstance(said, Wrong):
            self._break(said.told, said.about or about, said.by)
        elif isinstance(said, str) and said:
            self._break(said, about)
        elif not isinstance(said, str) and said is not None and not bool(said):
            self._break("its check says no", about)

    def _given(self, parameter: str, changed: tuple[str, ...]) -> Any:
        """What its check is called with for this parameter."""
        match parameter:
            case "state":
                if self._view is None:
                    self._view = self._runner.observer_view(self._runner.external)
                return self._view
            case "changed":
                return changed
            case "place":
                return self._node.place
            case "log":
                return self._log()
            case field:
                return self._runner.values[self._node.place.names.get(field, field)]

    def _break(self, told: str, about: tuple[str, ...], by: tuple[str, str] | None = None) -> None:
        runner, invariant = self._runner, self.invariant
        actor, source, did = (*by, "") if by else self._culprit(about or tuple(self._needs), goes_up=not about)
        recording = runner.recording
        slot = None if recording is None else recording.slot(actor, "broken", None, invariant.name)
        if recording is not None and slot is not None:
            recording.mark(slot, told)
        error = InvariantBroken(invariant.name, actor, source, did, told, self._node.path)
        guard = runner.guard
        is_early = not invariant.sampled or guard is None or guard.raises or guard.is_debugging
        if invariant.then == "raise" and is_early:
            raise error
        if invariant.then != "record":
            self._warn(actor, source, f"{error} It is on record, and warned of once.")

    def _warn(self, actor: str, source: str, told: str) -> None:
        """Warn once for each culprit."""
        key = (self.invariant.name, actor)
        if key not in self._runner.warned:
            self._runner.warned.add(key)
            warn_at(source, InvariantWarning(told), stacklevel=4)

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
        outside = [one for one in found if one is not None and one.actor == EXTERNAL]
        if not known and outside:
            last = max(outside, key=lambda one: one.seq)
            return EXTERNAL, "", f"changed {last.field!r} last (learner.debug() finds out who)"
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
        phases = [(place.path, place.stage) for place in self._runner.assembly.places if is_phase(type(place.stage))]
        around = [stage for path, stage in phases if found[-1].actor.startswith(f"{path}/")]
        if around and around[-1] is not own:
            inside = log.where(actor=f"{next(path for path, stage in phases if stage is own)}/*", field=name)
            found = inside or found
        return found[-1]

    def _log(self) -> ChangeLog:
        recording = self._runner.recording
        assert recording is not None
        return ChangeLog(recording.store, recording)


def share_glance(rules: "Sequence[Rule]") -> None:
    """Let those of one side of a node that compare something look together, if they are asked in the same rounds."""
    for sampled in (True, False):
        together = [one for one in rules if one.invariant.compares and one.invariant.sampled is sampled]
        for rule in together:
            rule.glance = Glance(together) if rule is together[0] else together[0].glance


def _is_ours(change: Change) -> bool:
    """Whether a stage or hook of this library did it."""
    return is_of_library(change.source)
