"""Recipes: ready trees of stages. This page is the loop."""

from collections.abc import Callable, Iterable
from typing import Any

from learner.errors import ArgumentError
from stages import (
    AverageGradients,
    Backward,
    ClearGradients,
    Collect,
    Composite,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Microbatches,
    Predict,
    ScaledBackward,
    ScaledUpdate,
    Stage,
    Train,
    Unpack,
    Unscale,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
    Window,
)
from stages.binding import names_of
from stages.contract import contract_of
from state.access import Names

Part = Stage | Callable[..., Any]


def supervised(
    *, valid: bool | Iterable[str] = True, accumulate: int | None = None, microbatches: int | None = None
) -> Train:
    """The default tree: fit on every batch, then validate, epoch after epoch.

    Args:
        valid: whether to validate; or the names of several validation sets, each of which gets a phase of that name.
        accumulate: how many batches make one update: their gradients are averaged. The last window may have fewer.
        microbatches: into how many parts each batch is cut, for memory: the gradients are those of the whole batch.

    Example:
        >>> from learner.recipes import supervised
        >>> supervised()
        Train(epoch)
        >>> list(supervised(valid=["clean", "noisy"]).epoch.stages)
        ['fit', 'clean', 'noisy']
        >>> list(supervised(accumulate=4).epoch.fit.stages)
        ['clear_gradients', 'window', 'average_gradients', 'update']
    """
    names = () if isinstance(valid, bool) else tuple(valid)
    sets: dict[str, Any] = {name: validate(f"{name}_loader") for name in names}
    if valid is True:
        sets = {"validate": validate()}
    gradient: dict[str, Any] = {"gradient": Gradient(Forward(), Loss(), Backward())}
    if microbatches is not None:
        gradient = {"gradient": Microbatches(microbatches, Forward(), Loss(), Backward())}
    if accumulate is None:
        fit = Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), **gradient, update=Update()))
    else:
        window = Window(accumulate, Fetch(), FitBatch(Unpack(), **gradient))
        fit = Fit(ClearGradients(), window, AverageGradients(), Update(), each="update")
    return Train(Epoch(fit, **sets))


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


def validate(loader: str = "valid_loader") -> Validate:
    """One evaluation over the data in the field `loader`."""
    return Validate(Fetch(), ValidateBatch(Unpack(), Forward(), ValidateLoss()), loader=loader)


def predict(tree: Composite) -> Predict:
    """A tree that computes outputs as the evaluation of `tree` does: the stages of its batch, up to `forward`.

    Where no evaluation has a `forward` among the stages of its batch, the training's `unpack` and `forward` are taken.
    Hooks do not run.
    """
    found = [(dict(held.stages), names) for held, names in _composites(tree, {})]
    batches = [(held, names) for held, names in found if {"unpack", "forward"} <= held.keys()]
    held: dict[str, Any]
    if batches:
        stages, names = batches[-1]
        slots = list(stages)[: list(stages).index("forward") + 1]
        held = {slot: _bound(stages[slot], names) for slot in slots}
    else:
        leaves = {slot: _bound(stage, names) for stages, names in found for slot, stage in stages.items()}
        held = {"unpack": leaves.get("unpack", Unpack()), "forward": leaves.get("forward", Forward())}
    if isinstance(held["unpack"], Unpack):
        held["unpack"] = _bound(Unpack("inputs", rest=True), names_of(held["unpack"]))
    return Predict(Fetch(), batch=Composite(**held, collect=_bound(Collect(), names_of(held["forward"]))))


def _composites(tree: Composite, names: Names) -> list[tuple[Composite, Names]]:
    """A composite and all below it, in order, each with the names that `bind` gave there."""
    names = {**names, **names_of(tree)}
    below = [stage for stage in tree.stages.values() if isinstance(stage, Composite)]
    return [(tree, names), *(deep for stage in below for deep in _composites(stage, names))]


def _bound(stage: Stage, names: Names) -> Stage:
    """A stage with those of the names that it uses and those above it gave it."""
    used = _fields_of(stage)
    return stage.bind(**{own: other for own, other in {**names, **names_of(stage)}.items() if own in used})


def _fields_of(stage: Stage) -> set[str]:
    """The fields that a stage and all below it use, as they call them."""
    below = stage.stages.values() if isinstance(stage, Composite) else ()
    return {*contract_of(stage).fields, *(name for child in below for name in _fields_of(child))}
