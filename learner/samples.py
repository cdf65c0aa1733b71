"""SampleBatches: batches of any dataset with an index, whose order and randomness follow from a seed and counters."""

import inspect
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from learner.errors import ArgumentError, PositionError
from learner.passes import CountedLoader, length_of, mixed
from state.errors import nearest, suggestion

Key = tuple[int, int, int, list[int]]

_WHO = "SampleBatches"
_COLLATING = -1  # stands for the index of a sample where the samples of a batch are put together

_NOT_HERE = {
    "sampler": "The order follows from seed= here: use shuffle=, and torch's Subset for a choice of samples",
    "batch_sampler": "The order follows from seed= here: use batch_size= and shuffle=",
    "generator": "The order follows from seed= here: give that",
    "in_order": "Batches in the order in which workers happen to be ready could not be resumed",
}


class SampleBatches(CountedLoader):
    """Batches of a dataset with `__getitem__` and `__len__`, loaded by a DataLoader of torch.

    The order of a pass follows from `seed` and the number of the pass. Around each `dataset[index]` the generators of
    torch (on the CPU), numpy and Python are seeded by the seed, the pass and the index, and around `collate_fn` by the
    seed, the pass and the batch; in the main process they are given back after each batch. So random augmentation is
    the same with any number of workers and any prefetching, and on resume, and takes nothing from the generators of
    the program. A pass that is resumed by `load_state_dict` loads no sample of the batches before.

    Args:
        dataset: any object with `__len__` and `__getitem__`. Its samples are asked for one by one.
        batch_size: the samples in a batch; the last one of a pass may have fewer.
        shuffle: whether each pass has an order of its own.
        drop_last: whether to leave out a last batch that is not full.
        seed: what orders and augmentation follow from, any integer. None: the seed of the Learner that it is given to,
            else 0.
        num_workers: processes that load; 0 loads in this one.
        collate_fn: makes a batch of a list of samples, by default as DataLoader does.
        others: as of DataLoader: `pin_memory`, `persistent_workers`, `worker_init_fn`, `prefetch_factor`, ...

    What has a generator of its own, such as a `numpy.random.default_rng()` kept in the dataset, is not seeded.

    Raises:
        ArgumentError: the dataset has no index or no length, a setting cannot be used, or the order would not be ours
            (`sampler`, `batch_sampler`, `generator`, `in_order`).

    Example:
        >>> batches = SampleBatches([(x, x**2) for x in range(5)], batch_size=2)
        >>> [targets.tolist() for inputs, targets in batches]
        [[0, 1], [4, 9], [16]]
    """

    def __init__(
        self,
        dataset: Any,
        *,
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        **others: Any,
    ) -> None:
        _refuse(dataset, others)
        length = length_of(_WHO, dataset)
        super().__init__(length=length, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed)
        self.dataset, self.num_workers = dataset, num_workers
        self._keys = _Keys(len(self), batch_size)
        self._loader: DataLoader[Any] = DataLoader(
            _Seeded(dataset, collate_fn or default_collate),  # type: ignore[arg-type]  # it has what it takes
            batch_size=None,  # one key of ours is a whole batch
            sampler=self._keys,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            generator=torch.Generator().manual_seed(0),  # so that iter() draws from no generator of the program
            **others,
        )
        self._serves = 0  # how often persistent workers were given to a pass

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        keys = self._keys
        keys.seed, keys.epoch, keys.first, keys.order = self.seed, epoch, first, self.order(epoch)
        batches = iter(self._loader)
        if not self._loader.persistent_workers:
            return batches
        self._serves += 1
        return self._served(batches, len(self) - first, self._serves)

    def _served(self, batches: Iterator[Any], left: int, serving: int) -> Iterator[Any]:
        """Persistent workers serve one pass: the next one takes them away, and this one has to say so."""
        for _ in range(left):
            if self._serves != serving:
                told = "another pass began before this one was at its end, and took its persistent workers."
                raise PositionError(_WHO, f"{told} Make a second loader for it, or leave out persistent_workers.")
            yield next(batches)


class _Keys:
    """The sampler of one pass: for each batch from `first` on the seed, the pass, its number, and its samples."""

    def __init__(self, num_batches: int, batch_size: int) -> None:
        self.num_batches, self.batch_size = num_batches, batch_size
        self.seed, self.epoch, self.first, self.order = 0, 0, 0, torch.empty(0)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Key]:
        return self._from(
            self.seed, self.epoch, self.first, self.order
        )  # they are another pass's when the first is asked for

    def _from(self, seed: int, epoch: int, first: int, order: Tensor) -> Iterator[Key]:
        size = self.batch_size
        for number in range(first, self.num_batches):
            yield seed, epoch, number, order[number * size : (number + 1) * size].tolist()


class _Seeded:
    """A dataset of batches over a dataset of samples, each loaded under seeds of its own.

    A `worker_init_fn` finds it as `get_worker_info().dataset`: attributes it reads or sets there are the dataset's.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.__dict__.update(_dataset=dataset, _collate=collate)

    def __getitem__(self, key: Key) -> Any:
        seed, epoch, number, indices = key
        samples = []
        with _given_back():
            for index in indices:
                _seed_generators(mixed(seed, epoch, index))
                samples.append(self._dataset[index])
            _seed_generators(mixed(seed, epoch, _COLLATING, number))
            return self._collate(samples)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask before there is a dataset
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._dataset, name, value)


def _seed_generators(bits: int) -> None:
    torch.default_generator.manual_seed(bits % 2**64)
    random.seed(bits)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed((bits >> 64) % 2**32)


@contextmanager
def _given_back() -> Iterator[None]:
    """In the main process the generators are set afterwards as they were; those of a worker are nobody else's."""
    if get_worker_info() is not None:
        yield
        return
    numpy = sys.modules.get("numpy")
    torchs, pythons = torch.default_generator.get_state(), random.getstate()
    numpys = None if numpy is None else numpy.random.get_state(legacy=False)
    try:
        yield
    finally:
        torch.default_generator.set_state(torchs)
        random.setstate(pythons)
        if numpy is not None:
            numpy.random.set_state(numpys)


def _refuse(dataset: object, others: dict[str, Any]) -> None:
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        told = f"the {kind} has no dataset[index], so its order cannot be chosen, nor a place in it found again."
        raise ArgumentError(
            _WHO, "dataset", f"{told} Give a map-style dataset, or use torchdata's StatefulDataLoader for a stream."
        )
    known = inspect.signature(DataLoader.__init__).parameters
    for name in others:
        if name in _NOT_HERE:
            raise ArgumentError(_WHO, name, f"it takes no {name}=. {_NOT_HERE[name]}.")
        if name not in known:
            told = f"neither it nor DataLoader takes {name}=.{suggestion(nearest(name, known))}"
            raise ArgumentError(_WHO, name, told)


def _as_it_is(batch: Any) -> Any:
    return batch
