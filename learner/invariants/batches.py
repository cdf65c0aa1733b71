"""What is so of batches: each is another one, drawn anew, and what it was when it comes again."""

import weakref
from typing import Any

import torch
from torch import Tensor

from stages.check import actors
from stages.invariants import Wrong
from stages.place import Place
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
        held = _tensors(batch)
        if not any(_varies(one) for one in held):
            return None
        bits, memory = _bits(held), tuple(one.data_ptr() for one in held)
        before = self._seen.setdefault(bits, (batch_index, memory))
        if before[0] == batch_index or before[1] == memory:
            return None
        return f"batches {before[0]} and {batch_index} have the same content: do all workers draw alike?"


class Redraws:
    """The random numbers that one forward pass draws, or one pass over the data, are not those of an earlier one.

    A run that was taken back to an earlier point draws what it had drawn from there.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._start = b""
        self._total = 0
        self._seen: set[bytes] = set()

    def begin(self, batches_seen: int) -> None:
        """One begins."""
        if batches_seen < self._total:
            self._seen.clear()
        self._start = _random_state()

    def drew(self, changed: tuple[str, ...], place: Place, batches_seen: int) -> Wrong | None:
        """One has ended, and changed the generators or did not."""
        self.begin(batches_seen)
        self._start = b"" if changed else self._start
        return self.end(place, batches_seen)

    def end(self, place: Place, batches_seen: int) -> Wrong | None:
        """One has ended."""
        self._total = batches_seen
        now = _random_state()
        if now == self._start:
            return None
        if now not in self._seen:
            self._seen.add(now)
            return None
        may = [path for path, access in actors([*place.ancestors()][-1].walk()) if "rng" in access.touches]
        own = [path for path in may if ":" in path] or may
        told = f"one {self._unit} drew what an earlier one had drawn: is a generator seeded again and again?"
        return Wrong(f"{told} These may change it: {', '.join(own)}", ("rng",))


class Untouched:
    """A batch that a loader holds, and gives again, is what it was when it gave it before."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[weakref.ref[Tensor], Any, int]] = {}

    def __call__(self, batch: Any, batches_seen: int) -> Wrong | None:
        for tensor in _tensors(batch):
            (bits,) = _bits([tensor])
            ref, before, when = self._seen.get(id(tensor), (None, None, 0))
            if ref is not None and ref() is tensor and before != bits:
                told = (
                    f"what was batch {when} of the run comes again with other content: a loader keeps its batches, so"
                )
                return Wrong(f"{told} change a copy, not the batch itself", ("inputs", "targets"))
            self._seen[id(tensor)] = weakref.ref(tensor), bits, batches_seen
        return None


def _tensors(batch: Any) -> list[Tensor]:
    inside = in_field(batch) if isinstance(batch, (Tensor, *COLLECTIONS)) else None
    return [one for one in inside.values if isinstance(one, Tensor)] if inside is not None else []


def _bits(tensors: list[Tensor]) -> tuple[Any, ...]:
    """What tells apart the contents of tensors."""
    eye = Eye(True)
    seen = [eye.see(one) for one in tensors]
    eye.finish()
    return tuple((one.form[:2], bytes(one.bits or b"")) for one in seen)


def _random_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _varies(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.numel() < 2 or tensor.is_meta:
        return False
    return bool((tensor != tensor.flatten()[0]).any())
