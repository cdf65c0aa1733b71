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
    """A tree whose gradients are scaled for float16: each `Backward` scales, before each `Update` it is undone.

    Raises:
        ArgumentError: the tree has none of these stages to exchange.
    """
    kinds: set[type] = set()

    def exchange(held: Composite) -> Composite:
        stages: dict[str, Any] = {}
        for slot, stage in held.stages.items():
            kinds.add(type(stage))
            if type(stage) is Backward:
                stages[slot] = ScaledBackward().bind(**names_of(stage))
            elif type(stage) is Update:
                stages["unscale"] = Unscale().bind(**names_of(stage))
                stages[slot] = ScaledUpdate().bind(**names_of(stage))
            else:
                stages[slot] = exchange(stage) if isinstance(stage, Composite) else stage
        return held.holding(stages)

    made = exchange(tree)
    if not {Backward, Update} <= kinds:
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
    batches = [batch.stages for batch in _composites(tree) if {"unpack", "forward"} <= batch.stages.keys()]
    if batches:
        slots = list(batches[-1])
        held: dict[str, Any] = {slot: batches[-1][slot] for slot in slots[: slots.index("forward") + 1]}
    else:
        leaves = {slot: stage for holder in _composites(tree) for slot, stage in holder.stages.items()}
        held = {"unpack": leaves.get("unpack", Unpack()), "forward": leaves.get("forward", Forward())}
    if isinstance(held["unpack"], Unpack):
        held["unpack"] = Unpack("inputs", rest=True)
    return Predict(Fetch(), batch=Composite(**held, collect=Collect()))


def _composites(tree: Composite) -> list[Composite]:
    """A composite and all below it, in order."""
    below = [stage for stage in tree.stages.values() if isinstance(stage, Composite)]
    return [tree, *(deep for stage in below for deep in _composites(stage))]
