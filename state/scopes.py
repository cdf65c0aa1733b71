"""Scopes: how long the value of a field is valid, kept as a stack."""

from collections.abc import Callable
from typing import Any

from state.fields import MISSING
from state.state import State, writer

RUN = "run"

SCOPES = (RUN, "epoch", "phase", "update", "batch")
"""The scopes that have a meaning of their own; any other name is one of the user's."""


class Scopes:
    """Opens and closes the scopes of one State.

    Opening a scope gives its fields their defaults and takes every other value from them. What a factory makes is
    checked as any write; a default was, when its class was made. Opening a scope that is open already (a validation
    inside a batch) starts it empty; closing it gives the outer values back.
    """

    def __init__(self, state: State, *, updates_open: bool = True) -> None:
        """Args:
        state: whose fields.
        updates_open: whether something opens the scope "update"; if not, its fields live as long as the batch.
        """
        self._state = state
        self._values = state.__dict__
        self._names: dict[str, tuple[str, ...]] = {}
        self._constants: dict[str, tuple[tuple[str, Any], ...]] = {}
        self._factories: dict[str, tuple[tuple[Callable[[Any], None], Callable[[State], Any]], ...]] = {}
        self._open: dict[str, int] = {}
        self._kept: set[str] = set()  # scopes that are closed and whose values are still there
        for name, spec in type(state).specs.items():
            scope = spec.scope if updates_open or spec.scope != "update" else "batch"
            if scope == RUN:
                continue
            self._names[scope] = (*self._names.get(scope, ()), name)
            if spec.default is not MISSING:
                self._constants[scope] = (*self._constants.get(scope, ()), (name, spec.default))
            if spec.factory is not None:
                write = writer(state, name, "its factory", None, None)
                self._factories[scope] = (*self._factories.get(scope, ()), (write, spec.factory))

    @property
    def names(self) -> tuple[str, ...]:
        """The scopes that have fields, and those that were opened."""
        return tuple(dict.fromkeys((*self._names, *self._open)))

    def is_open(self, scope: str) -> bool:
        """Whether `scope` is open now. The run always is."""
        return scope == RUN or self._open.get(scope, 0) > 0

    def depth(self, scope: str) -> int:
        """How deep an open scope is: 0 for the run, more for what was opened inside."""
        return 0 if scope == RUN else 1 + list(self._open).index(scope)

    def open(self, scope: str) -> dict[str, Any] | None:
        """Open `scope`; the answer is for `close`: the values that it hides, if it was open already.

        Raises:
            InvalidValue: a factory made what its field does not take. The scope is closed again.
        """
        while self._kept:  # whoever opens a scope does not debug any more
            self._drop(self._kept.pop())
        depth = self._open.get(scope, 0)
        self._open[scope] = depth + 1
        values = self._values
        there = {name: values.pop(name) for name in self._names.get(scope, ()) if name in values}
        hidden = there if depth else None  # else it was written while the scope was not open
        for name, default in self._constants.get(scope, ()):
            values[name] = default
        try:
            for write, factory in self._factories.get(scope, ()):
                write(factory(self._state))
        except BaseException:
            self.close(scope, hidden)
            raise
        return hidden

    def close(self, scope: str, hidden: dict[str, Any] | None, keep: bool = False) -> None:
        """Close `scope`: drop its values, give the hidden ones back.

        With `keep`, as a stage failed, the values stay until another scope is opened, and the hidden ones are gone.
        """
        self._open[scope] -= 1
        if not keep:
            self._drop(scope)
            if hidden:
                self._values.update(hidden)
        elif not self._open[scope]:
            self._kept.add(scope)

    def clear(self) -> None:
        """Take all scoped values away: what a failed run left for the debugger, or a person set by hand."""
        self._open.clear()
        self._kept.clear()
        for scope in self._names:
            self._drop(scope)

    def _drop(self, scope: str) -> None:
        values = self._values
        for name in self._names.get(scope, ()):
            if name in values:
                del values[name]
