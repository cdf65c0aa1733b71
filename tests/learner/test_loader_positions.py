"""Positions: any loader that can be resumed gives the rest of its pass, and the passes after it, bit for bit."""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from learner import PositionError, SampleBatches, TensorBatches
from learner.loader_positions import COUNT, ONCE, READING, STATE, describe, position_of, restore_position, skip, way_of
from learner.own_generators import states_of


class Noisy:
    """Each sample is its index, and a number from each generator of the program."""

    def __init__(self, length: int = 10) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, torch.rand(()).item(), numpy.random.rand(), random.random()


class Reshuffled:
    """A loader of its own kind, which shuffles by a generator of its own."""

    def __init__(self, generator: Any) -> None:
        self.own = generator

    def __iter__(self) -> Iterator[Any]:
        order = list(range(4))
        self.own.shuffle(order)
        yield from (torch.tensor(number) for number in order)


def stateful(**settings: Any) -> Any:
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs the extra `checkpoint`")
    return module.StatefulDataLoader(Noisy(), batch_size=3, **settings)


def shared_generator() -> Any:
    generator = torch.Generator().manual_seed(3)
    return DataLoader(Noisy(), batch_size=3, sampler=RandomSampler(range(10), generator=generator), generator=generator)  # type: ignore[arg-type]


WORKERS: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": "fork"}  # the classes here need no import
LOADERS: dict[str, Callable[[], Any]] = {
    "list": lambda: [torch.tensor(number) for number in range(4)],
    "range": lambda: range(4),
    "TensorBatches": lambda: TensorBatches(torch.arange(10), batch_size=3, shuffle=True),
    "SampleBatches": lambda: SampleBatches(Noisy(), batch_size=3, shuffle=True),
    "SampleBatches, 2 workers": lambda: SampleBatches(Noisy(), batch_size=3, shuffle=True, **WORKERS),
    "DataLoader": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True),  # type: ignore[arg-type]
    "DataLoader, 2 workers": lambda: DataLoader(Noisy(), batch_size=3, shuffle=True, **WORKERS),  # type: ignore[arg-type]
    "DataLoader, one generator": shared_generator,
    "Reshuffled": lambda: Reshuffled(random.Random(0)),
    "Reshuffled by numpy": lambda: Reshuffled(numpy.random.default_rng(0)),
    "StatefulDataLoader": lambda: stateful(shuffle=True),
    "StatefulDataLoader in order": lambda: stateful(),
}
KINDS = [pytest.param(kind, marks=pytest.mark.slow if "workers" in kind else ()) for kind in LOADERS]
torchdata = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


def plain(batches: Any) -> list[list[float]]:
    def numbers(batch: Any) -> list[float]:
        return (
            [number for part in batch for number in numbers(part)]
            if isinstance(batch, tuple | list)
            else list(torch.as_tensor(batch).reshape(-1).tolist())
        )

    return [numbers(batch) for batch in batches]


def program() -> tuple[Any, ...]:
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state()


def set_program(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    numpy.random.set_state(states[2])


def elsewhere() -> None:
    """Another process has other random numbers."""
    torch.manual_seed(77)
    random.seed(77)
    numpy.random.seed(77)


def resumed(make: Callable[[], Any], position: dict[str, Any], before: tuple[Any, ...], now: tuple[Any, ...]) -> Any:
    elsewhere()
    loader = make()
    set_program(before)
    batches = restore_position(loader, position)
    set_program(now)
    return loader, batches


@torchdata
@pytest.mark.parametrize("asked", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_of_the_pass_and_the_passes_after_it_are_the_same(kind: str, asked: int) -> None:
    """Of four batches: asked for a fifth, the pass has also shown its end."""
    make = LOADERS[kind]
    loader = make()
    plain(loader)
    began, before = states_of(loader), program()
    batches = iter(loader)
    given = sum(next(batches, None) is not None for _ in range(asked))
    now = program()
    position = position_of(loader, given, batches, began=began)
    torch.testing.assert_close(program()[0], now[0])
    assert program()[1] == now[1]
    expected = [plain(batches), plain(loader), plain(loader)]
    again, rest = resumed(make, position, before, now)
    assert len(expected[0]) == 4 - given
    assert [plain(rest), plain(again), plain(again)] == expected


@torchdata
@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_between_passes_the_next_pass_is_the_same(kind: str, passes: int) -> None:
    make = LOADERS[kind]
    torch.manual_seed(0)  # a StatefulDataLoader draws the seed of its order when it is made
    loader = make()
    for _ in range(passes):
        plain(loader)
    now = program()
    position = position_of(loader, None)
    torch.testing.assert_close(program()[0], now[0])
    expected = [plain(loader), torch.rand(2).tolist(), plain(loader)]
    elsewhere()
    if passes == 0:
        torch.manual_seed(0)
    again = make()
    assert restore_position(again, position) is None
    set_program(now)
    assert str(position_of(again, None)) == str(position)  # at once, before a pass
    assert [plain(again), torch.rand(2).tolist(), plain(again)] == expected


@torchdata
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_that_was_broken_off_is_followed_by_the_next_one(kind: str) -> None:
    make = LOADERS[kind]
    loader = make()
    next(iter(loader))
    now, position = program(), position_of(loader, None)
    expected = plain(loader)
    again, batches = resumed(make, position, now, now)
    assert batches is None
    assert plain(again) == expected


@torchdata
@pytest.mark.parametrize("further", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_again_soon_after_a_resume_it_is_still_the_same(kind: str, further: int) -> None:
    make = LOADERS[kind]
    loader = make()
    began, before = states_of(loader), program()
    batches = iter(loader)
    next(batches)
    position, now = position_of(loader, 1, batches, began=began), program()
    second, rest = resumed(make, position, before, now)
    skip(rest, further)
    position, now = position_of(second, 1 + further, rest, began=began), program()
    expected = [plain(rest), plain(second)]
    third, rest = resumed(make, position, before, now)
    assert len(expected[0]) == 3 - further
    assert [plain(rest), plain(third)] == expected


def test_a_position_taken_again_at_the_end_of_a_pass_is_still_at_its_end() -> None:
    loader, again = (LOADERS["TensorBatches"]() for _ in range(2))
    batches = iter(loader)
    skip(batches, 4)
    rest = restore_position(again, position_of(loader, 4, batches))
    position = position_of(again, 4, rest)
    assert position == position_of(loader, 4, batches)
    assert plain(restore_position(LOADERS["TensorBatches"](), position)) == []


def test_another_pass_meanwhile_does_not_move_the_open_one() -> None:
    make = LOADERS["TensorBatches"]
    loader, again = make(), make()
    batches = iter(loader)
    next(batches)
    plain(loader)
    rest = restore_position(again, position_of(loader, 1, batches))
    assert [plain(rest), plain(again)] == [plain(batches), plain(loader)]


@pytest.mark.parametrize("kind", ["TensorBatches", "SampleBatches"])
def test_a_pass_that_has_given_nothing_is_not_taken_for_one_that_was_broken_off(kind: str) -> None:
    loader, again = LOADERS[kind](), LOADERS[kind]()
    next(iter(loader))
    batches = iter(loader)
    rest = restore_position(again, position_of(loader, 0))
    assert plain(rest) == plain(batches)


@torchdata
def test_stateful_dataloader_gives_the_same_samples_with_workers_up_to_the_end_of_a_pass() -> None:
    def indices(batches: Any) -> list[list[int]]:
        return [batch[0].tolist() for batch in batches]

    for given in (1, 4):
        loader = stateful(shuffle=True, **WORKERS)
        batches = iter(loader)
        skip(batches, given)
        position = position_of(loader, given, batches)
        expected = [indices(batches), indices(loader)]
        again = stateful(shuffle=True, **WORKERS)
        assert [indices(restore_position(again, position)), indices(again)] == expected
        assert len(expected[0]) == 4 - given


@pytest.mark.parametrize("kind", ["list", "TensorBatches", "SampleBatches"])
def test_positions_without_generators_are_fit_for_json(kind: str) -> None:
    loader = LOADERS[kind]()
    batches = iter(loader)
    next(batches)
    position = position_of(loader, 1, batches)
    assert json.loads(json.dumps(position)) == position


def test_a_list_with_an_iteration_of_its_own_is_read() -> None:
    class Backwards(list[int]):
        """A list that is no longer in the order of its indices."""

        def __iter__(self) -> Iterator[int]:
            return reversed(self)

    position = position_of(Backwards([1, 2, 3]), 1)
    assert position["way"] == READING
    assert plain(restore_position(Backwards([1, 2, 3]), position)) == [[2], [1]]


@torchdata
@pytest.mark.parametrize(
    ("make", "way", "told"),
    [
        (LOADERS["list"], COUNT, "list is resumed by the count of the batches given"),
        (LOADERS["TensorBatches"], STATE, "TensorBatches is resumed by its own state"),
        (LOADERS["StatefulDataLoader"], STATE, "StatefulDataLoader is resumed by its own state"),
        (lambda: stateful(num_workers=1), STATE, "Random numbers drawn in its workers will differ"),
        (LOADERS["DataLoader"], READING, "reading and dropping the batches before it.*TensorBatches"),
        (lambda: (number for number in ()), ONCE, "generator cannot be resumed in the middle of a pass"),
    ],
)
def test_describe_says_how_and_at_what_cost(make: Callable[[], Any], way: str, told: str) -> None:
    loader = make()
    assert way_of(loader) == way
    assert re.fullmatch(f".*{told}.*", describe(loader))  # one line, as a dot is no end of line


def test_what_can_be_read_once_is_refused_in_the_middle_and_let_be_at_its_beginning() -> None:
    position = position_of((number for number in range(3)), 1)
    with pytest.raises(PositionError, match="1 batches were given, and a generator can be read once") as told:
        restore_position((number for number in range(3)), position)
    assert told.value.loader == "generator"
    batches = restore_position((number for number in range(3)), position | {"given": 0})
    assert plain(batches) == [[0], [1], [2]]


def test_another_kind_of_loader_is_refused() -> None:
    position = position_of(LOADERS["DataLoader"](), None)
    with pytest.raises(PositionError, match="the position is of a DataLoader, and kept as 'reading'"):
        restore_position(LOADERS["TensorBatches"](), position)


@torchdata
@pytest.mark.parametrize(
    ("setting", "before", "now"),
    [
        ("batch_size", {"batch_size": 3}, {"batch_size": 2}),
        ("drop_last", {}, {"drop_last": True}),
        ("sampler", {"shuffle": True}, {"shuffle": False}),
        ("num_workers", {}, {"num_workers": 1}),
        ("batches", {}, {"batch_size": 4, "dataset": Noisy(13)}),
    ],
)
@pytest.mark.parametrize("stateful", [False, True])
def test_other_settings_are_refused_naming_them(
    setting: str, before: dict[str, Any], now: dict[str, Any], stateful: bool
) -> None:
    module = pytest.importorskip("torchdata.stateful_dataloader", reason="needs the extra `checkpoint`")
    make = module.StatefulDataLoader if stateful else DataLoader
    usual: dict[str, Any] = {"dataset": Noisy(), "batch_size": 4}
    position = position_of(make(**(usual | before)), None)
    with pytest.raises(PositionError, match=f"{setting}=.* when the checkpoint was made, {setting}=.* now"):
        restore_position(make(**(usual | now)), position)


def test_a_loader_that_ends_before_the_place_is_refused() -> None:
    with pytest.raises(PositionError, match="it ended after 2 batches, and 3 were given before the checkpoint"):
        skip(iter([1, 2]), 3)


def test_own_generators_have_to_be_noted_before_the_pass() -> None:
    loader = shared_generator()
    with pytest.raises(PositionError, match="it holds the generators .'generator'.*before iter"):
        position_of(loader, 1, iter(loader))
