"""Places: the slots of one tree, each with its stage, its contract and the hooks that stand there."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from stages.binding import names_of
from stages.callbacks import Hook
from stages.contract import Contract, contract_of
from stages.control import Window
from stages.errors import DeclarationError
from stages.phases import Phase
from stages.slots import fits
from stages.stage import Composite, Stage, slot_of
from state.access import Access, Names, rename

CHECKPOINT = "checkpoint"
"""The point at the end of each round over data or epochs; no stage fills it."""

INLINE = "inline"

ROOT = "/"
"""As a target: the top of the tree, whatever it is called."""


@dataclass
class HookPlace:
    """One hook at one place.

    Attributes:
        path: its actor.
        access: its declaration in State's names, with `{phase}` filled in.
        names: how it calls fields that State calls otherwise.
        place: where it stands.
    """

    hook: Hook
    path: str
    access: Access
    names: Names
    place: "Place"


@dataclass
class Place:
    """One slot of a tree.

    Attributes:
        kind: "stage", "inline" or "checkpoint".
        access: what its stage declares, in State's names, with `*.mode` and the like spelt out.
        names: how its stage calls fields that State calls otherwise: what `bind` gave it and those above it.
        phase: the innermost phase it is in, itself included; None outside of any.
        before, around, after: its hooks, in the order they run; those around it leave in reverse.
        left_out: slots whose stage is this one or one that it is inside of, with the place of that; they are no places.
    """

    path: str
    slot: str
    kind: str
    stage: Stage
    contract: Contract
    access: Access
    parent: "Place | None"
    phase: Phase | None
    names: Names
    children: dict[str, "Place"] = field(default_factory=dict)
    before: list[HookPlace] = field(default_factory=list)
    around: list[HookPlace] = field(default_factory=list)
    after: list[HookPlace] = field(default_factory=list)
    left_out: "dict[str, Place]" = field(default_factory=dict)

    @property
    def hooks(self) -> "tuple[HookPlace, ...]":
        """All hooks that stand here."""
        return (*self.before, *self.around, *self.after)

    @property
    def has_own_code(self) -> bool:
        """Whether its stage does anything itself, besides running the stages that it holds."""
        return self.kind == "stage" and type(self.stage).run is not Composite.run

    @property
    def is_composite(self) -> bool:
        """Whether stages run below it."""
        return self.composite is not None

    @property
    def composite(self) -> Composite | None:
        """Its stage, if that holds stages."""
        return self.stage if self.kind == "stage" and isinstance(self.stage, Composite) else None

    @property
    def opens(self) -> str | None:
        """The scope that is open while its stage runs."""
        return self.stage.opens if self.kind == "stage" else None

    @property
    def each(self) -> str | None:
        """The scope that each round opens, of a loop."""
        return None if self.composite is None else self.composite.each

    @property
    def runs(self) -> str:
        """How often it runs what it holds: "1", "0-1", "1+" or "0+"."""
        return "1" if self.composite is None else self.composite.runs

    @property
    def counts(self) -> tuple[str | None, str | None]:
        """The fields that a loop counts its rounds in, from 0 and in all."""
        return (None, None) if self.composite is None else self.composite.counts

    @property
    def forbids(self) -> tuple[str, ...]:
        """What its stage forbids inside it, in State's names."""
        return () if self.composite is None else tuple(rename(name, self.names) for name in self.composite.forbids)

    @cached_property
    def forbidden(self) -> dict[str, str]:
        """What those forbid that it is inside of, with their paths."""
        above = self.parent
        return {} if above is None else {**above.forbidden, **dict.fromkeys(above.forbids, above.path)}

    def walk(self) -> "Iterator[Place]":
        """This place and all below it, in the order they run."""
        waiting = [self]
        while waiting:
            place = waiting.pop()
            yield place
            waiting.extend(reversed(place.children.values()))

    @property
    def root(self) -> "Place":
        """The top of the tree that it is in."""
        return [*self.ancestors()][-1]

    def ancestors(self) -> "Iterator[Place]":
        """This place, its parent, and so on up to the root."""
        place: Place | None = self
        while place is not None:
            yield place
            place = place.parent


def lay_out(root: Stage, contracts: dict[int, Contract]) -> Place:
    """The places of a tree, without hooks. `contracts` remembers what was read of each stage object.

    A stage that stands inside itself has no place there: see `left_out`.

    Raises:
        DeclarationError: a declaration cannot be used.
    """
    top = _place(root, slot_of(root), None, contracts)
    waiting = [top]
    while waiting:
        place = waiting.pop()
        if place.kind != "stage":
            continue
        stage = place.stage
        if isinstance(stage, Composite):
            for slot, child in stage.stages.items():
                around = next((above for above in place.ancestors() if above.stage is child), None)
                if around is not None:
                    place.left_out[slot] = around
                    continue
                place.children[slot] = _place(child, slot, place, contracts)
            if _ends_in_a_point(stage, place):
                place.children[CHECKPOINT] = _point(place, CHECKPOINT, CHECKPOINT)
        for slot in place.contract.inline:
            place.children[slot] = _point(place, slot, INLINE)
        waiting.extend(place.children.values())
    return top


def matches(place: Place, target: str | type, within: str | type | None) -> bool:
    """Whether a hook with this target and `within` stands at `place`."""
    if isinstance(target, type):
        if not (place.kind == "stage" and isinstance(place.stage, target)):
            return False
    elif place.parent is not None if target == ROOT else not fits(place.path, target):
        return False
    if within is None:
        return True
    if isinstance(within, type):
        return isinstance(place.phase, within)
    return any(fits(ancestor.path, within) for ancestor in place.ancestors())


def filled(access: Access, place: Place) -> Access:
    """`access` with `{phase}` in its names replaced by the word of the place's phase, `{loader}` by its loader.

    Raises:
        DeclarationError: there is such a name, and the place is in no phase.
    """
    if not any("{" in name for name in access.names):
        return access
    if place.phase is None:
        raise DeclarationError(place.path, "is in no phase, so {phase} in a name stands for nothing. Add within=Phase.")
    word, loader = place.phase.word, place.phase.loader
    return access.mapped(lambda name: (name.replace("{phase}", word).replace("{loader}", loader),))


def _ends_in_a_point(stage: Composite, place: Place) -> bool:
    """Whether its rounds are over data or epochs, and end where everything that counts is in State: inside the round of
    an update that is so in a Window alone."""
    is_over_data = stage.each is not None and (isinstance(stage, Phase) or stage.counts[0] is not None)
    above = list(place.ancestors())[1:]
    is_inside = any(one.each == "update" for one in above)
    return is_over_data and (isinstance(stage, Window) or not is_inside)


def _place(stage: Stage, slot: str, parent: Place | None, contracts: dict[int, Contract]) -> Place:
    path = f"{parent.path}/{slot}" if parent else slot
    phase = stage if isinstance(stage, Phase) else parent.phase if parent else None
    contract = contracts.get(id(stage))
    if contract is None:
        contract = contracts[id(stage)] = contract_of(stage)
    names = {**(parent.names if parent else {}), **names_of(stage)}
    return Place(path, slot, "stage", stage, contract, contract.access.renamed(names), parent, phase, names)


def _point(parent: Place, slot: str, kind: str) -> Place:
    """A place without a stage of its own: it does what its parent declares."""
    if slot in parent.children:
        raise DeclarationError(
            parent.path, f"has a stage in the slot {slot!r}, which it keeps for itself. Rename that slot."
        )
    contract = parent.contract
    path, access = f"{parent.path}/{slot}", parent.access
    return Place(path, slot, kind, parent.stage, contract, access, parent, parent.phase, parent.names)
