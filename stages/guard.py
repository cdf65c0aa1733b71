"""Guard: finds what an actor changed in place and does not declare, at the boundary where that actor ends."""

import warnings
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal

from torch import nn
from torch.optim import Optimizer

from stages.allowed import all_declared, is_allowed, is_forbidden, named_in, on_the_way, remedy
from stages.check import key_of
from stages.errors import GuardWarning, UndeclaredChange, listed
from stages.order import covers
from stages.watching import look_at_part
from state.access import Access
from state.contents import Seen
from state.fields import MISSING
from state.parts import RNG, modes_before, optimized
from state.sources import warn_at
from state.watch import Look, Moved, Watch, moved

if TYPE_CHECKING:
    from stages.actor import Actor
    from stages.runner import Runner

GuardLevel = Literal["off", "parts", "contents"]

FIRST, EVERY = 3, 128
"""Of each loop the first three rounds since the tree was bound are looked at, then one in 128 on average."""


class Schedule:
    """Which rounds of one loop are looked at: the first three of a bound tree, then one in 128 on average.

    Each round adds to a credit, and a round that is looked at takes from it. The first round of a pass over the data
    may take before there is enough, so that what happens only there is not missed for ever; and so may the one after a
    round in which a mode was changed, as what follows from that is of another kind.

    Attributes:
        is_wanted: whether the next round is to be looked at, if that was not asked too often.
    """

    __slots__ = ("credit", "is_wanted", "rounds")

    def __init__(self) -> None:
        self.rounds = 0
        self.credit = 0
        self.is_wanted = False

    def is_due(self, index: int) -> bool:
        """Whether the next round, the `index`-th of its pass, is looked at."""
        self.rounds += 1
        if self.rounds <= FIRST:
            return True
        self.credit += 1
        is_wanted, self.is_wanted = self.is_wanted and self.credit > -EVERY, False
        if not is_wanted and self.credit < EVERY and (index or self.credit <= 0):
            return False
        self.credit -= EVERY
        return True

    @property
    def is_early(self) -> bool:
        """Whether the round is one of the first, where a violation raises."""
        return self.rounds <= FIRST


class Guard:
    """Looks at State where an actor ends, and holds what moved since the last boundary against its declaration.

    Attributes:
        raises: whether an undeclared change raises, as in the first rounds; else it is recorded, and warned of once.
        is_debugging: every round is looked at, in contents, and every undeclared change raises.
    """

    def __init__(self, runner: "Runner", level: GuardLevel, *, is_debugging: bool = False) -> None:
        self.runner = runner
        self.watch = Watch(runner.state)
        self.level: GuardLevel = level
        self.is_debugging = is_debugging
        self.raises = True
        self._turn = 0  # of the rounds after the early ones that were looked at
        self._last: Look | None = None  # what there was at the last boundary; None where rounds passed by since
        self._gone: Look | None = None  # the last one before these
        self._has_run = True
        self._declared = all_declared(runner.assembly.places)
        self._on_the_way = on_the_way(runner.assembly.places)

    def note(self) -> None:
        """State was bound: what moves before it first runs is the user's doing. Generators may move until then."""
        self._last = self._look().lasting()
        self._last.parts.pop(RNG, None)
        self._has_run = False

    def go_on(self, other: "Guard") -> None:
        """Know what another one did, in whose place it stands."""
        self._last, self._has_run = other._last, other._has_run

    def start(self, *, raises: bool) -> None:
        """A run begins: what moved since the last one ended was changed from outside."""
        self.raises = raises
        self.step_in(self.runner.external if self._has_run else self.runner.user)
        self._has_run = True

    def step_in(self, actor: "Actor") -> None:
        """What moved since the last boundary is the doing of `actor`: a person, or code outside of the tree."""
        self._gone = None
        if self._last is not None:
            before, self._last = self._last, self._look()
            self._record_outer(moved(before, self._last), actor)

    def begin_round(self, *, is_early: bool) -> None:
        """A round begins that is looked at: all of it if it is early, else of large tensors the next slice."""
        self.raises = is_early
        self._turn += not is_early

    def begin(self) -> None:
        """An actor is to run: know what there is before."""
        if self._last is None:
            self._last = self._look()
            self._compare_rounds()

    def settle(self, actor: "Actor") -> None:
        """An actor has run: nothing may have moved since the last boundary that it does not declare.

        Raises:
            UndeclaredChange: something has, in a round where that raises.
        """
        before, self._last = self._last, self._look()
        if before is None:
            self._compare_rounds()
            return
        found = moved(before, self._last)
        if found:
            self._judge(actor, found)

    def pass_by(self) -> None:
        """What runs now is not looked at."""
        if self._last is not None:
            self._gone, self._last = self._last.lasting(), None

    def forget(self) -> None:
        """An actor has failed, or a run was taken up: what changed is held against nobody."""
        self._last = self._gone = None

    def accept(self, name: str) -> None:
        """What a part or field holds now is no change: the library has set it."""
        for look in (self._last, self._gone):
            if look is not None:
                now = self.watch.look_at((name,), contents=self.is_debugging or self.level == "contents")
                look.parts.update(now.parts)

    def seen(self, names: Collection[str]) -> Look | None:
        """What it saw of these parts at the boundary where we are; None if not all that is in them was read."""
        if self._last is None or not (self.is_debugging or self.level == "contents"):
            return None
        parts = {name: inside for name, inside in self._last.parts.items() if name in names}
        if any(isinstance(one, Seen) and one.turn is not None for inside in parts.values() for one in inside.values):
            return None
        return self._last._replace(parts=parts)

    def look_at(self, names: Iterable[str]) -> Look:
        """What there is of the parts that a pair is to give back."""
        return self.watch.look_at({key_of(name) for name in names}, contents=True)

    def prove(self, actor: "Actor", before: Look) -> None:
        """What a pair lent is what it was, bit for bit.

        Raises:
            UndeclaredChange: it is not.
        """
        names = actor.access.restores
        found = [within for one in moved(before, self.look_at(names)) for within in named_in(one, names)]
        if found:
            self._record(actor, found)
            told = "It restores that, so it has to give it back on every way out: ok, cancelled and failed."
            raise UndeclaredChange(actor.path, actor.source, found, told)

    def compare_plain(self, before: Look, declared: Access, schedule: Schedule) -> Look:
        """After a round: plain values that nobody inside it declares are as before. The answer is what they are now."""
        now = self.watch.plain()
        if now is before:
            return now
        found = moved(before, now)
        if found:
            schedule.is_wanted = any(one.name.endswith(".mode") for one in found)
            outside = [one for one in found if not is_allowed(declared, one)]
            self._tell_external(outside)
            for one in found:
                field, _, part = one.name.partition(".")
                if one not in outside and part in ("hyper", "mode") and not self._is_on_the_way(one.name):
                    self.tell_plain(one.name, self.runner.scalars.compare(field, part))
            if self._gone is not None:
                self._gone.parts.update(now.parts)  # once is enough
        return now

    def _compare_rounds(self) -> None:
        """After rounds that were not looked at: what nobody in the tree declares is as it was before them."""
        gone, self._gone = self._gone, None
        if gone is not None and self._last is not None:
            self._tell_external(self._undeclared(self._declared, moved(gone, self._last)))

    def _look(self) -> Look:
        turn = None if self.raises or self.is_debugging else self._turn
        return self.watch.look(contents=self.is_debugging or self.level == "contents", turn=turn)

    def _judge(self, actor: "Actor", found: list[Moved]) -> None:
        """Hold what moved against what the actor may change, and what it may not inside of those that forbid it."""
        if actor.access.unsafe:
            self._record(actor, found)
            return
        others = self._undeclared(actor.access, found)
        own = [one for one in found if one not in others]
        if self.is_debugging:  # what it declares may have changed, and this did
            for one in own:
                if one.name.rpartition(".")[2] not in ("hyper", "mode"):  # of which there is a row for each value
                    self._record(actor, [one], one.evidence, "seen")  # that it was written is told already
        forbidden = [one for one in own if any(is_forbidden(rule, one.name) for rule in actor.forbidden)]
        if forbidden:
            owners = {
                owner for rule, owner in actor.forbidden.items() for one in forbidden if is_forbidden(rule, one.name)
            }
            self._report(actor, forbidden, f"{' and '.join(sorted(owners))} forbids that inside.")
        if others:
            self._report(actor, others, remedy(actor, others))

    def _undeclared(self, access: Access, found: list[Moved]) -> list[Moved]:
        """What moved of that which this access does not allow, under its name or under another one."""
        own = [one for one in found if is_allowed(access, one)]
        memory = {place for one in own for place in self._memory(one)} - {None}
        return [one for one in found if one not in own and not self._is_excused(access, one, memory)]

    def _is_excused(self, access: Access, one: Moved, memory: set[int | None]) -> bool:
        """Whether it is what this access allows, under another name.

        That is a tensor that stands in several places, and the parameters of further modules that an optimizer holds,
        for who may change that optimizer's state.
        """
        if self._memory(one) <= memory:
            return True
        field, _, part = one.name.partition(".")
        values = self.runner.values
        if part != "params" or not isinstance(values.get(field), nn.Module):
            return False
        stepped = (values.get(name) for name in access.owners("state"))
        held = set(map(id, optimized(*(one for one in stepped if isinstance(one, Optimizer)))))
        named = dict(values[field].named_parameters(remove_duplicate=False))
        return all(id(named.get(name)) in held for name in one.inside)

    def _report(self, actor: "Actor", found: list[Moved], told: str) -> None:
        self._record(actor, found)
        error = UndeclaredChange(actor.path, actor.source, found, told)
        if self.raises or self.is_debugging:
            raise error
        key = (actor.path, found[0].name)
        if key not in self.runner.warned:
            self.runner.warned.add(key)
            warn_at(actor.source, GuardWarning(f"{error} It is on record, and warned of once."), stacklevel=3)

    def _record(self, actor: "Actor", found: list[Moved], evidence: str = "undeclared", kind: str = "write") -> None:
        """A row in the log for each part that moved."""
        recording = self.runner.recording
        if recording is None:
            return
        for one in found:
            if one.name not in self.runner.assembly.names:
                recording.field(one.name, "run", "part", "", MISSING)
            slot = recording.slot(actor.path, kind, one.name, evidence)
            if slot is not None:
                recording.write(slot, listed(one.inside) or None)

    def _tell_external(self, found: list[Moved]) -> None:
        """Record what changed while nobody who declares it ran, and warn of it once."""
        self._record_outer(found, self.runner.external)
        self._warn_external(found)

    def tell_plain(self, part: str, told: tuple[str, ...]) -> None:
        """Warn of plain values of a part that are on record as changed by nobody who declares it."""
        if told and not self._is_on_the_way(part):
            self._warn_external([Moved(part, told, "value")])

    def _warn_external(self, found: list[Moved]) -> None:
        """Warn once of what changed while nobody who declares it ran, and is on record; and tell who waits for it.

        Raises:
            UndeclaredChange, WatchHit: everything is looked at, or somebody waits for such a value.
        """
        for one in found:
            look_at_part(self.runner.external, one.name, self.runner.watchers.get(one.name, []))
        named = [one for one in found if ("external", one.name) not in self.runner.warned]
        if named:
            self.runner.warned.update(("external", one.name) for one in named)
            told = "Nobody who may change it ran: it was one who does not declare it, or code outside of the tree. "
            told += "learner.debug() finds out who."
            error = UndeclaredChange("external", "", named, told)
            if self.is_debugging and self.runner.round is not None:
                raise error
            warnings.warn(GuardWarning(f"{error} It is on record, and warned of once."), stacklevel=2)

    def _record_outer(self, found: list[Moved], actor: "Actor") -> None:
        for one in found:
            field, _, part = one.name.partition(".")
            if part == "mode":
                self.runner.scalars.know(field, part, modes_before(self.runner.values[field], one.inside))
            told = part in ("hyper", "mode") and self.runner.scalars.compare(field, part, actor.path)
            if not told and part != "hyper":
                self._record(actor, [one], one.evidence)

    def _is_on_the_way(self, part: str) -> bool:
        """Whether somebody may have changed it whose row is still to come, or who makes none."""
        below = f"{part}."
        names = self._on_the_way.touches
        return self._on_the_way.unsafe or any(covers(name, part) or name.startswith(below) for name in names)

    def _memory(self, one: Moved) -> set[int | None]:
        """Where the tensors that moved have their memory: one tensor may stand under several names."""
        assert self._last is not None
        return self._last.memory(one.name, one.inside)


def schedule_text(guard: Guard | None) -> str:
    """When a guard looks, and what follows from what it finds."""
    if guard is None:
        return "off: nothing is looked at"
    if guard.is_debugging:
        return "debug: contents at every boundary of every round; an undeclared change raises"
    return (
        f"{guard.level}: at every boundary in the first {FIRST} rounds of each loop, where undeclared changes raise; "
        f"then in 1 of {EVERY} on average, the first of a pass if it can, where they are recorded and warned of once"
        f"{', and large tensors are read slice by slice' * (guard.level == 'contents')}; "
        "plain values (mode, requires_grad, hyper) after every batch"
    )
