"""Packing: any value of State comes back as it was, and what cannot is refused by its path."""

from collections import Counter, OrderedDict, defaultdict, deque
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from state.documents import text_of, value_of
from state.errors import SnapshotError
from state.packing import Packer, unpack


class Colour(Enum):
    RED = "red"


class Pair(NamedTuple):
    one: int
    two: int


def round_trip(value: Any) -> Any:
    """Through JSON text, as a checkpoint has it."""
    packer = Packer()
    packed = value_of(text_of(packer.pack(value, "field")))
    return unpack(packed, packer.tensors)


def assert_alike(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert (
            torch.equal(ours.nan_to_num(1e3), theirs.nan_to_num(1e3))
            if ours.is_floating_point()
            else (ours == theirs).all()
        )
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_alike(ours[key], theirs[key])
    elif isinstance(ours, list | tuple | deque):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other)
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)


keys = st.text(st.characters(codec="utf-8"), max_size=4) | st.integers() | st.booleans() | st.none()
leaves = (
    keys
    | st.floats()
    | st.binary(max_size=5)
    | st.complex_numbers(allow_nan=False)
    | st.lists(st.floats(width=32), max_size=3).map(torch.tensor)
    | st.sampled_from([torch.bfloat16, torch.Size([2, 3]), frozenset({1, 2}), {"b", "a"}, Counter("aab")])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(lambda held: deque(held, maxlen=4))
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=8,
)


@given(values)
def test_value_comes_back_as_it_was(value: Any) -> None:
    assert_alike(round_trip(value), value)


def test_tensors_under_one_path_are_kept_apart() -> None:
    value = {1: torch.zeros(1), "1": torch.ones(1), "a": {"b": torch.ones(2)}, "a.b": torch.zeros(2)}
    assert_alike(round_trip(value), value)


def test_numbers_and_arrays_of_numpy_come_back() -> None:
    found = round_trip({"number": np.float32(0.5), "array": np.arange(4)[::-2], "flag": np.True_, "none": np.zeros(0)})
    assert found["number"] == 0.5 and found["flag"] is True
    assert found["array"].tolist() == [3, 1] and found["array"].dtype == np.int64
    assert found["none"].shape == (0,)


def test_member_of_an_enum_is_kept_by_its_value() -> None:
    assert round_trip({Colour.RED: (Colour.RED,)}) == {"red": ("red",)}


def test_order_of_a_set_is_that_of_its_members() -> None:
    assert Packer().pack({3, 1, 2}, "field") == {"set": [1, 2, 3]}


def test_tensor_in_the_tensors_is_the_live_one() -> None:
    packer, live = Packer(), torch.zeros(2, requires_grad=True)
    assert packer.pack([live], "field") == [{"tensor": "field.0"}]
    assert packer.tensors["field.0"].data_ptr() == live.data_ptr() and not packer.tensors["field.0"].requires_grad


@pytest.mark.parametrize("last", [0, -(2**63), 2**63 - 1])
def test_a_long_row_of_ints_is_a_tensor(last: int) -> None:
    packer, value = Packer(), (*range(200), last)
    assert packer.pack(value, "field") == {"ints": "field"}
    assert round_trip(value) == value


@pytest.mark.parametrize("last", [True, 2**63, -(2**63) - 1, 1.0])
def test_a_long_row_of_other_things_is_what_it_was(last: Any) -> None:
    value = (*range(200), last)
    assert "tuple" in Packer().pack(value, "field")
    assert_alike(round_trip(value), value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "'field.deep' holds a builtins.object"),
        (Pair(1, 2), r"'field.deep' holds a .*Pair"),
        (defaultdict(list), "'field.deep' holds a collections.defaultdict"),
        (lambda: None, "'field.deep' holds a builtins.function"),
        (torch.Generator(), "'field.deep' holds a torch._C.Generator"),
        (np.array(["text"]), "'field.deep' holds an array that a checkpoint cannot hold"),
        (np.array([None, {}]), "'field.deep' holds an array that a checkpoint cannot hold"),
    ],
)
def test_what_no_checkpoint_can_hold_is_refused_by_its_path(value: Any, told: str) -> None:
    with pytest.raises(SnapshotError, match=told):
        Packer().pack({"deep": value}, "field")


@pytest.mark.parametrize(
    "packed",
    [
        {},
        {"tensor": "elsewhere"},
        {"array": 1},
        {"os.system": "true"},
        {"dtype": "nn"},
        {"dict": [["one"]]},
        {"dict": 3},
        {"deque": [1], "length": 3},
        {"size": ["a"]},
        {"tuple": None},
        {"set": [[1]]},
        {"bytes": "zz"},
        {"complex": [None]},
        {"ints": "elsewhere"},
    ],
)
def test_what_is_no_packed_value_is_refused(packed: Any) -> None:
    with pytest.raises(SnapshotError, match="which stands for no value"):
        unpack([packed], {})
