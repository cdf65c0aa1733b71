"""What hooks keep for themselves: no views of the parameters, which change with each update."""

from typing import Any

from learner.at_hand import of_users_hooks
from learner.invariants.standing import UPDATE, warned
from learner.invariants.updates import memory_of_parameters, owner_of
from stages import Invariant
from stages.invariants import Wrong
from stages.place import Place
from state.insides import in_field


def invariants() -> tuple[Invariant, ...]:
    """What is so of what hooks keep."""
    name = "what is kept does not change with the parameters"
    return (warned(name, Views(), around=UPDATE, compares=("*.params",), hooks=False),)


class Views:
    """A dictionary that a hook has taken up while the run went on, such as the best weights, has memory of its own.

    One that it has had from the beginning may be there to look at the parameters as they are.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], Any] = {}  # what each hook had when it was first looked at

    def __call__(self, state: Any, changed: tuple[str, ...], place: Place) -> Wrong | None:
        memory: dict[int, str] | None = None
        for path, source, things in of_users_hooks(place.root):
            for name, value in things:
                if self._first.setdefault((path, name), value) is value or not isinstance(value, dict):
                    continue
                memory = memory_of_parameters(state, changed) if memory is None else memory
                inside = in_field(value)
                held = inside.values if inside is not None else ()
                owner = next(filter(None, (owner_of(one, memory) for one in held)), None)
                if owner:
                    told = f"it keeps {name!r}, which has its memory in common with {owner}, and changes with it"
                    return Wrong(f"{told}: clone it", by=(path, source))
        return None
