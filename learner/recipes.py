"""Recipes: ready trees of stages. This page is the loop."""

from collections.abc import Callable, Iterable
from typing import Any

from stages import (
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
    Predict,
    Stage,
    Train,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
)

Part = Stage | Callable[..., Any]


def supervised(*, valid: bool | Iterable[str] = True) -> Train:
    """The default tree: fit on every batch, then validate, epoch after epoch.

    Args:
        valid: whether to validate; or the names of several validation sets, each of which gets a phase of that name.

    Example:
        >>> from learner.recipes import supervised
        >>> supervised()
        Train(epoch)
        >>> list(supervised(valid=["clean", "noisy"]).epoch.stages)
        ['fit', 'clean', 'noisy']
    """
    names = () if isinstance(valid, bool) else tuple(valid)
    sets: dict[str, Part] = {name: validate(f"{name}_loader") for name in names}
    if valid is True:
        sets = {"validate": validate()}
    return Train(
        Epoch(
            Fit(
                Fetch(),
                FitBatch(
                    Unpack(),
                    ClearGradients(),
                    Gradient(Forward(), Loss(), Backward()),
                    Update(),
                ),
            ),
            **sets,
        )
    )


def validate(loader: str = "valid_loader") -> Validate:
    """One evaluation over the data in the field `loader`."""
    return Validate(Fetch(), ValidateBatch(Unpack(), Forward(), ValidateLoss()), loader=loader)


def predict(tree: Composite) -> Predict:
    """A tree that computes outputs as `tree` does: with its unpack and its forward."""
    found = {stage_slot: stage for stage_slot, stage in _leaves(tree) if stage_slot in ("unpack", "forward")}
    unpack = found.get("unpack", Unpack())
    take = Unpack("inputs", rest=True) if isinstance(unpack, Unpack) else unpack
    return Predict(Fetch(), batch=Composite(unpack=take, forward=found.get("forward", Forward()), collect=Collect()))


def _leaves(tree: Composite) -> list[tuple[str, Stage]]:
    """Slots and stages of a tree, later ones last: an evaluation's win over the training's."""
    below = [(slot, stage) for slot, stage in tree.stages.items()]
    return [*below, *(leaf for _, stage in below if isinstance(stage, Composite) for leaf in _leaves(stage))]
