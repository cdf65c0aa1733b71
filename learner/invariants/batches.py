"""What is so of batches: each is another one, and drawn anew."""

from typing import Any

import torch
from torch import Tensor

from state.contents import Eye
from state.insides import COLLECTIONS, in_field


def same_length(outputs: Any, targets: Any) -> str | None:
    """There are as many outputs as targets, or so many for each: several views, or all positions of a sequence."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not outputs.dim() or not targets.dim():
        return None
    count, wanted = len(outputs), len(targets)
    if not count or not wanted or count % wanted == 0 or count == targets.numel():
        return None
    return f"there are {count} outputs for {wanted} targets: shapes {tuple(outputs.shape)} and {tuple(targets.shape)}"


class Repeats:
    """The batches that are looked at of one pass over the data are different ones.

    One that is given twice, in the same memory, is meant; and one without any variation tells nothing.
    """

    def __init__(self) -> None:
        self._pass: Any = None
        self._seen: dict[Any, tuple[int, tuple[int, ...]]] = {}

    def __call__(self, state: Any, batch: Any, batch_index: int) -> str | None:
        epoch = state.values_of("epoch").get("epoch")
        if epoch != self._pass:
            self._pass, self._seen = epoch, {}
        inside = in_field(batch) if isinstance(batch, (Tensor, *COLLECTIONS)) else None
        held = [one for one in inside.values if isinstance(one, Tensor)] if inside is not None else []
        if not any(_varies(one) for one in held):
            return None
        eye = Eye(True)
        seen = [eye.see(one) for one in held]
        eye.finish()
        bits = tuple((one.form[:2], bytes(one.bits or b"")) for one in seen)
        memory = tuple(one.memory or 0 for one in seen)
        before = self._seen.setdefault(bits, (batch_index, memory))
        if before[0] == batch_index or before[1] == memory:
            return None
        return f"batches {before[0]} and {batch_index} have the same content: do all workers draw alike?"


class Redraws:
    """The random numbers of one forward pass are not those of an earlier batch."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def __call__(self, changed: tuple[str, ...], batches_seen: int) -> str | None:
        if not changed:
            return None
        now = torch.get_rng_state().numpy().tobytes()
        before = self._seen.setdefault(now, batches_seen)
        if before == batches_seen:
            return None
        return f"batch {batches_seen} of the run drew what batch {before} drew: is a generator seeded again and again?"


def _varies(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.numel() < 2 or tensor.is_meta:
        return False
    return bool((tensor != tensor.flatten()[0]).any())
