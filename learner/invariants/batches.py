"""What is so of batches: each is another one, drawn anew, and what it was when it comes again."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, SequentialSampler

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
        if getattr(_loader(state, place), "num_workers", 0) < 2:
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
    """The rows that a data set holds, in a tensor or array, are not changed by taking a batch of them.

    So they are where those that changed are what the batch is made of, and not all there are; a cache that is filled
    had nothing there before. Of data in other processes nothing is seen.
    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}

    def reads(self, state: Any, place: Place) -> None:
        """A batch is about to be taken."""
        loader = _loader(state, place)
        self._before = {} if getattr(loader, "num_workers", 0) else {k: v.clone() for k, v in _rows(loader).items()}

    def has_read(self, state: Any, batch: Any, place: Place) -> Wrong | None:
        """One was taken."""
        before, self._before = self._before, {}
        now, held = _rows(_loader(state, place)) if before else {}, _tensors(batch)
        for name, old in before.items():
            new = now.get(name)
            if new is None or (new.shape, new.dtype) != (old.shape, old.dtype):
                continue
            differ = (new != old).flatten(1).any(1)
            count = int(differ.sum())
            rows = next((one for one in held if one.shape[1:] == new.shape[1:] and one.dtype == new.dtype), None)
            if rows is None or not 2 <= count <= len(rows) < len(new):  # else it may be where batches are put together
                continue
            had_values = all(map(_varies, old[differ]))
            if had_values and {_text(row) for row in new[differ]} <= {_text(row) for row in rows}:
                told = f"taking a batch changed {count} rows of {name}, which it is made of"
                return Wrong(f"{told}: does a transform work in place? Let it work on a copy", ("batch",))
        return None


class Unchanged:
    """The first batch of an evaluation has the inputs that it had for the same targets in an earlier one.

    That is asked of a DataLoader that takes samples in order. What is drawn anew is one tensor of the batch, while a
    smaller one, such as labels, stays. Where more differ, it is what the task is made of, such as masks over words.
    """

    def __init__(self) -> None:
        self._before: dict[str, tuple[weakref.ref[Any], tuple[Any, ...]]] = {}  # by the path of the phase

    def __call__(self, state: Any, batch: Any, batch_index: int, place: Place) -> Wrong | None:
        loader, held = _loader(state, place), _tensors(batch)
        sampler = getattr(loader, "batch_sampler", None)
        in_order = type(sampler) is BatchSampler and type(sampler.sampler) is SequentialSampler
        if batch_index or not in_order or len(held) < 2:
            return None
        now = tuple(_bits([one]) for one in held)
        ref, before = self._before.get(place.path, (None, ()))
        self._before[place.path] = weakref.ref(loader), now
        if len(before) != len(now) or ref is None or ref() is not loader:
            return None
        pairs = list(zip(held, before, now, strict=True))
        differ = [one for one, old, new in pairs if old != new and old[0][0] == new[0][0]]
        agree = [one for one, old, new in pairs if old == new and _varies(one)]
        if len(differ) != 1 or len(agree) != len(held) - 1:
            return None
        if not any(2 * one.numel() < differ[0].numel() for one in agree):
            return None
        what = f"its first batch has other values in {short(differ[0])}, with the same {short(agree[0])}"
        whose = type(getattr(loader, "dataset", None)).__name__
        return Wrong(f"{what}: does {whose} draw at random, as for training?", ("batch",))


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


def _loader(state: Any, place: Place) -> Any:
    """What the phase of a place runs over."""
    return None if place.phase is None else state.values_of("run").get(place.phase.loader)


def _rows(loader: Any) -> dict[str, Tensor]:
    """The tensors and arrays of a data set, or of that behind a subset, that can be changed; at most MOST bytes."""
    found: dict[str, Tensor] = {}
    held, left = getattr(loader, "dataset", None), MOST
    for _ in range(DEEPEST):
        for name, value in getattr(held, "__dict__", {}).items():
            for number, one in enumerate(value[:100]) if isinstance(value, tuple) else [("", value)]:
                tensor = _as_tensor(one)
                if tensor is not None and tensor.dim() > 1 and tensor.nbytes <= left:
                    left -= tensor.nbytes
                    found[f"{type(held).__name__}.{name}{number}"] = tensor
        held = getattr(held, "__dict__", {}).get("dataset")
    return found


def _as_tensor(value: Any) -> Tensor | None:
    """A tensor, or an array of numpy, on the CPU, if its contents can be read and changed."""
    if type(value).__module__ == "numpy" and hasattr(value, "__array_interface__"):
        if not value.flags.writeable:
            return None
        try:
            value = torch.from_numpy(value)
        except (TypeError, ValueError):  # of objects, or with its rows in reverse
            return None
    is_read = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
    return value.detach() if is_read and value.device.type == "cpu" else None


def _text(row: Tensor) -> bytes:
    return row.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _random_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _varies(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and bool((tensor != tensor.flatten()[0]).any())
