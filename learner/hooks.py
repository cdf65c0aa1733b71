"""The hooks of a Learner, as a list a person can look at and take from."""

from collections.abc import Iterator, Sequence
from typing import Any

from learner.bound import Bound
from learner.errors import ArgumentError
from stages.callbacks import FunctionCallback, Hook, as_callback
from state.errors import nearest, suggestion


class Hooks(Sequence[str]):
    """The names of the hooks, in the order of registration; `remove` takes one out."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._hooks = bound.assembly.hooks

    def remove(self, hook: Any) -> None:
        """Take out a callback: by its name, by the object, or by the function that was hooked.

        Raises:
            ArgumentError: it is none of them.
        """
        names = {one.callback: one.name.split(".")[0] for one in self._hooks}
        kept: list[Any] = []
        for given in self._bound.callbacks:
            members = given if isinstance(given, tuple) else (given,)
            left = tuple(member for member in members if not _is(as_callback(member), hook, names))
            kept.extend([left if isinstance(given, tuple) else left[0]] if left else [])
        before = sum(len(given) if isinstance(given, tuple) else 1 for given in self._bound.callbacks)
        if sum(len(given) if isinstance(given, tuple) else 1 for given in kept) == before:
            near = suggestion(nearest(str(hook), [*names.values(), *self]))
            raise ArgumentError("hooks.remove", "hook", f"{hook!r} is none of {sorted(set(names.values()))}.{near}")
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


def _is(callback: Any, wanted: Any, names: dict[Any, str]) -> bool:
    if isinstance(callback, FunctionCallback) and callback.__dict__["hook"].function is wanted:
        return True
    return callback is wanted or names.get(callback) == wanted or f"{names.get(callback)}" == str(wanted).split(".")[0]


def _target(hook: Hook) -> str:
    target = hook.point.target
    return target if isinstance(target, str) else target.__name__
