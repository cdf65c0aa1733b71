"""Watch: looks at what can change in place in the values of a State, and tells what did between two looks."""

import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from state.contents import Eye, Seen
from state.generators import Generators
from state.insides import COLLECTIONS, Inside, Tree, hyper, in_field, is_fixed, optimizer_state, stateful
from state.parts import RNG, optimized, parts_of
from state.state import State
from state.train_state import Scratch

EVIDENCE = ("identity", "version", "value", "contents")
"""How a move is known, the weakest first: another object or memory, a version counter, a plain value, the bits."""

_OF_OBJECTS = ("params", "buffers")  # another object with the same bits is a move there, and nowhere else
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Moved:
    """A part or a field that changed in place.

    Attributes:
        name: "model.params", "rng", "optimizer.hyper", or a field: "inputs".
        inside: what differs below it, by dotted names and in order: "0.weight", "lr"; empty for a field's own value.
        evidence: one of `EVIDENCE`, the strongest there is.
    """

    name: str
    inside: tuple[str, ...]
    evidence: str


class Look(NamedTuple):
    """What a Watch saw at one time: plain values, and a `Seen` of each tensor.

    It keeps no graph and no gradient alive, but the modules and parameters that it saw, and of a field its list, tuple
    or mapping with all that is in it: let go of a look once the next one is taken.

    Attributes:
        parts: what it saw, by the name of the part or field.
        holders: what each field held; where another object stands now, it was written and did not move.
        trees: the modules by field, with the parameters and buffers that are told apart by identity. Were they freed,
            another object could get the same one.
        optimized: the parameters of each optimizer, likewise.
    """

    parts: dict[str, Inside]
    holders: dict[str, Any]
    trees: dict[str, Tree]
    optimized: dict[str, list[Tensor]]

    def memory(self, name: str, inside: Collection[str]) -> set[int | None]:
        """Where each of these names inside a part or field has its memory; None stands for what is no tensor here.

        Args:
            inside: as in `Moved`, so that none of them means the field's own value.
        """
        field = name.partition(".")[0]
        pairs = zip(*self.parts.get(name, ((), ())), strict=True)
        seen = {_told(self, field, below): value.memory for below, value in pairs if isinstance(value, Seen)}
        return {seen.get(below) for below in inside or ("",)}

    def lasting(self) -> "Look":
        """The same without the fields' own values: this one can be kept over rounds, and keeps no batch alive."""
        parts = {name: inside for name, inside in self.parts.items() if "." in name or name == RNG}
        owners = {name.partition(".")[0] for name in parts}
        return self._replace(parts=parts, holders={f: held for f, held in self.holders.items() if f in owners})


class Watch:
    """Looks at what can change in place in the values of one State.

    Looking draws no random number, moves no version counter and builds no graph.
    """

    __slots__ = ("_generators", "_optimizers", "_plain", "_state", "_trees")

    def __init__(self, state: State) -> None:
        self._state = state
        self._generators = Generators()
        self._trees: dict[str, Tree] = {}  # by field, of the last look that was not plain
        self._optimizers: dict[str, Optimizer] = {}
        self._plain: tuple[list[Any], Look] | None = None

    def look(self, *, contents: bool, turn: int | None = None) -> Look:
        """Look at all parts of all components, at the generators, and at the tensors in fields.

        Args:
            contents: whether to read the tensors, and the generators of Python and numpy. If not, of a tensor count
                identity, memory, version counter, shape, dtype and device.
            turn: of large tensors read only a slice, another one in each turn: what a look takes is then bounded by
                their number.
        """
        return self._look(None, contents, turn)

    def part(self, name: str) -> Inside | None:
        """The tensors and values in a part themselves: "model.params", "optimizer.state"; None if it cannot be read."""
        field, part, *below = name.split(".", 2)
        value = self._state.__dict__.get(field)
        if isinstance(value, nn.Module) and "mode" in parts_of(type(value)):
            tree = self._trees[field] = self._tree(field, value)
            found: Inside | None = tree.mode() if part == "mode" else tree.part(part)
        elif isinstance(value, Optimizer):
            found = hyper(value) if part == "hyper" else optimizer_state(value)
        else:
            found = stateful(value)
        if found is None or not below:
            return found
        pairs = zip(*found, strict=True)
        kept = [(one, held) for one, held in pairs if f"{one}.".startswith(f"{below[0]}.")]
        return Inside([one for one, _ in kept], [held for _, held in kept])

    def look_at(self, names: Collection[str], *, contents: bool) -> Look:
        """Look at these parts and fields only: "model.params", "rng", "inputs". What is not there is left out."""
        return self._look(names, contents)

    def plain(self) -> Look:
        """Look only at what is made of plain Python values: modes of modules, and what parameter groups hold.

        The same look again, as long as nothing changes. It goes by the modules, parameters and optimizers that the last
        other look found.
        """
        values = self._state.__dict__
        if not self._trees and not self._optimizers:
            self._look((), contents=False)
        now: list[Any] = []
        for field, tree in self._trees.items():
            now.append(values.get(field))
            now += tree.flags()
        for field, optimizer in self._optimizers.items():
            now.append(values.get(field))
            for group in optimizer.param_groups:
                now += group.values()
                now += group["params"]
        if self._plain is None or len(now) != len(self._plain[0]) or not all(map(is_, now, self._plain[0])):
            names = [f"{field}.mode" for field in self._trees] + [f"{field}.hyper" for field in self._optimizers]
            look = self._look(names, contents=False)
            if not all(map(is_fixed, self._optimizers.values())):
                return look
            self._plain = now, look
        return self._plain[1]

    def _look(self, only: Collection[str] | None, contents: bool, turn: int | None = None) -> Look:
        values = self._state.__dict__.items()
        found = [(field, value, _parts(type(value))) for field, value in values]  # type: ignore[arg-type]  # hashable
        self._trees = {field: self._tree(field, value) for field, value, parts in found if "mode" in parts}
        self._optimizers = {field: value for field, value, parts in found if "hyper" in parts}
        look = Look({}, {}, self._trees, {field: optimized(value) for field, value in self._optimizers.items()})
        eye = Eye(contents, turn)
        for field, value, parts in found:
            for part in parts:
                name = f"{field}.{part}" if part else field
                inside = self._inside(field, value, part, eye) if only is None or name in only else None
                if inside is not None:
                    look.parts[name] = inside
                    if field not in look.holders:
                        look.holders[field] = _held(value)
        if only is None or RNG in only:
            states = self._generators.look(contents=contents)
            look.parts[RNG] = Inside(list(states), list(states.values()))
        eye.finish()
        return look

    def _tree(self, field: str, module: nn.Module) -> Tree:
        tree = self._trees.get(field)
        return tree if tree and tree.root is module and tree.is_current() else Tree(module)

    def _inside(self, field: str, value: Any, part: str, eye: Eye) -> Inside | None:
        """What is in a part now, as the eye sees it; None if that cannot be looked at."""
        tree = self._trees.get(field)
        if tree:
            return tree.mode() if part == "mode" else _seen(tree.part(part), eye.see)
        if part == "hyper":
            return hyper(value)
        if field in self._optimizers:
            return _seen(optimizer_state(value), eye.see)
        if part:
            is_saved = type(self._state).specs[field].saved != "volatile"
            return _seen(stateful(value), eye.see_copy) if is_saved else None
        return None if self._is_data(field, value) else _seen(in_field(value), eye.see)

    def _is_data(self, field: str, value: Any) -> bool:
        """Whether a field holds what a run is made on, such as a list of batches, or what anybody may write into."""
        spec = type(self._state).specs[field]
        return (spec.scope == "run" and spec.saved == "volatile") or isinstance(value, Scratch)


def moved(before: Look, after: Look) -> list[Moved]:
    """What differs between two looks, of what both saw, in the order of the earlier one.

    Tensors count by their bits where both looks read all of them, else by identity, memory and version counter, and by
    the bits of a slice where both read the same.
    """
    found = []
    for name, one in before.parts.items():
        other = after.parts.get(name)
        field, _, part = name.partition(".")
        if other is None or one == other or before.holders.get(field) is not after.holders.get(field):
            continue
        differ = {
            below: evidence
            for below, old, new in _paired(one, other, only_common=name == RNG)
            if (evidence := _evidence(old, new, part))
        }
        if differ:
            inside = tuple(_told(after, field, below) for below in differ if below)
            found.append(Moved(name, inside, max(differ.values(), key=EVIDENCE.index)))
    return found


def _paired(one: Inside, other: Inside, only_common: bool) -> Iterable[tuple[str, Any, Any]]:
    """The values of two looks by name. What only one of them has is a difference, or left out if `only_common`."""
    if one.names == other.names:
        return zip(one.names, one.values, other.values, strict=True)
    old, new = dict(zip(*one, strict=True)), dict(zip(*other, strict=True))
    names = [name for name in old if name in new] if only_common else dict.fromkeys((*old, *new))
    return [(name, old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in names]


def _told(look: Look, field: str, below: str) -> str:
    """A name below a part as one tells it: that of the parameter for its number in an optimizer."""
    number, _, kept = below.partition(".")
    parameters = look.optimized.get(field, [])
    if number.isdigit() and int(number) < len(parameters):
        for owner, tree in look.trees.items():
            for name, parameter in zip(*tree.params, strict=True):
                if parameter is parameters[int(number)]:
                    return f"{owner}.{name}.{kept}"
    return below


def _evidence(old: Any, new: Any, part: str) -> str | None:
    """How it is known that a value is another one now; None if it is not."""
    if not (isinstance(old, Seen) and isinstance(new, Seen)):
        if isinstance(old, Seen) or isinstance(new, Seen):
            return "identity"
        return None if old is new or old == new or (old != old and new != new) else "value"
    if old.form[1] is None and new.identity == old.identity:  # a lazy parameter, which gets its shape when first used
        return None
    if old.bits is not None and new.bits is not None and old.turn == new.turn:
        if old.bits != new.bits:
            return "contents"
        if old.form != new.form:
            return "value"
        if old.turn is None:
            return "identity" if part in _OF_OBJECTS and old.identity != new.identity else None
    if (old.identity, old.memory) != (new.identity, new.memory):
        return "identity"
    if old.form != new.form:
        return "value"
    return "version" if old.version != new.version else None


@cache
def _parts(kind: type) -> tuple[str, ...]:
    """The parts of values of a type; of a field that holds tensors itself one without a name."""
    return ("",) if issubclass(kind, (Tensor, *COLLECTIONS)) else parts_of(kind)


def _held(value: Any) -> Any:
    """What tells a value from another one in its place, and keeps it from being freed only if there is no other way."""
    try:
        return weakref.ref(value)  # one and the same for an object as long as it lives
    except TypeError:
        return value


def _seen(inside: Inside | None, see: Callable[[Tensor], Seen]) -> Inside | None:
    """The same names, and in the place of each tensor what is seen of it."""
    if inside is None or not inside.names:
        return inside
    return Inside(inside.names, [see(value) if isinstance(value, Tensor) else value for value in inside.values])
