"""Batches: what is moved, how many samples there are, how outputs are joined, and what a bad batch is told."""

from collections import namedtuple
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn, tensor

from stages import batch_size
from stages.batch import detached, joined, moved, no_batch, wrong_lengths, wrong_structure

META = torch.device("meta")
Pair = namedtuple("Pair", "inputs targets")


def kinds(value: Any) -> Any:
    """The devices in a batch, in its structure."""
    if isinstance(value, Tensor):
        return value.device.type
    if isinstance(value, dict):
        return {name: kinds(part) for name, part in value.items()}
    return type(value)(*map(kinds, value)) if hasattr(value, "_fields") else type(value)(map(kinds, value))


def test_tensors_in_any_nesting_are_moved_and_the_structure_stays() -> None:
    one = torch.ones(2)
    batch = {"a": one, "b": [one, (one, one)], "c": Pair(one, one)}
    assert kinds(moved(batch, META)) == {"a": "meta", "b": ["meta", ("meta", "meta")], "c": Pair("meta", "meta")}


def test_what_is_no_tensor_is_left_as_it_is() -> None:
    thing = object()
    names = ["cat", "dog"]
    assert moved((thing, 3, None), META) == (thing, 3, None)
    assert moved({"names": names}, META) == {"names": names}


def test_batch_with_a_to_of_its_own_moves_itself() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 1), torch.ones(2, 1)])
    on_meta = moved(packed, META)
    assert type(on_meta) is type(packed)
    assert on_meta.data.device.type == "meta"
    assert on_meta.batch_sizes.device.type == "cpu"  # where torch wants it


def test_moved_tensor_carries_no_graph() -> None:
    source = torch.ones(2, requires_grad=True) * 2
    assert not moved(source, torch.device("cpu")).requires_grad
    assert source.requires_grad


def test_detached_reaches_into_collections_and_leaves_the_rest_alone() -> None:
    made = torch.ones(2, requires_grad=True) * 2
    values = {"a": made, "b": (made, [made])}
    found = detached(values)
    assert not found["a"].requires_grad and not found["b"][1][0].requires_grad
    plain = {"a": tensor(1.0)}
    assert detached(plain) is plain


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.ones(8, 2), 8),
        (tensor(3.0), 1),
        ((torch.ones(4, 1), torch.ones(4)), 4),
        ({"tokens": torch.ones(5, 7), "lengths": torch.ones(5)}, 5),
        ([{"image": torch.ones(6, 1)}, torch.ones(9)], 6),
        ((tensor(0.1), torch.ones(8)), 8),
        ((["cat", "dog"], torch.ones(2)), 2),
        (({}, torch.ones(3)), 3),
        ((numpy.ones((7, 2)), numpy.ones(7)), 7),
        (([], "text"), 1),
        (None, 1),
        (torch.ones(0, 3), 0),
    ],
)
def test_batch_size_is_the_first_dimension_of_the_first_tensor_that_has_one(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


def test_tensors_are_joined_along_the_batch() -> None:
    assert joined([torch.ones(2, 3), torch.ones(1, 3)]).shape == (3, 3)
    assert joined([tensor(1.0), tensor(2.0)]).tolist() == [1.0, 2.0]


def test_tuples_and_mappings_are_joined_part_by_part() -> None:
    first, second = joined([(torch.ones(2), torch.zeros(2, 1)), (torch.ones(1), torch.zeros(1, 1))])
    assert (first.shape, second.shape) == ((3,), (3, 1))
    assert joined([{"a": torch.ones(2)}, {"a": torch.ones(3)}])["a"].shape == (5,)


def test_what_cannot_be_joined_stays_a_list() -> None:
    assert joined([]) == []
    assert joined([["a"], ["b"]]) == [["a"], ["b"]]


def test_used_up_generator_is_told_apart_from_an_empty_loader() -> None:
    generator = (number for number in range(0))
    assert "A generator can be read once" in no_batch(generator)
    assert "Check the size of the dataset, drop_last" in no_batch(iter([]))


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ({"b": 1, "a": 2}, r"a mapping with ['a', 'b']"),
        ((1, 2, 3), "a tuple of 3"),
        ([1], "a list of 1"),
        (torch.ones(2), "a Tensor"),
    ],
)
def test_wrong_structure_says_what_came_and_which_slot_to_swap(batch: Any, got: str) -> None:
    told = wrong_structure(batch, "inputs", "targets")
    assert f"The loader gave {got}; unpack wants a pair (inputs, targets)." in told
    assert "Swap the slot 'unpack'" in told and "@stage(writes=('inputs', 'targets'))" in told


def test_wrong_structure_of_one_part_offers_the_settings() -> None:
    told = wrong_structure((1, 2), "real", None)
    assert "The loader gave a tuple of 2; unpack wants one part (real). Unpack('real', rest=True)" in told


def test_wrong_lengths_gives_both() -> None:
    told = wrong_lengths(torch.ones(3, 1), tensor(1.0), "inputs", "targets")
    assert told.startswith("The loader gave 'inputs' and 'targets' of unequal length: 3 and a scalar.")
