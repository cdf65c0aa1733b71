"""Breakpoint: stop before or after a slot, with the slot on the stack."""

from collections.abc import Callable
from typing import Any

from learner.errors import ArgumentError
from stages import Callback
from stages.callbacks import HookMethod, Options, Point, Side
from stages.cancel import Outcome
from stages.watching import Stopped, Then, do
from state.position import Position


class Breakpoint(Callback):
    """Stop where the run comes to a slot, as `learner.breakpoint(...)` does. An observer, which runs after other hooks.

    Args:
        before, after: the slot, one of the two: "update", "fit/batch/gradient", a pattern, or a phase class.
        when: a function of the state that says whether to stop; by default each time.
        then: "break" into the debugger (`breakpoint()`), "raise" a WatchHit, or a function, which gets the Stopped.

    Raises:
        ArgumentError: not exactly one slot, or `then` cannot be used.
    """

    def __init__(
        self,
        before: str | type | None = None,
        after: str | type | None = None,
        *,
        when: Callable[[Any], object] | None = None,
        then: Then[Stopped] = "break",
    ) -> None:
        if (before is None) == (after is None):
            raise ArgumentError("breakpoint()", "before", "say before= or after= which slot, one of the two.")
        if then not in ("raise", "break") and not callable(then):
            told = f"then={then!r} is none of 'raise', 'break' and a function of the Stopped."
            raise ArgumentError("breakpoint()", "then", told)
        self.before, self.after, self.when, self.then = before, after, when, then

    def hooks(self) -> list[tuple[str, HookMethod]]:
        """One, before or after the slot."""
        side: Side = "after" if self.before is None else "before"
        target = self.after if self.before is None else self.before
        assert target is not None
        options: Options = {} if self.when is None else {"when": self.when}
        return [("stop", HookMethod(type(self).stop, (Point(side, target, options),)))]

    def stop(self, state: Any, outcome: Outcome) -> None:
        """The run is there."""
        actor = state._owner
        position = Position(*actor.runner.read_position())
        side = "after" if self.before is None else "before"
        do(self.then, Stopped(side, actor.path.partition(":")[0], position, outcome, state))
