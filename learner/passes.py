"""Passes: where a loader is in its pass over the data, and how it is brought there again.

What has `state_dict` and `load_state_dict` knows its position itself: `TensorBatches`, `SampleBatches`, torchdata's
StatefulDataLoader. Of a list or another sequence the number of batches is enough. Anything else is read anew, with the
random number generators as they were when the pass began, and the batches before the position are dropped.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch

from state.errors import SnapshotError
from state.snapshot import read_generators, write_generators


class Pass(NamedTuple):
    """A pass over a loader.

    Attributes:
        generators: the states of all random number generators when it began, those of the loader's own included; None
            where they are not needed.
        skipped: batches that were dropped as it was taken up; the iterator counts from there.
    """

    loader: Any
    generators: Mapping[str, Any] | None

    @classmethod
    def of(cls, loader: Any) -> "Pass":
        """A pass that begins now."""
        needs_none = knows_position(loader) or isinstance(loader, Sequence)
        return cls(loader, None if needs_none else {**read_generators(), **_own(loader)})

    def saved(self, batches: int) -> dict[str, Any]:
        """What a checkpoint holds of it, after so many batches."""
        state = self.loader.state_dict() if knows_position(self.loader) else None
        found = {"kind": type(self.loader).__name__, "batches": batches, "loader": state, "began": self.generators}
        own = {name: generator.get_state() for name, generator in generators_of(self.loader).items()}
        return {**found, "own": own, "of": _measure(self.loader)}

    def resumed(self, saved: Mapping[str, Any]) -> tuple["Pass", Iterator[Any]]:
        """The pass as it was saved, and the iterator of what is left of it.

        Raises:
            SnapshotError: the loader is another one, or cannot be brought there.
        """
        loader, batches = self.loader, saved["batches"]
        kind, measure = type(loader).__name__, _measure(loader)
        if (kind, measure) != (saved["kind"], saved["of"]):
            told = f"It stood after {batches} batches of a {saved['kind']} ({_told(saved['of'])})"
            raise SnapshotError(f"{told}; this is a {kind} ({_told(measure)}). Give the loader that it had.")
        if knows_position(loader):
            loader.load_state_dict(saved["loader"])
            return self, iter(loader)
        if isinstance(loader, Sequence):
            return self, islice(iter(loader), batches, None)
        if isinstance(loader, Iterator):
            told = f"It stood after {batches} batches of a {kind}, which can be read once and knows no position."
            raise SnapshotError(f"{told} Give a list, a DataLoader or TensorBatches.")
        write_generators({name: state for name, state in saved["began"].items() if not name.startswith("loader.")})
        own = generators_of(loader)
        for name, generator in own.items():
            generator.set_state(saved["began"][name])
        iterator = iter(loader)
        for number in range(batches):
            if next(iterator, _END) is _END:
                told = f"It stood after {batches} batches of a {kind}, which has only {number} now."
                raise SnapshotError(f"{told} Give the loader that it had.")
        for name, generator in own.items():
            generator.set_state(saved["own"][name])
        return Pass(loader, saved["began"]), iterator


_END = object()


def knows_position(loader: Any) -> bool:
    """Whether a loader saves and loads its position itself."""
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def loaders_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The loaders in State that know their position, by field."""
    return {name: value for name, value in values.items() if name.endswith("_loader") and knows_position(value)}


def generators_of(loader: Any) -> dict[str, torch.Generator]:
    """The random number generators that a DataLoader has for itself, by a name that begins with "loader."."""
    batches = getattr(loader, "batch_sampler", None)
    holders = {"loader": loader, "loader.sampler": getattr(loader, "sampler", None), "loader.batch_sampler": batches}
    holders["loader.batch_sampler.sampler"] = getattr(batches, "sampler", None)
    found: dict[int, tuple[str, torch.Generator]] = {}
    for name, holder in holders.items():
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            found.setdefault(id(generator), (f"{name}.generator", generator))
    return dict(found.values())


def _own(loader: Any) -> dict[str, Any]:
    return {name: generator.get_state() for name, generator in generators_of(loader).items()}


def _measure(loader: Any) -> list[int | None]:
    """The number of batches, and the size of one, where a loader tells them."""
    try:
        length: int | None = len(loader)
    except TypeError:
        length = None
    size = getattr(loader, "batch_size", None)
    return [length, size if isinstance(size, int) else None]


def _told(measure: Any) -> str:
    length, size = measure
    told = [f"{length} batches"] if length is not None else []
    return ", ".join(told + ([f"batch size {size}"] if size is not None else [])) or "of unknown length"
