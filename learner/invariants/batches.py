"""What is so of batches: each is another one, drawn anew, and what it was when it comes again."""

import math
import weakref
from typing import Any

import torch
from torch import Tensor

from learner.invariants.standing import warned
from learner.invariants.updates import shown
from stages import EvaluationPhase, Invariant, TrainingPhase, Writes
from stages.check import actors
from stages.invariants import Wrong
from stages.place import ROOT, Place
from state.contents import Eye
from state.errors import short
from state.insides import COLLECTIONS, in_field
from state.sources import is_of_library

DEEPEST = 8
"""So many subsets of subsets are followed."""

MOST = 2**24
"""So many bytes of a data set are read."""


def invariants() -> tuple[Invariant, ...]:
    """What is so of batches."""
    untouched, stored, passes, forwards = Untouched(), Stored(), Redraws("pass over the data"), Redraws("forward pass")
    return (
        warned("there is an output for every target", same_length, after=Writes("outputs")),
        warned(
            "the workers of a loader make different batches", Repeats(), after=Writes("batch"), within=TrainingPhase
        ),
        warned(
            "a batch that comes again is what it was", untouched.ended, before=Writes("batch"), within=TrainingPhase
        ),
        warned(
            "a batch that comes again is what it was", untouched.fetched, after=Writes("batch"), within=TrainingPhase
        ),
        warned(
            "to read data does not change them", stored.reads, before=Writes("batch"), within=TrainingPhase, hooks=False
        ),
        warned(
            "to read data does not change them",
            stored.has_read,
            after=Writes("batch"),
            within=TrainingPhase,
            hooks=False,
        ),
        warned("an evaluation reads what it read before", Unchanged(), after=Writes("batch"), within=EvaluationPhase),
        warned("random numbers do not come again", passes.forget, before=ROOT, sampled=False),
        warned("random numbers do not come again", forwards.forget, before=ROOT, sampled=False),
        warned("random numbers do not come again", passes.begin, before=TrainingPhase, hooks=False),
        warned("random numbers do not come again", passes.end, after=TrainingPhase, hooks=False),
        warned(
            "random numbers do not come again",
            forwards.drew,
            around=Writes("outputs"),
            within=TrainingPhase,
            compares=("rng",),
            hooks=False,
        ),
    )


def same_length(outputs: Any, targets: Any) -> str | None:
    """It is not one output alone that is compared with several targets, which broadcasting would hide."""
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not outputs.dim() or not targets.dim():
        return None
    count, wanted = len(outputs), len(targets)
    if count != 1 or wanted < 2 or wanted in outputs.shape:
        return None
    return f"there is 1 output for {wanted} targets: shapes {tuple(outputs.shape)} and {tuple(targets.shape)}"


class Repeats:
    """The batches that are looked at of one pass over the data are different ones, where several processes make them.

    A batch without any variation tells nothing, nor do single rows; and data may be the same batch over and over.
    """

    def __init__(self) -> None:
        self._pass: Any = None
        self._seen: dict[Any, int] = {}

    def __call__(self, state: Any, batch: Any, batch_index: int, place: Place) -> str | None:
        loader = state.values_of("run").get(place.phase.loader) if place.phase is not None else None
        if getattr(loader, "num_workers", 0) < 2:
            return None
        epoch = state.values_of("epoch").get("epoch")
        if epoch != self._pass:
            self._pass, self._seen = epoch, {}
        held = _tensors(batch)
        if not any(_varies(one) for one in held):
            return None
        before = self._seen.setdefault(_bits(held), batch_index)
        is_neighbour = abs(before - batch_index) == 1 and all(len(one) > 1 for one in held if one.dim())
        told = f"batches {before} and {batch_index} have the same content: do all workers draw alike?"
        return told if is_neighbour else None


class Stored:
    """What a data set holds in tensors and arrays, of two dimensions and more, is not changed by taking a batch of it.

    In the first epoch it may be: that is when a cache is filled. Of data in other processes nothing is seen.
    """

    def __init__(self) -> None:
        self._before: dict[str, tuple[Any, ...]] = {}

    def reads(self, state: Any, place: Place) -> None:
        """A batch is about to be taken."""
        loader = state.values_of("run").get(place.phase.loader) if place.phase is not None else None
        is_later = state.values_of("epoch").get("epoch", 0) > 0
        self._before = _stored(loader) if is_later and not getattr(loader, "num_workers", 0) else {}

    def has_read(self, state: Any, place: Place) -> Wrong | None:
        """One was taken."""
        if not self._before or place.phase is None:
            return None
        loader = state.values_of("run").get(place.phase.loader)
        now = _stored(loader)
        changed = [name for name, bits in self._before.items() if now.get(name, bits) != bits]
        if not changed:
            return None
        told = f"taking a batch changed {shown(changed)} in the data set of {place.phase.loader!r}"
        return Wrong(f"{told}: does a transform work in place? Let it work on a copy", ("batch",))


class Unchanged:
    """The first batch of an evaluation has the inputs that it had for the same targets in an earlier one.

    What is drawn anew is one tensor of the batch, while a smaller one, such as labels, stays. That has to be so varied
    that a loader that shuffles would not give it again. Where more than one tensor differs, it is what the task is made
    of, such as masks over words.
    """

    def __init__(self) -> None:
        self._before: dict[str, tuple[weakref.ref[Any] | None, tuple[Any, ...]]] = {}  # by the path of the phase

    def __call__(self, state: Any, batch: Any, batch_index: int, place: Place) -> Wrong | None:
        held = _tensors(batch)
        if batch_index or place.phase is None or len(held) < 2:
            return None
        loader = state.values_of("run").get(place.phase.loader)
        key, now = place.path, tuple(_bits([one]) for one in held)
        ref, before = self._before.get(key, (None, ()))
        self._before[key] = _weakly(loader), now
        if len(before) != len(now) or ref is None or ref() is not loader:
            return None
        differ = [one for one, old, new in zip(held, before, now, strict=True) if old != new]
        agree = [one for one, old, new in zip(held, before, now, strict=True) if old == new]
        if len(differ) != 1 or not any(2 * one.numel() < differ[0].numel() and _is_telling(one) for one in agree):
            return None
        what = f"its first batch has other values in {short(differ[0])}, with the same {short(agree[0])}"
        return Wrong(f"{what}: does its data set draw at random, as for training?", ("batch",))


class Redraws:
    """The random numbers that one forward pass draws, or one pass over the data, are not those of an earlier one.

    A run that was taken back to an earlier point draws what it had drawn from there.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._start = b""
        self._total = 0
        self._seen: set[int] = set()  # hashes: a state has 5 KB

    def forget(self) -> None:
        """Another run begins, maybe with the same seed."""
        self._seen.clear()

    def begin(self, batches_seen: int) -> None:
        """One begins."""
        if batches_seen < self._total:
            self._seen.clear()
        self._start = _random_state()

    def drew(self, changed: tuple[str, ...], place: Place, batches_seen: int) -> Wrong | None:
        """One has ended, and changed the generator of torch or did not."""
        self.begin(batches_seen)
        self._start = b"" if "rng.torch" in changed else self._start
        return self.end(place, batches_seen)

    def end(self, place: Place, batches_seen: int) -> Wrong | None:
        """One has ended."""
        self._total = batches_seen
        now = _random_state()
        if now == self._start:
            return None
        if hash(now) not in self._seen:
            self._seen.add(hash(now))
            return None
        places = [*place.root.walk()]
        own = [
            f"{hung.path} ({hung.hook.contract.source})"
            for one in places
            for hung in one.hooks
            if "rng" in hung.access.touches
        ] or [path for path, access in actors(places) if "rng" in access.touches]
        told = f"one {self._unit} drew what an earlier one had drawn: is a generator seeded again and again?"
        return Wrong(f"{told} These may change it: {shown(own)}", ("rng",))


class Untouched:
    """A batch that a loader holds, and gives again, is what it was before: nobody has changed it since."""

    def __init__(self) -> None:
        self._given: dict[int, tuple[weakref.ref[Tensor], Any]] = {}  # with what was in it when it was fetched
        self._spoilt: dict[int, tuple[weakref.ref[Tensor], Any]] = {}  # with what was in it when its batch was over

    def ended(self) -> None:
        """The batch before is over."""
        for key, (ref, bits) in self._given.items():
            tensor = ref()
            if tensor is not None and _bits([tensor]) != bits:
                self._spoilt[key] = ref, _bits([tensor])
        self._given.clear()

    def fetched(self, batch: Any, place: Place) -> Wrong | None:
        """Another one is there."""
        for tensor in _tensors(batch):
            bits = _bits([tensor])
            ref, spoilt = self._spoilt.get(id(tensor), (None, None))
            if ref is not None and ref() is tensor and spoilt == bits:
                told = "it comes again as it was left, changed: a loader keeps its batches, so change a copy of them"
                return Wrong(told, ("inputs", "targets"), _who_touches(place, {"batch", "inputs", "targets"}))
            self._given[id(tensor)] = weakref.ref(tensor), bits
        return None


def _tensors(batch: Any) -> list[Tensor]:
    inside = in_field(batch) if isinstance(batch, (Tensor, *COLLECTIONS)) else None
    tensors = [one for one in inside.values if isinstance(one, Tensor)] if inside is not None else []
    return [one for one in tensors if one.layout == torch.strided and not one.is_nested and not one.is_meta]


def _bits(tensors: list[Tensor]) -> tuple[Any, ...]:
    """What tells apart the contents of tensors."""
    eye = Eye(True)
    seen = [eye.see(one) for one in tensors]
    eye.finish()
    return tuple((one.form[:2], bytes(one.bits or b"")) for one in seen)


def _who_touches(place: Place, names: set[str]) -> tuple[str, str] | None:
    """Who of the user's declares to change one of these in place: the last one in the tree, with its source."""
    found = None
    for one in place.root.walk():
        own = [(one.path, one.access, one.contract.source)] if one.kind == "stage" else []
        for path, access, source in (*own, *((h.path, h.access, h.hook.contract.source) for h in one.hooks)):
            if not names.isdisjoint(access.touches) and not is_of_library(source):
                found = path, source
    return found


def _stored(loader: Any) -> dict[str, tuple[Any, ...]]:
    """What tells apart the contents of what a data set, or that behind a subset of it, holds; of at most MOST bytes."""
    found: dict[str, tuple[Any, ...]] = {}
    held, left = getattr(loader, "dataset", None), MOST
    for _ in range(DEEPEST):
        for name, value in getattr(held, "__dict__", {}).items():
            for one in value[:100] if isinstance(value, list | tuple) else [value]:
                tensor = _as_tensor(one)
                if tensor is not None and tensor.dim() > 1 and tensor.nbytes <= left:
                    left -= tensor.nbytes
                    full = f"{type(held).__name__}.{name}"
                    found[full] = (*found.get(full, ()), *_bits([tensor]))
        held = getattr(held, "__dict__", {}).get("dataset")
    return found


def _as_tensor(value: Any) -> Tensor | None:
    """A tensor, or an array of numpy, if its contents can be read."""
    if type(value).__module__ == "numpy" and hasattr(value, "__array_interface__"):
        try:
            value = torch.from_numpy(value)
        except (TypeError, ValueError):  # of objects, or with its rows in reverse
            return None
    is_read = isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_nested or value.is_meta)
    return value if is_read else None


def _weakly(value: Any) -> "weakref.ref[Any] | None":
    try:
        return weakref.ref(value)
    except TypeError:  # a list
        return None


def _is_telling(tensor: Tensor) -> bool:
    """Whether a tensor would not come again if its values were shuffled: that has less than one chance in a million."""
    if tensor.numel() > 1_000_000 or tensor.is_complex():
        return tensor.numel() > 1
    counts = torch.unique(tensor.double(), return_counts=True)[1].double()
    orders = torch.lgamma(counts.sum() + 1) - torch.lgamma(counts + 1).sum()
    return bool(orders > math.log(1e6))


def _random_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _varies(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and bool((tensor != tensor.flatten()[0]).any())
