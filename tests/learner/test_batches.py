"""TensorBatches: every sample once a pass, an order that follows from seed and pass, resumed at any batch."""

import json
import random
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner import ArgumentError, PositionError, TensorBatches

SETTINGS: dict[str, Any] = {
    "length": st.integers(1, 23),
    "batch_size": st.integers(1, 9),
    "shuffle": st.booleans(),
    "drop_last": st.booleans(),
    "seed": st.integers(-3, 2**70),
}


def loader_of(length: int, **settings: Any) -> TensorBatches:
    return TensorBatches(torch.arange(length), **settings)


def ids(batches: Any) -> list[list[int]]:
    return [batch.tolist() for (batch,) in batches]


@given(**SETTINGS)
def test_every_pass_gives_each_sample_once(length: int, drop_last: bool, **settings: Any) -> None:
    loader = loader_of(length, drop_last=drop_last, **settings)
    for _ in range(3):
        batches = ids(loader)
        seen = sum(batches, [])
        assert len(batches) == len(loader)
        assert len(seen) == len(set(seen)) == length - (length % loader.batch_size if drop_last else 0)
        assert all(len(batch) == loader.batch_size for batch in batches[:-1])


@given(**SETTINGS)
def test_resumed_at_any_batch_of_three_passes_the_rest_is_the_same(length: int, **settings: Any) -> None:
    undisturbed = loader_of(length, **settings)
    passes = [ids(undisturbed) for _ in range(5)]
    whole = len(undisturbed)
    for number in range(3):
        for given_before in range(whole + 1):
            loader, resumed = loader_of(length, **settings), loader_of(length, **settings)
            for _ in range(number):
                ids(loader)
            batches = iter(loader)
            for _ in range(given_before):
                next(batches)
            resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
            assert resumed.state_dict() == loader.state_dict()
            in_the_middle = 0 < given_before < whole
            done = number + (given_before == whole and whole > 0)
            first = passes[number][given_before:] if in_the_middle else passes[done]
            assert [ids(resumed), ids(resumed)] == [first, passes[done + 1]]


def test_a_pass_at_its_end_is_not_resumed_as_an_empty_one() -> None:
    loader, resumed = loader_of(6, batch_size=2), loader_of(6, batch_size=2)
    batches = iter(loader)
    for _ in range(3):
        next(batches)  # all are given; the loop has not yet asked for a fourth
    resumed.load_state_dict(loader.state_dict())
    assert len(ids(resumed)) == 3
    assert resumed.state_dict()["epoch"] == 2


def test_orders_differ_between_passes_and_neighbouring_seeds() -> None:
    loaders = [loader_of(50, shuffle=True, seed=seed) for seed in range(3)]
    orders = [tuple(sum(ids(loader), [])) for loader in loaders for _ in range(3)]
    assert len(set(orders)) == 9


def test_the_order_is_the_one_that_checkpoints_of_this_release_rest_on() -> None:
    loader = loader_of(12, batch_size=12, shuffle=True, seed=7)
    assert ids(loader) == [[3, 9, 2, 10, 11, 4, 5, 0, 8, 7, 1, 6]]
    assert ids(loader) == [[7, 1, 0, 8, 5, 11, 4, 3, 2, 10, 6, 9]]


def test_iterating_draws_from_no_generator_of_the_program() -> None:
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())

    loader, before = loader_of(9, shuffle=True), states()
    ids(loader)
    loader.load_state_dict(loader.state_dict())
    ids(loader)
    assert states() == before


def test_a_pass_begins_with_its_first_batch() -> None:
    loader = loader_of(6, batch_size=2, shuffle=True)
    iter(loader)
    assert loader.state_dict()["epoch"] == 0
    assert ids(loader) == ids(loader_of(6, batch_size=2, shuffle=True))


def test_two_passes_at_once_have_a_position_each() -> None:
    loader = loader_of(8, batch_size=2, shuffle=True)
    undisturbed = loader_of(8, batch_size=2, shuffle=True)
    first, second = ids(undisturbed), ids(undisturbed)
    training = iter(loader)
    mixed = [next(training)]
    looking = iter(loader)
    assert ids([next(looking)]) == second[:1]
    mixed += list(training)
    assert ids(mixed) == first
    assert ids(looking) == second[1:]


def test_the_state_of_a_pass_holds_whatever_began_meanwhile() -> None:
    loader, resumed = loader_of(8, batch_size=2, shuffle=True), loader_of(8, batch_size=2, shuffle=True)
    training = iter(loader)
    next(training)
    ids(loader)  # an evaluation of the same data, say
    assert loader.state_dict()["open"] is None
    assert iter(loader).state_dict()["open"] is None
    state = training.state_dict()
    assert (state["epoch"], state["open"], state["batch"]) == (2, 0, 1)
    resumed.load_state_dict(state)
    assert iter(resumed).state_dict() == state
    assert [ids(resumed), ids(resumed)] == [ids(training), ids(loader)]


def test_a_pass_that_was_broken_off_is_followed_by_the_next_one() -> None:
    loader, undisturbed = (loader_of(8, batch_size=2, shuffle=True) for _ in range(2))
    for _ in loader:
        break
    ids(undisturbed)
    assert ids(loader) == ids(undisturbed)


def test_loading_a_state_leaves_a_pass_under_way_alone() -> None:
    loader = loader_of(8, batch_size=2)
    batches = iter(loader)
    next(batches)
    loader.load_state_dict(loader.state_dict())
    assert ids(batches) == ids(loader) == [[2, 3], [4, 5], [6, 7]]


def test_batches_are_tuples_or_dicts_as_the_tensors_were_given() -> None:
    inputs, targets = torch.randn(5, 2), torch.arange(5)
    pairs = list(TensorBatches(inputs, targets, batch_size=2, shuffle=True))
    named = list(TensorBatches({"inputs": inputs, "targets": targets}, batch_size=2, shuffle=True))
    for (some, their), batch in zip(pairs, named, strict=True):
        assert torch.equal(some, inputs[their])
        assert batch.keys() == {"inputs", "targets"}
        assert torch.equal(batch["inputs"], some) and torch.equal(batch["targets"], their)


def test_no_samples_are_no_batches() -> None:
    assert ids(loader_of(0, shuffle=True)) == []


@pytest.mark.parametrize(
    ("setting", "before", "now"),
    [("batch_size", 4, 2), ("seed", 0, 1), ("shuffle", True, False), ("drop_last", False, True), ("length", 8, 9)],
)
def test_a_state_of_other_settings_is_refused_naming_them(setting: str, before: Any, now: Any) -> None:
    settings = {"length": 8, "batch_size": 4, "shuffle": True, "drop_last": False, "seed": 0}
    loader, other = loader_of(**settings), loader_of(**(settings | {setting: now}))  # type: ignore[arg-type]
    next(iter(loader))
    unchanged = other.state_dict()
    with pytest.raises(
        PositionError, match=f"{setting}={before} when the state was saved, {setting}={now} now"
    ) as told:
        other.load_state_dict(loader.state_dict())
    assert told.value.loader == "TensorBatches"
    assert other.state_dict() == unchanged


@pytest.mark.parametrize(
    "damage", [{"epoch": -1}, {"batch": 4}, {"open": 5}, {"open": None}, {"batch": 0}, {"epoch": "2"}], ids=str
)
def test_a_damaged_state_is_refused(damage: dict[str, Any]) -> None:
    loader = loader_of(8, batch_size=2)
    next(iter(loader))
    with pytest.raises(PositionError, match="is no position among 4 batches"):
        loader.load_state_dict(loader.state_dict() | damage)


@pytest.mark.parametrize("state", [{}, {"epoch": 1}, None, [1, 2]], ids=str)
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(PositionError, match="this is no state of it"):
        loader_of(8).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((numpy.zeros(3),), {}, "tensor 0 is a ndarray.*as_tensor"),
        ((torch.tensor(1.0),), {}, "tensor 0 is a scalar"),
        ((torch.zeros(3), torch.zeros(4)), {}, "tensor 0 has 3, tensor 1 has 4"),
        ((torch.zeros(3), torch.zeros(3, device="meta")), {}, "on 2 devices: cpu, meta"),
        (({"a": torch.zeros(3)}, torch.zeros(3)), {}, "a mapping and further tensors"),
        (({},), {}, "the mapping is empty"),
        ((torch.zeros(3),), {"batch_size": 0}, "batch_size=0 cannot be used; it wants an integer, 1 or more"),
        ((torch.zeros(3),), {"batch_size": 2.0}, "batch_size=2.0 cannot be used"),
        ((torch.zeros(3),), {"shuffle": "yes"}, "shuffle='yes' cannot be used; it wants True or False"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: Any, settings: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as told:
        TensorBatches(*arguments, **settings)
    assert told.value.argument in (*settings, "inputs")
