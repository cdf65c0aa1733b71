"""Watch: looks at what can change in place in the values of a State, and tells what did between two looks."""

import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from state.contents import Generators, contents
from state.insides import COLLECTIONS, Inside, Tree, collection, hyper, optimizer_state, stateful
from state.parts import RNG, parts_of
from state.state import State

EVIDENCE = ("identity", "version", "value", "contents")
"""How a move is known, the weakest first: another object or memory, a version counter, a plain value, the bits."""

_OF_OBJECTS = ("params", "buffers")  # another object with the same bits is a move there, and nowhere else
_PLAIN = (".mode", ".hyper")  # made of plain values
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


class Seen(NamedTuple):
    """What a look keeps of a tensor. `form` is what it is besides its values; `bits` tell its values apart."""

    identity: int
    memory: int
    version: int | None
    form: tuple[Any, ...]
    bits: bytes | None


class Look(NamedTuple):
    """What a Watch saw at one time: plain values, and of tensors a `Seen`.

    A look keeps alive no graph and no gradient, but the parameters and buffers that it saw, and a field's list, tuple or
    mapping with all it holds: let go of a look once the next one is taken.

    Attributes:
        parts: what it saw, by the name of the part or field.
        holders: what each field held; where another object stands now, it was written and did not move.
        kept: objects that were identified. Were they freed, another one might get the same identity.
    """

    parts: dict[str, Inside]
    holders: dict[str, Any]
    kept: list[list[Tensor]]

    def memory(self, name: str, inside: Collection[str]) -> set[int]:
        """Where the tensors of a part or field have their memory: all of them, or those with these names inside."""
        found = self.parts.get(name)
        pairs = [] if found is None else zip(found.names, found.values, strict=True)
        return {value.memory for below, value in pairs if isinstance(value, Seen) and (not inside or below in inside)}


class Watch:
    """Looks at what can change in place in the values of one State.

    Looking draws no random number, moves no version counter and builds no graph.
    """

    __slots__ = ("_generators", "_optimizers", "_state", "_trees")

    def __init__(self, state: State) -> None:
        self._state = state
        self._generators = Generators()
        self._trees: dict[str, Tree] = {}
        self._optimizers: dict[str, Optimizer] = {}

    def look(self, *, contents: bool) -> Look:
        """Look at all parts of all components, at the generators, and at the tensors that fields hold.

        Args:
            contents: whether to read the tensors. If not, of a tensor count identity, memory, version counter, shape
                and dtype, and of the generators only torch's.
        """
        return self._look(None, contents)

    def look_at(self, names: Collection[str], *, contents: bool) -> Look:
        """Look at these parts and fields only: "model.params", "rng", "inputs". What is not there is left out."""
        return self._look(names, contents)

    def plain(self) -> Look:
        """Look only at what is made of plain Python values: the modes of modules and what parameter groups hold.

        Components that came to State since the last other look are left out.
        """
        if not self._trees and not self._optimizers:
            self._look((), False)
        found = Look({}, {}, [])
        values = self._state.__dict__
        for field, tree in self._trees.items():
            if values.get(field) is tree.root:
                found.parts[f"{field}.mode"] = tree.mode() or self._tree(field, tree.root).mode()
                found.holders[field] = weakref.ref(tree.root)
        for field, optimizer in self._optimizers.items():
            if values.get(field) is optimizer:
                found.parts[f"{field}.hyper"] = hyper(optimizer)
                found.holders[field] = weakref.ref(optimizer)
                found.kept.extend(list(group["params"]) for group in optimizer.param_groups)
        return found

    def _look(self, only: Collection[str] | None, in_contents: bool) -> Look:
        values = self._state.__dict__
        ready = [(field, values[field]) for field in type(self._state).specs if field in values]
        watched = [(field, value, parts) for field, value in ready if (parts := _parts(type(value)))]
        self._trees = {field: self._tree(field, value) for field, value, parts in watched if "mode" in parts}
        self._optimizers = {field: value for field, value, parts in watched if "hyper" in parts}
        found = Look({}, {}, [])
        for field, value, parts in watched:
            for part in parts:
                name = f"{field}.{part}" if part else field
                inside = self._inside(field, value, part) if only is None or name in only else None
                if inside is not None:
                    found.parts[name] = inside
                    found.holders[field] = _held(value)
                    if part in _OF_OBJECTS:
                        found.kept.append(inside.values)
        self._see(found.parts, in_contents)
        if only is None or RNG in only:
            found.parts[RNG] = Inside(*map(list, zip(*self._generators.look(contents=in_contents).items())))
        return found

    def _tree(self, field: str, module: nn.Module) -> Tree:
        tree = self._trees.get(field)
        return tree if tree and tree.root is module and tree.is_current() else Tree(module)

    def _inside(self, field: str, value: Any, part: str) -> Inside | None:
        """What is in a part now, tensors as they are; None if that cannot be looked at."""
        if not part:
            return collection(value)
        if field in self._trees:
            return self._trees[field].part(part)
        if part == "hyper":
            return hyper(value)
        if field in self._optimizers:
            return optimizer_state(value, self._parameter_names())
        return None if type(self._state).specs[field].saved == "volatile" else stateful(value)

    def _parameter_names(self) -> dict[int, str]:
        """The dotted names of all parameters of modules, by identity."""
        pairs = [(field, *pair) for field, tree in self._trees.items() for pair in zip(*tree.params)]
        return {id(parameter): f"{field}.{name}" for field, name, parameter in reversed(pairs)}

    def _see(self, parts: dict[str, Inside], in_contents: bool) -> None:
        """Put what tells it apart in the place of each tensor."""
        mixed = {name: inside for name, inside in parts.items() if not name.endswith(_PLAIN)}
        copied = {name for name in mixed if name.endswith(".state") and name[:-6] not in self._optimizers}
        read = {
            id(each): each
            for name, inside in mixed.items()
            if in_contents or name in copied
            for each in inside.values
            if isinstance(each, Tensor) and (in_contents or each.is_cpu)
        }
        bits = dict(zip(read, contents(read.values()), strict=True))
        for name, inside in mixed.items():
            see = _form_only if name in copied else _tokens
            parts[name] = Inside(
                inside.names,
                [see(each, bits.get(id(each))) if isinstance(each, Tensor) else each for each in inside.values],
            )


def moved(before: Look, after: Look) -> list[Moved]:
    """What differs between two looks, of what both saw, in the order of the earlier one.

    Tensors count by their bits where both looks read them, else by identity, memory and version counter.
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
            inside = tuple(below for below in differ if below)
            found.append(Moved(name, inside, max(differ.values(), key=EVIDENCE.index)))
    return found


def _paired(one: Inside, other: Inside, only_common: bool) -> Iterable[tuple[str, Any, Any]]:
    """The values of both looks by name; a name that one of them has alone is a difference, if not `only_common`."""
    if one.names == other.names:
        return zip(one.names, one.values, other.values, strict=True)
    old, new = dict(zip(*one, strict=True)), dict(zip(*other, strict=True))
    names = dict.fromkeys((*old, *new))
    return [
        (name, old.get(name, _ABSENT), new.get(name, _ABSENT))
        for name in names
        if not only_common or (name in old and name in new)
    ]


def _evidence(old: Any, new: Any, part: str) -> str | None:
    """How it is known that a value is another one now; None if it is not."""
    if not (isinstance(old, Seen) and isinstance(new, Seen)):
        if isinstance(old, Seen) or isinstance(new, Seen):
            return "identity"
        return None if old is new or old == new or (old != old and new != new) else "value"
    if old.form != new.form:
        return "value" if old.bits == new.bits else "contents"
    if old.bits is not None and new.bits is not None:
        if old.bits != new.bits:
            return "contents"
        return "identity" if part in _OF_OBJECTS and old.identity != new.identity else None
    if (old.identity, old.memory) != (new.identity, new.memory):
        return "identity"
    return "version" if old.version != new.version else None


@cache
def _parts(kind: type) -> tuple[str, ...]:
    """The parts of values of a type; of a field that holds tensors itself one without a name."""
    return ("",) if issubclass(kind, (Tensor, *COLLECTIONS)) else parts_of(kind)


def _held(value: Any) -> Any:
    """What tells a value from another one in its place, and keeps it from being freed only if there is no other way."""
    try:
        return weakref.ref(value)  # the same one for the same object, as long as it lives
    except TypeError:
        return value


def _tokens(tensor: Tensor, bits: bytes | None) -> Seen:
    return Seen(id(tensor), tensor.data_ptr(), tensor._version, (tensor.dtype, tensor.shape, tensor.device), bits)


def _form_only(tensor: Tensor, bits: bytes | None) -> Seen:
    """Of a tensor that may be a copy made for the asking: another one next time."""
    return Seen(0, 0, None, (tensor.dtype, tensor.shape, tensor.device), bits)
