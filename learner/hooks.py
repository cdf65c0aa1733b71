"""The hooks of a Learner, as a list a person can look at and take from."""

from collections.abc import Iterator, Sequence
from typing import Any

from learner.bound import Bound
from learner.errors import ArgumentError
from stages.callbacks import Callback, FunctionCallback, Hook
from state.errors import nearest, suggestion


class Hooks(Sequence[str]):
    """The names of the hooks, in the order of registration; `remove` takes a callback out."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._hooks = bound.assembly.hooks

    def remove(self, hook: Any) -> None:
        """Take out a callback, all its hooks: by its name, by the object, or by the function that was hooked.

        Raises:
            ArgumentError: it is none of them.
        """
        names = {id(one.callback): one.name.split(".")[0] for one in self._hooks}
        theirs: set[str] = set()
        is_found = False
        kept: list[Any] = []
        for given in self._bound.callbacks:
            members = given if isinstance(given, tuple) else (given,)
            left = tuple(member for member in members if not _is(member, hook, names[id(member)]))
            theirs.update(names[id(member)] for member in members)
            is_found = is_found or len(left) < len(members)
            kept.extend([left if isinstance(given, tuple) else left[0]] if left else [])
        if not is_found:
            known = f"The callbacks are {sorted(theirs)}" if theirs else "There is none"
            told = f"{known}; what a Learner hooks itself stays."
            raise ArgumentError("hooks.remove", "hook", f"no {hook!r} is there. {told}{_near(hook, theirs)}")
        self._bound.set_callbacks(kept)

    def __len__(self) -> int:
        return len(self._hooks)

    def __iter__(self) -> Iterator[str]:
        return iter([hook.name for hook in self._hooks])

    def __getitem__(self, index: Any) -> Any:
        return [hook.name for hook in self._hooks][index]

    def __repr__(self) -> str:
        rows = [
            (hook.name, hook.point.side, _target(hook), "observes" if hook.observes else "") for hook in self._hooks
        ]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def _is(callback: Callback, wanted: Any, name: str) -> bool:
    if isinstance(wanted, str):
        return name == wanted.partition(".")[0]
    method = callback.__dict__["hook"] if isinstance(callback, FunctionCallback) else None
    return callback is wanted or (method is not None and wanted in (method, method.function))


def _near(wanted: Any, names: set[str]) -> str:
    return suggestion(nearest(wanted.partition(".")[0], names)) if isinstance(wanted, str) else ""


def _target(hook: Hook) -> str:
    target = hook.point.target
    return target if isinstance(target, str) else target.__name__
