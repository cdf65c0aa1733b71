"""Plan: the places of a program, who stands at each, in State's names. Knows nothing of how the library does it."""

from functools import cached_property
from itertools import combinations

from tests.integration.trees.orders import orders_of, overlap
from tests.integration.trees.places import Actor, Spot, key_of
from tests.integration.trees.programs import COMPONENTS, FIELDS, POSITION, TOTAL, Callback, Hook, Node, Program


class Plan:
    """All places of a program with their hooks in order.

    Attributes:
        unordered: (kind, paths of the hooks at one point that have no order).
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.root = _laid_out(program.tree, "top", None)
        self.spots = list(self.root.walk())
        self.unordered: list[tuple[str, set[str]]] = []
        self.standing: dict[int, list[Actor]] = {}
        for rank, (callback, hook) in enumerate(program.hooks):
            self.standing[hook.number] = [
                self._hang(spot, callback, hook, rank) for spot in self.spots if _matches(spot, hook)
            ]
        for spot in self.spots:
            for side, hung in spot.hooks.items():
                spot.hooks[side] = self._ordered(hung)

    @cached_property
    def actors(self) -> list[Actor]:
        """Everyone, in the order they stand."""
        return [actor for spot in self.spots for actor in spot.actors()]

    @cached_property
    def known(self) -> frozenset[str]:
        """All names that can be declared, without what is below parts."""
        parts = {f"{owner}.{part}" for owner, parts in COMPONENTS.items() for part in parts}
        return frozenset({*FIELDS, *COMPONENTS, *parts, TOTAL, POSITION, "rng", "train_loader"})

    @cached_property
    def scopes(self) -> dict[str, str]:
        """The scope of each name that a value can be missing of."""
        opened = {scope for spot in self.spots for scope in (spot.node.each, spot.node.opens)}
        of_updates = "update" if "update" in opened else "batch"
        return {
            **FIELDS,
            "u": of_updates,
            **dict.fromkeys(COMPONENTS, "run"),
            **{TOTAL: "run", POSITION: "batch", "model.grads": of_updates, "other.grads": of_updates},
        }

    def writers(self, name: str) -> set[str]:
        """The paths of those who write a field or gradients."""
        return {actor.path for actor in self.actors if name in map(key_of, actor.named(actor.act.writes))}

    def _hang(self, spot: Spot, callback: Callback, hook: Hook, rank: int) -> Actor:
        path = f"{spot.path}:{hook.side}:{callback.name(hook)}"
        actor = Actor(path, f"h{hook.number}", hook.act, callback.names, spot, hook, callback, rank)
        spot.hooks[hook.side].append(actor)
        return actor

    def _ordered(self, hung: list[Actor]) -> list[Actor]:
        """The first order, by registration, that keeps all that is declared; observers last."""
        acting = [actor for actor in hung if not actor.observes]
        orders = orders_of(acting, self.program)
        if any(i == j for i, j in orders):
            self.unordered.append(("cycle", {actor.path for actor in acting}))
            return hung
        for i, j in combinations(range(len(acting)), 2):
            if overlap(acting[i], acting[j]) and not {(i, j), (j, i)} & orders:
                self.unordered.append(("unordered writers", {acting[i].path, acting[j].path}))
        found: list[Actor] = []
        left = list(range(len(acting)))
        while left:
            first = next(i for i in left if not any((j, i) in orders for j in left))
            left.remove(first)
            found.append(acting[first])
        return found + [actor for actor in hung if actor.observes]


def _laid_out(node: Node, path: str, parent: Spot | None) -> Spot:
    names = {**(parent.names if parent else {}), **node.names}
    spot = Spot(path, node, True, parent, names)
    spot.held = [_laid_out(held, f"{path}/{slot}", spot) for slot, held in node.held.items()]
    if node.each == "batch" and not any(above.node.each == "update" for above in spot.above):
        spot.held.append(Spot(f"{path}/checkpoint", node, False, spot, names))
    return spot


def _matches(spot: Spot, hook: Hook) -> bool:
    if hook.within and not any(_ends(one.path, hook.within) for one in (spot, *spot.above)):
        return False
    return spot.parent is None if hook.target == "/" else hook.target == "*" or _ends(spot.path, hook.target)


def _ends(path: str, target: str) -> bool:
    words = target.split("/")
    return path.split("/")[-len(words) :] == words
