"""SampleBatches: order and augmentation follow from seed, pass and index, whoever loads, and on resume."""

import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from learner import ArgumentError, PositionError, SampleBatches, TensorBatches
from learner.testing import toy_learner


class Noisy:
    """Each sample is its index, and a number from each generator."""

    def __init__(self, length: int = 11) -> None:
        self.length, self.loaded = length, [0]
        self.prefix: str | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        self.loaded[0] += 1
        return index, torch.rand(()).item(), numpy.random.rand(), random.random()


def plain(batches: Any) -> list[list[list[float]]]:
    return [[part.tolist() for part in batch] for batch in batches]


def by_index(batches: Any) -> dict[float, tuple[float, ...]]:
    return {
        sample[0]: sample[1:] for batch in batches for sample in zip(*(part.tolist() for part in batch), strict=True)
    }


@settings(max_examples=15)
@given(st.integers(1, 13), st.integers(1, 5), st.booleans(), st.booleans())
def test_resumed_at_any_batch_of_three_passes_the_rest_is_the_same(
    length: int, batch_size: int, shuffle: bool, drop_last: bool
) -> None:
    def make() -> SampleBatches:
        return SampleBatches(Noisy(length), batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)

    undisturbed = make()
    passes = [plain(undisturbed) for _ in range(5)]
    whole = len(undisturbed)
    for number in range(3):
        for given_before in range(whole):
            loader, resumed = make(), make()
            for _ in range(number):
                plain(loader)
            batches = iter(loader)
            for _ in range(given_before):
                next(batches)
            resumed.load_state_dict(loader.state_dict())
            assert [plain(resumed), plain(resumed)] == [passes[number][given_before:], passes[number + 1]]


def test_order_is_that_of_tensor_batches() -> None:
    tensors = TensorBatches(torch.arange(11), batch_size=4, shuffle=True, seed=3)
    samples = SampleBatches(range(11), batch_size=4, shuffle=True, seed=3)
    assert [batch.tolist() for (batch,) in tensors] == [batch.tolist() for batch in samples]


def test_augmentation_of_a_sample_depends_on_seed_pass_and_index_alone() -> None:
    loader = SampleBatches(Noisy(), batch_size=4, shuffle=True)
    first, second = by_index(loader), by_index(loader)
    assert first == by_index(SampleBatches(Noisy(), batch_size=3))
    assert all(first[index] != second[index] for index in range(11))
    assert first != by_index(SampleBatches(Noisy(), batch_size=3, seed=1))
    assert len({number for sample in first.values() for number in sample}) == 33


def test_generators_of_the_program_are_given_back_after_each_batch() -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())

    before = states()
    for _ in SampleBatches(Noisy(), batch_size=4, shuffle=True):
        assert states() == before
    broken = SampleBatches(Noisy(3), collate_fn=lambda samples: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(iter(broken))
    assert states() == before


def test_a_random_collate_fn_is_resumed_too() -> None:
    def collate(samples: list[int]) -> list[float]:
        return [*samples, torch.rand(()).item()]

    loader, resumed = (SampleBatches(range(8), batch_size=2, collate_fn=collate) for _ in range(2))
    batches = iter(loader)
    next(batches)
    resumed.load_state_dict(loader.state_dict())
    rest = list(batches)
    assert list(resumed) == rest
    assert len({batch[-1] for batch in rest}) == 3


def test_resume_loads_no_sample_of_the_batches_before() -> None:
    loader = SampleBatches(Noisy(), batch_size=4)
    batches = iter(loader)
    next(batches), next(batches)
    dataset = Noisy()
    resumed = SampleBatches(dataset, batch_size=4)
    resumed.load_state_dict(loader.state_dict())
    assert len(list(resumed)) == 1
    assert dataset.loaded == [3]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_neither_batches_nor_position(persistent: bool) -> None:
    alone = SampleBatches(Noisy(), batch_size=2, shuffle=True)
    passes = [plain(alone) for _ in range(3)]
    for num_workers in (1, 2):
        loader, resumed = (
            SampleBatches(
                Noisy(),
                batch_size=2,
                shuffle=True,
                num_workers=num_workers,
                multiprocessing_context="fork",
                persistent_workers=persistent,
            )
            for _ in range(2)
        )
        assert plain(loader) == passes[0]
        batches = iter(loader)
        begin = plain([next(batches), next(batches)])  # further batches are prefetched by now
        resumed.load_state_dict(loader.state_dict())
        assert loader.state_dict()["batch"] == 2
        assert begin + plain(resumed) == begin + plain(batches) == passes[1]
        assert plain(resumed) == passes[2]


def open_in_worker(worker: int) -> None:
    info = get_worker_info()
    assert info is not None
    info.dataset.prefix = f"worker of {info.dataset.length}"  # type: ignore[attr-defined]


class Named(Noisy):
    """Each sample is what a worker set on the dataset."""

    def __getitem__(self, index: int) -> Any:
        return self.prefix


def test_worker_init_fn_finds_the_dataset() -> None:
    loader = SampleBatches(Named(2), num_workers=1, multiprocessing_context="fork", worker_init_fn=open_in_worker)
    assert list(loader) == [["worker of 2"] * 2]


def test_what_goes_to_a_worker_can_be_pickled() -> None:
    loader = SampleBatches(Noisy(3))
    seeded = pickle.loads(pickle.dumps(loader._loader.dataset))
    assert seeded.length == 3
    assert plain([seeded[0, 0, 0, [0, 1, 2]]]) == plain(loader)


def test_a_pass_whose_persistent_workers_were_taken_says_so() -> None:
    loader = SampleBatches(
        Noisy(6), batch_size=2, num_workers=1, multiprocessing_context="fork", persistent_workers=True
    )
    first, whole = iter(loader), iter(loader)
    next(first)
    plain([next(whole) for _ in range(3)])
    plain(loader)
    assert plain(whole) == []  # it had given all
    with pytest.raises(PositionError, match="another pass began before this one was at its end.*second loader"):
        next(first)


class Stream(IterableDataset[int]):
    """A dataset without an index."""

    def __iter__(self) -> Iterator[int]:
        yield 1


class Endless(Dataset[int]):
    """A dataset without a length."""

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("dataset", "others", "argument", "message"),
    [
        (Stream(), {}, "dataset", "the Stream has no dataset.index..*StatefulDataLoader"),
        (Endless(), {}, "dataset", "the Endless has no len.*__len__"),
        ([1], {"sampler": [0]}, "sampler", "it takes no sampler=.*use shuffle="),
        ([1], {"batch_sampler": [[0]]}, "batch_sampler", "it takes no batch_sampler=.*batch_size="),
        ([1], {"generator": None}, "generator", "it takes no generator=.*seed="),
        ([1], {"in_order": False}, "in_order", "it takes no in_order=.*could not be resumed"),
        ([1], {"pin_memorey": True}, "pin_memorey", "neither it nor DataLoader takes.*Did you mean 'pin_memory'"),
        ([1], {"batch_size": None}, "batch_size", "batch_size=None cannot be used"),
    ],
)
def test_what_cannot_be_used_is_refused(dataset: Any, others: Any, argument: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as told:
        SampleBatches(dataset, **others)
    assert told.value.argument == argument


def orders(kind: Any, seed: int | None, own: int | None = None) -> list[list[float]]:
    """The samples of two epochs in the order in which a Learner of this seed gave them."""
    seen: list[list[float]] = []
    data = torch.linspace(-1, 1, 12)[:, None]
    samples = (data, data) if kind is TensorBatches else (list(zip(data, data, strict=True)),)
    learner = toy_learner(seed=seed, train=kind(*samples, shuffle=True, seed=own))
    learner.after("batch")(lambda state: seen.append(state.inputs.flatten().tolist()))
    learner.fit(epochs=2)
    return seen


@pytest.mark.parametrize("kind", [TensorBatches, SampleBatches])
def test_loader_without_a_seed_has_that_of_its_learner(kind: Any) -> None:
    first, second = orders(kind, 1), orders(kind, 2)
    assert first != second
    assert (orders(kind, None, own=1), orders(kind, None, own=2)) == (first, second)
    assert orders(kind, None) == orders(kind, 0) == orders(kind, 3, own=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_augmentation_follows_the_seed_of_the_learner_even_in_workers_that_live_already(workers: int) -> None:
    settings = {"num_workers": workers, "persistent_workers": True} if workers else {}
    loader, wanted = SampleBatches(Noisy(), **settings), by_index(SampleBatches(Noisy(), seed=5))
    assert by_index(loader) != wanted
    loader.sow(5)
    loader.load_state_dict(loader.state_dict() | {"epoch": 0})
    assert by_index(loader) == wanted
