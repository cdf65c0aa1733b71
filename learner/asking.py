"""Asking: what a Learner answers about itself, and waits for while it runs."""

from collections.abc import Callable
from typing import Any

from learner.aliases import Alias, aliases
from learner.bound import Bound
from learner.errors import ArgumentError
from learner.unchanged import why_unchanged
from stages.draw import draw_html
from stages.tables import explain
from stages.watching import Then, Watcher
from state import ChangeLog, State
from state.grid import Grid


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
        """
        return why_unchanged(self.state, self.log, name) if "." in name else explain(self._bound.assembly, name)

    def aliases(self) -> Grid[Alias]:
        """The tensors in State that have their memory in common, such as tied weights, or a copy that is none."""
        return Grid(Alias._fields, aliases(self.state))

    def watch(
        self,
        name: str,
        *,
        above: float | None = None,
        below: float | None = None,
        nonfinite: bool = False,
        when: Callable[[Any], object] | None = None,
        then: Then = "raise",
    ) -> Watcher:
        """Stop where a field or a part gets a value that is waited for, while its writer is still running.

        Args:
            name: of a field, "loss"; of a part, "model.grads"; or of what lies below one, "model.params.0.weight",
                "optimizer.hyper.lr".
            above, below: a number, or any element of a tensor, beyond this bound.
            nonfinite: NaN or an infinite number among the elements.
            when: a function of the value, for any other question; for a part it is called with each tensor.
            then: "raise" a WatchHit, "break" into the debugger (`breakpoint()`), or a function, which gets the Hit.

        Returns:
            What `unwatch` takes. Looking at a tensor on an accelerator waits for it.

        Raises:
            UnknownField: there is no such field or part.
            ArgumentError: nothing is waited for, `then` cannot be used, or nobody in the tree writes that.
        """
        asked = (above, below, nonfinite or None, when)
        if all(one is None for one in asked) or (when is not None and asked != (None, None, None, when)):
            raise ArgumentError("watch()", "when", "say above=, below= or nonfinite=True, or else when=.")
        if then not in ("raise", "break") and not callable(then):
            told = f"then={then!r} is none of 'raise', 'break' and a function of the Hit."
            raise ArgumentError("watch()", "then", told)
        watcher = Watcher(name, above, below, nonfinite, when, then)
        self._bound.watch(watcher)
        return watcher

    def unwatch(self, watcher: Watcher | None = None) -> None:
        """Wait no more, for what one `watch` asked for or for anything."""
        self._bound.unwatch(watcher)
