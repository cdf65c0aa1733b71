"""Batches: moved to a device, measured, and the messages about those that cannot be used."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def moved(batch: Any, device: torch.device) -> Any:
    """`batch` with its tensors on `device`: a tensor, or tuples, lists and mappings of them; the rest as it is."""
    if isinstance(batch, Tensor):
        return (
            batch.detach().to(device, non_blocking=True) if batch.requires_grad else batch.to(device, non_blocking=True)
        )
    if isinstance(batch, Mapping):
        return {name: moved(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(moved(value, device) for value in batch)
    return batch


def batch_size(batch: Any) -> int:
    """The number of samples in a batch: the first dimension of the first tensor in it that has one, else 1."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, tuple | list):
        for value in batch:
            if isinstance(value, Tensor | Mapping | tuple | list):
                return batch_size(value)
    return 1


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


def wrong_structure(batch: Any, inputs: str, targets: str) -> str:
    """The message for a batch that is no pair."""
    if isinstance(batch, Mapping):
        got = f"a mapping with {sorted(map(str, batch))}"
    elif isinstance(batch, tuple | list):
        got = f"a {type(batch).__name__} of {len(batch)}"
    else:
        got = f"a {type(batch).__name__}"
    swap = f"Swap the slot 'unpack' for a stage that takes your batch apart: @stage(writes=({inputs!r}, {targets!r}))."
    return f"The loader gave {got}; unpack wants a pair ({inputs}, {targets}). {swap}"


def wrong_lengths(inputs: Tensor, targets: Tensor, first: str, second: str) -> str:
    """The message for inputs and targets that do not belong together."""
    lengths = " and ".join(str(t.shape[0]) if t.dim() else "a scalar" for t in (inputs, targets))
    return f"{first!r} and {second!r} differ in length: {lengths}. Every batch needs one target per input."
