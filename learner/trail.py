"""Trail: what each stage and hook changed while a part of a tree ran, told apart by the bits of all that State holds.

Looking is done at the boundaries where the guard looks: after a stage, after a hook, after both halves of an around. So
what changed is held against who ran, whether declared or not.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner.replay import Captured, as_captured
from stages.guard import Guard, Schedule
from state.access import Access
from state.contents import Seen
from state.insides import COLLECTIONS, Inside, frozen, in_field
from state.parts import RNG, optimized
from state.position import Position
from state.snapshot import parameters_of
from state.watch import Look

if TYPE_CHECKING:
    from learner.bound import Bound
    from learner.recipes import Part
    from stages.actor import Actor
    from stages.runner import Runner

Sight = dict[str, bytes]
"""By field and part, what tells its contents apart."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), set, frozenset, *COLLECTIONS)
_NAMED = (torch.device, torch.dtype)


@dataclass(frozen=True)
class Turn:
    """A stage or a hook that ran.

    Attributes:
        actor, source: who, and where that is defined.
        position: where in the run.
        access: what it declares.
        changed: what holds something else since, by field and part.
    """

    actor: str
    source: str
    position: Position
    access: Access = field(repr=False, compare=False)
    changed: Sight = field(repr=False)


@dataclass
class Trail:
    """What ran, in the order in which it did.

    Attributes:
        start: what there was before.
        turns: what ran since; where one turn was asked for, that one.
        unread: by field and part, what cannot be compared: an object of which only the type is known, or None for
            tensors whose bits cannot be read (sparse, on the meta device, a subclass that holds others).
        contents: what there was after the turn that was asked for: copies, by name down to single tensors.
    """

    start: Sight = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    unread: dict[str, Any] = field(default_factory=dict)
    contents: dict[str, dict[str, Any]] = field(default_factory=dict)


def follow(
    bound: "Bound",
    captured: Captured,
    path: str | None,
    swap: "Mapping[str, Part]",
    batches: int | None = None,
    wanted: int | None = None,
    names: Iterable[str] = (),
) -> Trail:
    """Run a part of a tree on what was captured, as `replay` does, and look at all of State after each stage and hook.

    Args:
        batches: the run ends after so many of training.
        wanted: the number of the one turn that is looked at.
        names: the fields and parts whose contents are kept after that turn.
    """
    with as_captured(bound, captured, path, swap, batches) as (runner, node):
        follower = Follower(runner, wanted, names)
        runner.guard, runner.timed, runner.audited = follower, True, True
        node.execute()
    return follower.trail


class Follower(Guard):
    """Looks where the guard does, and keeps what it sees instead of judging it."""

    def __init__(self, runner: "Runner", wanted: int | None, names: Iterable[str]) -> None:
        super().__init__(runner, "contents", is_debugging=True)
        self.wanted = wanted
        self.names = names
        self.number = 0  # of the turn that ends next
        self.trail = Trail()
        self.sight = self._sight()
        self.trail.start = self.sight | self._kinds()
        self.place = runner.read_position()

    def begin(self) -> None:
        """A stage is to run: what was opened and counted meanwhile is nobody's doing."""
        if self.wanted in (None, self.number):
            self.sight = self._sight()

    def settle(self, actor: "Actor") -> None:
        """Somebody has run."""
        number, self.number = self.number, self.number + 1
        place = self.runner.read_position()
        if place[:3] != self.place[:3]:  # the update of a position is that at the begin of a batch
            self.place = place
        if self.wanted is not None and number not in (self.wanted - 1, self.wanted):
            return
        before, self.sight = self.sight, self._sight()
        if self.wanted in (None, number):
            changed = {name: told for name, told in self.sight.items() if before.get(name) != told}
            self.trail.turns.append(Turn(actor.path, actor.source, Position(*self.place), actor.access, changed))
            if self.wanted == number:
                self.trail.contents = {name: dict(self._contents(name)) for name in self.names if name != RNG}

    def compare_plain(self, before: Look, declared: Access, schedule: Schedule) -> Look:
        """Rounds are not compared."""
        return before

    def _sight(self) -> Sight:
        found = {name: self._told(name, inside) for name, inside in self.watch.look(contents=True).parts.items()}
        owners = {name.partition(".")[0] for name in found}
        for name, value in self.runner.values.items():
            if name in owners:
                continue
            spec = self.runner.state.specs[name]
            is_data = spec.scope == "run" and spec.saved == "volatile"
            if isinstance(value, _NAMED) or (isinstance(value, _PLAIN) and not is_data):
                found[name] = repr(frozen(value)).encode()
            else:  # data and the iterators over it, functions, what anybody may write into
                self.trail.unread[name] = value
        return found

    def _kinds(self) -> Sight:
        """What components are, beside what is in their parts: modules as they are printed, with their settings."""
        values = self.runner.values.items()
        modules = {name: repr(value).encode() for name, value in values if isinstance(value, nn.Module)}
        return modules | {name: type(value).__name__.encode() for name, value in values if isinstance(value, Optimizer)}

    def _told(self, name: str, inside: Inside) -> bytes:
        told = blake2b(digest_size=16)
        for below, value in zip(*inside, strict=True):
            if below == "params" and name.endswith(".hyper"):
                continue  # which objects they are
            if not isinstance(value, Seen):
                told.update(f"{below}: {value!r} ".encode())
                continue
            told.update(f"{below}: {value.form[0]} {value.form[1]} ".encode())
            if value.bits is None:
                self.trail.unread[name] = None
            else:
                told.update(value.bits)
        return told.digest()

    def _contents(self, name: str) -> Iterator[tuple[str, Any]]:
        """The tensors and plain values in a field or part, as copies, by name."""
        owner, _, part = name.partition(".")
        value = self.runner.values.get(owner)
        inside = self.watch.part(name) if part else in_field(value) or Inside([""], [frozen(value)])
        names = _names_of(self.runner, value) if part == "state" else {}
        for below, inner in zip(*(inside or ((), ())), strict=True):
            number, _, kept = below.partition(".")
            full = f"{name}.{names[number]}.{kept}" if number in names else f"{name}.{below}".rstrip(".")
            if below != "params" or part != "hyper":
                yield full, inner.detach().to("cpu", copy=True) if isinstance(inner, Tensor) else inner


def _names_of(runner: "Runner", optimizer: Any) -> dict[str, str]:
    """The parameters that an optimizer knows by number."""
    if not hasattr(optimizer, "param_groups"):
        return {}
    names = {id(parameter): name for name, parameter in parameters_of(runner.state).items()}
    pairs = ((str(number), names.get(id(one))) for number, one in enumerate(optimized(optimizer)))
    return {number: name for number, name in pairs if name is not None}
