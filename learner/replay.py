"""Replay: one batch of a run taken down, and run again, as often as one likes and with other stages in its place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from learner.errors import ArgumentError
from learner.recipes import Part
from stages import Frame, Runner, Train, assemble
from stages.ancestors import scopes_above
from stages.limit import limit_of
from state import State
from state.errors import SnapshotError, short
from state.memory import Memory
from state.position import Position
from state.schema import build, upgrade
from state.snapshot import Restoration, Snapshot, is_kept

if TYPE_CHECKING:
    from learner.bound import Bound
    from stages.node import Node


_MISFIT = (
    "What was captured does not fit the State of this Learner",
    "It can be replayed, and compared, on a State with the same models and optimizers.",
)


@dataclass(frozen=True)
class Captured:
    """What State held, and where the random number generators were, just before a slot ran.

    Attributes:
        path: of the slot.
        position: when that was.
        snapshot: the fields of the run.
        values: those of narrower scopes: the batch, its number, sums of the phase.
    """

    path: str
    position: Position
    snapshot: Snapshot = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, state: State, path: str, position: Position, memory: Memory | None = None) -> "Captured":
        """Take it down, in memory of its own, or in one where nobody needs any more what was taken down before.

        Raises:
            SnapshotError: a value cannot be copied, such as a loss with its graph.
        """
        snapshot = Snapshot.of(state, grads=tuple(state.components(nn.Module))).cloned(memory)
        values = {}
        for name, value in state.__dict__.items():
            spec = type(state).specs[name]
            if spec.scope == "run" or isinstance(value, Iterator):
                continue
            try:
                values[name] = deepcopy(value)
            except Exception as error:
                told = f"{name!r} cannot be copied at {path}: {error} Capture before a slot where it is not there yet."
                raise SnapshotError(told) from error
        return cls(path, position, snapshot, values)


@dataclass(frozen=True)
class Replayed:
    """What came of it.

    Attributes:
        frame: the values of the batch and of what was open round it, detached.
        tensors: parameters, buffers, gradients and the optimizer's state afterwards, by dotted name.
    """

    frame: Frame
    tensors: Mapping[str, Tensor] = field(repr=False)


def replay(bound: "Bound", captured: Captured, path: str | None, swap: Mapping[str, Part]) -> Replayed:
    """Run a slot on what was captured; afterwards State is what it was.

    Raises:
        GraphError: a stage of `swap` does not fit. Nothing has changed.
    """
    with as_captured(bound, captured, path, swap) as (runner, node):
        node.execute()
        frame = runner.frame(lambda scope: scope != "run")
        after = Snapshot.of(bound.state, grads=tuple(bound.state.components(nn.Module))).cloned()
    return Replayed(frame, dict(_named(after)))


@contextmanager
def as_captured(
    bound: "Bound", captured: Captured, path: str | None, swap: Mapping[str, Part], batches: int | None = None
) -> "Iterator[tuple[Runner, Node]]":
    """The State of a Learner as it was captured, and a node that is ready to run on it; afterwards it is what it was.

    A field of the run that the tree has and that was not captured, such as a setting of a stage in `swap`, stays what
    it is.

    Args:
        batches: the run ends after so many of training.

    Raises:
        GraphError: a stage of `swap` does not fit. Nothing has changed.
        SnapshotError: the State does not take what was captured. Nothing has changed.
        ArgumentError: the node would run for ever.
    """
    bound.runner.refuse_if_running()
    if not isinstance(captured, Captured):
        told = f"{short(captured)} is nothing that was captured. Take learner.capture() or watcher.captured."
        raise ArgumentError("replay", "captured", told)
    state, tree = bound.state, bound.tree
    for slot, stage in swap.items():
        tree = tree.swap(slot, stage)
    acting = [hook for hook in bound.assembly.hooks if not hook.observes]
    assembly = assemble(tree, acting, type(state), state, {})
    assembly.require_sound()
    cls, held = type(state), dict(state.__dict__)
    before = Snapshot.of(state, grads=tuple(state.components(nn.Module))).cloned()
    places = bound.keeper.places.taken(bound.runner, None)
    try:
        upgrade(state, assembly.schema)
        build(state)
        own = own_fields(state, captured)
        restoration = Restoration.of(state, captured.snapshot, partial=own, misfit=_MISFIT)
        restoration.apply()
        runner = Runner(assembly, state)
        node = runner.find(path or captured.path)
        if batches is None and any(isinstance(one.stage, Train) for one in node.walk()):
            told = f"{node.path} runs epochs for ever. Name a part of it, path='fit'."
            raise ArgumentError("replay", "path", told)
        limit = None if batches is None else limit_of({"batches": batches}, assembly, state)
        with runner.running(limit), scopes_above(runner, node):
            known = {name: value for name, value in captured.values.items() if name in state.specs}
            state.__dict__.update(deepcopy(known))
            restoration.apply_generators()
            if node.path == captured.path:  # these had run
                node.before = ()
            yield runner, node
    finally:
        object.__setattr__(state, "__class__", cls)
        state.__dict__.clear()
        state.__dict__.update(held)
        undone = Restoration.of(state, before)
        undone.apply()
        bound.keeper.places.give(bound.runner, places)
        undone.apply_generators()


def own_fields(state: State, captured: Captured) -> list[str]:
    """The saved fields of the run that only one has: State, or what was captured. A loss is one if it is a module."""
    specs, found = type(state).specs, captured.snapshot.document["fields"]
    held = {name: is_kept(specs[name], value) for name, value in state.__dict__.items() if specs[name].scope == "run"}
    ours = [name for name, kept in held.items() if kept and name not in found]
    return ours + [name for name in found if name not in specs or not held.get(name, True)]


def _named(snapshot: Snapshot) -> Iterator[tuple[str, Tensor]]:
    for group, tensors in snapshot.tensors.items():
        for name, tensor in tensors.items():
            if not name.startswith("rng."):
                yield (name if group.startswith("_") else f"{group}.{name}"), tensor
