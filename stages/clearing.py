"""Clearing: whose gradients are cleared in each round before anybody reads them."""

from collections.abc import Sequence
from typing import NamedTuple

from stages.check import actors, key_of
from stages.place import Place
from stages.supervised import ClearGradients


class Clearing(NamedTuple):
    """A stage that clears gradients which nobody has read since they were of use.

    Attributes:
        path: where it stands.
        module, optimizer: the fields whose gradients it clears, and whose parameters are meant.
    """

    path: str
    module: str
    optimizer: str


def clearings(places: Sequence[Place]) -> list[Clearing]:
    """Each `ClearGradients` of a sound tree that all who read these gradients come after, in every round.

    The check has seen to it that they are not read before they were written anew in a round. So it is enough that this
    stage alone writes them anew; that all readers are declared, and stand behind it under its parent, so that whoever
    gets to them was there; and that no hook can skip it.
    """
    everyone, found = list(actors(places)), []
    order = [path for path, _ in everyone]
    for place in places:
        if place.kind != "stage" or type(place.stage).run is not ClearGradients.run or place.parent is None:
            continue
        one = Clearing(place.path, *(place.names.get(name, name) for name in ("model", "optimizer")))
        grads = f"{one.module}.grads"
        readers = [path for path, access in everyone if access.unsafe or grads in map(key_of, access.reads)]
        writers = [path for path, access in everyone if grads in map(key_of, access.writes) and path not in readers]
        behind = {path for path in order[order.index(place.path) :] if path.startswith(f"{place.parent.path}/")}
        if writers == [place.path] and behind.issuperset(readers) and not (place.before or place.around):
            found.append(one)
    return found
