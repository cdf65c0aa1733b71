"""Derived: trees that are made from another one: with scaled gradients, and for outputs alone."""

from collections.abc import Iterator
from typing import Any

from learner.errors import ArgumentError
from stages import (
    AverageGradients,
    Backward,
    Collect,
    Composite,
    EvaluationPhase,
    Fetch,
    Forward,
    Phase,
    Predict,
    ScaledBackward,
    ScaledUpdate,
    Stage,
    Unpack,
    Unscale,
    Update,
)
from stages.binding import names_of
from stages.contract import contract_of
from state.access import Names


def scaled(tree: Composite) -> Composite:
    """A tree whose gradients are scaled for float16: each `Backward` scales, and before each `Update`, or before the
    gradients of a window are averaged, the scale is taken back.

    Raises:
        ArgumentError: the tree has none of these stages to exchange.
    """
    kinds: set[type] = set()
    unscaled: set[str] = set()  # optimizers whose gradients are unscaled already

    def exchange(held: Composite) -> Composite:
        stages: dict[str, Any] = {}
        for slot, stage in held.stages.items():
            kind, names = type(stage), names_of(stage)
            optimizer = names.get("optimizer", "optimizer")
            kinds.add(kind)
            if kind in (AverageGradients, Update) and optimizer not in unscaled:
                unscaled.add(optimizer)
                is_free = "unscale" not in {*stages, *held.stages}
                stages["unscale" if is_free else f"unscale_{slot}"] = _bound(Unscale(), names)
            if kind is Backward:
                stages[slot] = ScaledBackward().bind(**names)
            elif kind is Update:
                unscaled.discard(optimizer)
                stages[slot] = ScaledUpdate().bind(**names)
            else:
                stages[slot] = exchange(stage) if isinstance(stage, Composite) else stage
        return held.holding(stages)

    made = exchange(tree)
    if kinds.isdisjoint((Backward, ScaledBackward)) or kinds.isdisjoint((Update, ScaledUpdate)):
        told = "precision='fp16' scales the loss in Backward() and takes it back before Update(); this tree lacks one. "
        told += "Use 'bf16', which needs no scale, or put ScaledBackward(), Unscale() and ScaledUpdate() into it."
        raise ArgumentError("Learner", "precision", told)
    return made


def predict(tree: Composite) -> Predict:
    """A tree that computes outputs as the evaluation of `tree` does: the stages of its batch, up to `forward`.

    Where no evaluation has a `forward` among the stages of its batch, the training's `unpack` and `forward` are taken.
    Hooks do not run.
    """
    found = list(_composites(tree, {}, None))
    batches = [
        (stages, names)
        for stages, names, phase in found
        if isinstance(phase, EvaluationPhase) and {"unpack", "forward"} <= stages.keys()
    ]
    held: dict[str, Any]
    if batches:
        stages, names = batches[-1]
        slots = list(stages)[: list(stages).index("forward") + 1]
        held = {slot: _bound(stages[slot], names) for slot in slots}
    else:
        leaves = {slot: _bound(stage, names) for stages, names, _ in found for slot, stage in stages.items()}
        held = {"unpack": leaves.get("unpack", Unpack()), "forward": leaves.get("forward", Forward())}
    if isinstance(held["unpack"], Unpack):
        held["unpack"] = _bound(Unpack("inputs", rest=True), names_of(held["unpack"]))
    return Predict(Fetch(), batch=Composite(**held, collect=_bound(Collect(), names_of(held["forward"]))))


def _composites(tree: Composite, names: Names, phase: Phase | None) -> Iterator[tuple[dict[str, Stage], Names, Any]]:
    """What a composite holds, and each below it, in order, with the names that `bind` gave there and the phase it is
    in."""
    names, phase = {**names, **names_of(tree)}, tree if isinstance(tree, Phase) else phase
    yield dict(tree.stages), names, phase
    for stage in tree.stages.values():
        if isinstance(stage, Composite):
            yield from _composites(stage, names, phase)


def _bound(stage: Stage, names: Names) -> Stage:
    """A stage with those of the names that it uses and those above it gave it."""
    used = _fields_of(stage)
    return stage.bind(**{own: other for own, other in {**names, **names_of(stage)}.items() if own in used})


def _fields_of(stage: Stage) -> set[str]:
    """The fields that a stage and all below it use, as they call them."""
    below = stage.stages.values() if isinstance(stage, Composite) else ()
    return {*contract_of(stage).fields, *(name for child in below for name in _fields_of(child))}
