"""Replay: one batch of a run taken down, and run again, as often as one likes and with other stages in its place."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from learner.recipes import Part
from stages import Frame, Runner, assemble
from stages.ancestors import scopes_above
from state import State
from state.errors import SnapshotError
from state.position import Position
from state.schema import upgrade
from state.snapshot import Restoration, Snapshot

if TYPE_CHECKING:
    from learner.bound import Bound


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
    def of(cls, state: State, path: str, position: Position) -> "Captured":
        """Take it down, in memory of its own.

        Raises:
            SnapshotError: a value cannot be copied, such as a loss with its graph.
        """
        snapshot = Snapshot.of(state, grads=tuple(state.components(nn.Module))).cloned()
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
    bound.runner.refuse_if_running()
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
        restoration = Restoration.of(state, captured.snapshot)
        restoration.apply()
        runner = Runner(assembly, state)
        node = runner.find(path or captured.path)
        with runner.running(None), scopes_above(runner, node):
            state.__dict__.update(deepcopy(dict(captured.values)))
            restoration.apply_generators()
            if node.path == captured.path:  # these had run
                node.before = ()
            node.execute()
            frame = runner.frame(lambda scope: scope != "run")
            after = Snapshot.of(state, grads=tuple(state.components(nn.Module))).cloned()
    finally:
        object.__setattr__(state, "__class__", cls)
        state.__dict__.clear()
        state.__dict__.update(held)
        undone = Restoration.of(state, before)
        undone.apply()
        bound.keeper.places.give(bound.runner, places)
        undone.apply_generators()
    return Replayed(frame, dict(_named(after)))


def _named(snapshot: Snapshot) -> Iterator[tuple[str, Tensor]]:
    for group, tensors in snapshot.tensors.items():
        for name, tensor in tensors.items():
            if not name.startswith("rng."):
                yield (name if group.startswith("_") else f"{group}.{name}"), tensor
