"""Timing: what hooks take, and what we take to look at State, in rounds that are timed."""

from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import TYPE_CHECKING, TypeVar

from stages.guard import Guard, GuardLevel
from stages.invariants import Invariant
from stages.upholding import Rule, share_glance
from state.profile import GUARD
from state.watch import Look

if TYPE_CHECKING:
    from stages.actor import Actor
    from stages.node import Node
    from stages.runner import Runner

Answer = TypeVar("Answer")


class Stopwatch:
    """Tells the log how long it took to look at State, wherever stages are timed: an "exit" of the actor `guard`."""

    def __init__(self, runner: "Runner") -> None:
        self._runner = runner
        self._slot: int | None = None
        self._is_running = False
        if runner.recording is not None:
            runner.recording.actor(GUARD, "reserved", "")
            self._slot = runner.recording.slot(GUARD, "exit", None, "")

    def timed(self, look: Callable[[], Answer]) -> Answer:
        """What `look` gives. One that is called by another one counts as part of that."""
        recording = self._runner.recording
        if recording is None or self._slot is None or self._is_running or not self._runner.timed:
            return look()
        self._is_running = True
        started = perf_counter_ns()
        try:
            return look()
        finally:
            self._is_running = False
            recording.mark(self._slot, ["ok", perf_counter_ns() - started, None])


class TimedGuard(Guard):
    """A guard whose looks are timed."""

    def __init__(self, runner: "Runner", level: GuardLevel, *, is_debugging: bool = False) -> None:
        super().__init__(runner, level, is_debugging=is_debugging)
        self._timed = Stopwatch(runner).timed

    def begin(self) -> None:
        """An actor is to run."""
        if self._last is None:
            self._timed(super().begin)

    def settle(self, actor: "Actor") -> None:
        """An actor has run."""
        inner = super().settle
        self._timed(lambda: inner(actor))

    def look_at(self, names: Iterable[str]) -> Look:
        """What there is of the parts that a pair is to give back."""
        inner = super().look_at
        return self._timed(lambda: inner(names))

    def prove(self, actor: "Actor", before: Look) -> None:
        """What a pair lent is what it was."""
        inner = super().prove
        self._timed(lambda: inner(actor, before))


class TimedRule(Rule):
    """An invariant at one node that is timed where it is asked, if that is with the guard."""

    def __init__(self, node: "Node", invariant: Invariant) -> None:
        super().__init__(node, invariant)
        self._timed = Stopwatch(node.runner).timed

    def _look(self) -> Look:
        return self._timed(super()._look) if self.invariant.sampled else super()._look()

    def _hold(self, changed: tuple[str, ...] = ()) -> None:
        inner = super()._hold
        if self.invariant.sampled:
            self._timed(lambda: inner(changed))
        else:
            inner(changed)


def rules_of(node: "Node", invariants: Iterable[Invariant]) -> tuple[list[TimedRule], list[TimedRule]]:
    """These invariants at a node: those that are asked outside of its hooks, and those inside."""
    rules = [TimedRule(node, one) for one in invariants]
    outer, inner = ([one for one in rules if one.invariant.hooks is side] for side in (True, False))
    for side in (outer, inner):
        share_glance(side)
    return outer, inner


def tell_time(actor: "Actor") -> Callable[[int], None]:
    """The function that tells the log for how many nanoseconds a hook ran: as an "exit", which stages have too."""
    recording, slot = actor.runner.recording, actor.slot("exit", None, "")

    def tell(duration_ns: int) -> None:
        if recording is not None and slot is not None:
            recording.mark(slot, ["ok", duration_ns, None])

    return tell
