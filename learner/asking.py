"""Asking: what a Learner answers about itself, and waits for while it runs."""

from collections.abc import Callable
from typing import Any, Literal, overload

from learner.aliases import Alias, aliases
from learner.bound import Bound
from learner.callbacks.breakpoint import Breakpoint
from learner.capturing import CapturingWatcher, capturing
from learner.errors import ArgumentError
from learner.hooks import Hooks
from learner.unchanged import why_unchanged
from stages.draw import draw_html
from stages.tables import explain
from stages.watching import Hit, Stopped, Then, Watcher
from state import ChangeLog, State
from state.errors import short, want_text
from state.grid import Grid

When = Callable[[Any], object] | None


class Asking:
    """What can be asked of a Learner: why, what shares memory, and to be stopped where a value comes up."""

    _bound: Bound
    state: State
    log: ChangeLog

    def _repr_html_(self) -> str:
        return draw_html(self._bound.assembly)

    def explain(self, name: str) -> str:
        """Explain a slot, or why a parameter did not change.

        Of a slot: what it reads and from whom, what it writes and for whom, its hooks and why in this order. Of a
        parameter, "model.0.weight": every reason for an update to leave it as it is, such as that it is frozen, has no
        gradient, is in no group, or that its learning rate is 0.

        Raises:
            UnknownSlot, AmbiguousSlot, UnknownField: there is no such slot or parameter, or several.
            ArgumentError: it is a field, or a part as a whole.
        """
        want_text(name, "explain()")
        return why_unchanged(self.state, self.log, name) if "." in name else explain(self._bound.assembly, name)

    def aliases(self) -> Grid[Alias]:
        """The tensors in State that have their memory in common, such as tied weights, or a copy that is none."""
        return Grid(Alias._fields, aliases(self.state))

    @overload
    def watch(
        self,
        name: str,
        *,
        above: float | None = None,
        below: float | None = None,
        nonfinite: bool = False,
        when: When = None,
        then: Literal["capture"],
    ) -> CapturingWatcher: ...

    @overload
    def watch(
        self,
        name: str,
        *,
        above: float | None = None,
        below: float | None = None,
        nonfinite: bool = False,
        when: When = None,
        then: Then[Hit] = "raise",
    ) -> Watcher: ...

    def watch(
        self,
        name: str,
        *,
        above: float | None = None,
        below: float | None = None,
        nonfinite: bool = False,
        when: When = None,
        then: Then[Hit] | Literal["capture"] = "raise",
    ) -> Watcher:
        """Stop where a field or a part gets a value that is waited for, while its writer is still running.

        Args:
            name: of a field, "loss"; of a part, "model.grads"; or of what lies below one, "model.params.0.weight",
                "optimizer.hyper.lr".
            above, below: a number, or any element of a tensor, beyond this bound.
            nonfinite: NaN or an infinite number among the elements.
            when: a function of the value, for any other question; for a part it is called with each tensor.
            then: "raise" a WatchHit, "break" into the debugger (`breakpoint()`), or a function, which gets the Hit. Or
                "capture": the run goes on, and what State held before the batch of the first hit is kept, for
                `learner.replay(watcher.captured)`. That costs a copy of all that State holds, in the memory of the CPU,
                before each batch until there is a hit: about what a checkpoint of each batch would, without the disk.
                A hit outside of the slot "batch" does not count: running the batch again would not come to it.

        Returns:
            What `unwatch` takes. Looking at a tensor on an accelerator waits for it.

        Raises:
            UnknownField: there is no such field or part.
            ArgumentError: nothing is waited for, `then` cannot be used, or nobody in the tree writes that.
        """
        want_text(name, "watch()")
        asked = (above, below, nonfinite or None, when)
        if all(one is None for one in asked) or (when is not None and asked != (None, None, None, when)):
            raise ArgumentError("watch()", "when", "say above=, below= or nonfinite=True, or else when=.")
        if then == "capture":
            return capturing(self._bound, name, above, below, nonfinite, when)
        if then not in ("raise", "break") and not callable(then):
            told = f"then={then!r} is none of 'raise', 'break', 'capture' and a function of the Hit."
            raise ArgumentError("watch()", "then", told)
        watcher = Watcher(name, above, below, nonfinite, when, then)
        self._bound.watch(watcher)
        return watcher

    def breakpoint(
        self,
        *,
        before: str | type | None = None,
        after: str | type | None = None,
        when: When = None,
        then: Then[Stopped] = "break",
    ) -> Breakpoint:
        """Stop where the run comes to a slot, with the slot on the stack.

        Before a slot its other hooks have run, and State is what the stage will find; after it, what they left.

        Args:
            before, after: the slot, one of the two: "update", "fit/batch/gradient", a pattern, or a phase class.
            when: a function of the state that says whether to stop; by default each time.
            then: "break" into the debugger (`breakpoint()`), "raise" a WatchHit, or a function, which gets the Stopped.

        Returns:
            What `unwatch` takes. It is a hook that observes: listed in `learner.hooks`, and without it nothing is paid.

        Raises:
            GraphError: there is no such slot.
            ArgumentError: not exactly one slot, or `then` cannot be used.
        """
        point = Breakpoint(before, after, when=when, then=then)
        self._bound.set_callbacks([*self._bound.callbacks, point])
        return point

    def unwatch(self, waiting: Watcher | Breakpoint | None = None) -> None:
        """Wait no more: for what one `watch` or `breakpoint` asked for, or for anything.

        Raises:
            ArgumentError: it is none of these.
        """
        if not isinstance(waiting, Watcher | Breakpoint | None):
            told = f"{short(waiting)} is nothing that watch() or breakpoint() gave."
            raise ArgumentError("unwatch()", "waiting", told)

        def is_meant(one: object) -> bool:
            return waiting is None or one is waiting

        hooks: list[Any] = [one for one in self._bound.callbacks if isinstance(one, Breakpoint) and is_meant(one)]
        if not isinstance(waiting, Breakpoint):
            those = [one for some in self._bound.watchers.values() for one in some if is_meant(one)]
            hooks += [one.capture for one in those if isinstance(one, CapturingWatcher)]
            self._bound.unwatch(waiting)
        for hook in hooks:
            Hooks(self._bound).remove(hook)
