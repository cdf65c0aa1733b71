"""Recipes: ready trees of stages. This page is the loop."""

from collections.abc import Callable, Iterable
from typing import Any

from stages import (
    AverageGradients,
    Backward,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Microbatches,
    Stage,
    Train,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
    Window,
)

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


def validate(loader: str = "valid_loader") -> Validate:
    """One evaluation over the data in the field `loader`."""
    return Validate(Fetch(), ValidateBatch(Unpack(), Forward(), ValidateLoss()), loader=loader)
