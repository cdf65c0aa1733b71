"""Batches: moved to a device, measured, and the messages about those that cannot be used."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from state.errors import a_kind

_COLLECTIONS = (tuple, list, Mapping)  # in this order: to ask for a Mapping takes longest


def moved(batch: Any, device: torch.device) -> Any:
    """`batch` on `device`: a tensor, what has a `to` of its own, tuples, lists and mappings of these; else as it is."""
    if isinstance(batch, Tensor):
        return (
            batch.detach().to(device, non_blocking=True) if batch.requires_grad else batch.to(device, non_blocking=True)
        )
    if callable(getattr(batch, "to", None)):
        return batch.to(device)
    return each_in(batch, lambda value: moved(value, device))


def detached(value: Any) -> Any:
    """`value` with its tensors detached from the graph that made them; what holds none that needs it, as it is."""
    if isinstance(value, Tensor):
        return value.detach()
    return each_in(value, detached) if _needs_grad(value) else value


def batch_size(batch: Any) -> int:
    """The number of samples in a batch: the first dimension of the first tensor or array in it that has one, else 1."""
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor) and batch[0].dim():
        return batch[0].shape[0]  # what `_size` comes to, for most loaders
    size = _size(batch)
    return 1 if size is None else size


def joined(batches: list[Any]) -> Any:
    """Batches as one: tensors along the first dimension, tuples and mappings part by part, else the list."""
    first = batches[0] if batches else None
    if isinstance(first, Tensor):
        return torch.cat(batches) if first.dim() else torch.stack(batches)
    if isinstance(first, Mapping):
        return {name: joined([batch[name] for batch in batches]) for name in first}
    if isinstance(first, tuple):
        return tuple(joined(list(parts)) for parts in zip(*batches, strict=True))
    return batches


def no_batch(batches: Iterator[Any]) -> str:
    """The message for a phase without any batch."""
    kind = type(batches).__name__
    told = f"The loader gave no batch (its iterator is a {kind})."
    if kind == "generator":
        return (
            f"{told} A generator can be read once; give a list, a DataLoader, or an object whose __iter__ starts anew."
        )
    return f"{told} Check the size of the dataset, drop_last, and that a second iter() starts anew."


def wrong_structure(batch: Any, inputs: str, targets: str | None) -> str:
    """The message for a batch that is no pair, or not one part where `targets` is None."""
    if isinstance(batch, Mapping):
        got = f"a mapping with {sorted(map(str, batch))}"
    elif isinstance(batch, tuple | list):
        got = f"a {type(batch).__name__} of {len(batch)}"
    else:
        got = a_kind(batch)
    if targets is None:
        told = f"Unpack({inputs!r}, rest=True) takes the first part, Unpack({inputs!r}, 'targets') both of a pair."
        return f"The loader gave {got}; unpack wants one part ({inputs}). {told}"
    swap = f"Swap the slot 'unpack' for a stage that takes your batch apart: @stage(writes=({inputs!r}, {targets!r}))."
    return f"The loader gave {got}; unpack wants a pair ({inputs}, {targets}). {swap}"


def wrong_lengths(inputs: Tensor, targets: Tensor, first: str, second: str) -> str:
    """The message for inputs and targets that do not belong together."""
    lengths = " and ".join(str(t.shape[0]) if t.dim() else "a scalar" for t in (inputs, targets))
    return f"The loader gave {first!r} and {second!r} of unequal length: {lengths}. A batch needs one target per input."


def _size(batch: Any) -> int | None:
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    if isinstance(batch, _COLLECTIONS):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            size = _size(part)
            if size is not None:
                return size
        return None
    shape = getattr(batch, "shape", None)
    return int(shape[0]) if isinstance(shape, tuple) and shape else None


def _needs_grad(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, Mapping | tuple | list):
        return any(_needs_grad(part) for part in (value.values() if isinstance(value, Mapping) else value))
    return False


def each_in(batch: Any, change: Callable[[Any], Any]) -> Any:
    """A tuple, list or mapping with its parts changed; the rest as it is."""
    if isinstance(batch, Mapping):
        return {name: change(value) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(change(value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(change(value) for value in batch)
    return batch
