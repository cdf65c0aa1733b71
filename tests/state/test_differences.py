"""Differences: nothing for equal bits, otherwise each place with what both have there."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from state import CheckpointDamaged
from state.bundle import write_bundle
from state.differences import Difference, diff_bundles

Content = tuple[dict[str, dict[str, Tensor]], dict[str, Any]]


def differences(path: Path, one: Content, other: Content) -> list[Difference]:
    write_bundle(path / "one", *one)
    write_bundle(path / "other", *other)
    assert diff_bundles(path / "one", path / "one") == []
    back = diff_bundles(path / "other", path / "one")
    found = diff_bundles(path / "one", path / "other")
    assert sorted((each.file, each.entry) for each in back) == sorted((each.file, each.entry) for each in found)
    return found


def test_equal_bits_are_no_difference(tmp_path: Path) -> None:
    content = {"model": {"w": torch.tensor([1.0, math.nan]), "e": torch.zeros(0, 3)}}, {"state": {"loss": math.nan}}
    assert differences(tmp_path, content, content) == []


def test_tensors_are_counted_by_elements_that_differ_in_any_bit(tmp_path: Path) -> None:
    one = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "z": torch.tensor([0.0]), "i": torch.tensor([2**62, 1])}
    other = {"w": torch.tensor([[1.0, 2.5], [3.0, 1.0]]), "z": torch.tensor([-0.0]), "i": torch.tensor([2**62, 4])}
    found = differences(tmp_path, ({"model": one}, {}), ({"model": other}, {}))
    assert found == [
        Difference("model.safetensors", "w", "float32[2, 2]", "float32[2, 2]", 2, 3.0),
        Difference("model.safetensors", "z", "float32[1]", "float32[1]", 1, 0.0),
        Difference("model.safetensors", "i", "int64[2]", "int64[2]", 1, 3.0),
    ]
    assert str(found[0]) == "model.safetensors: w: 2 elements of float32[2, 2] differ, by 3 at most"


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint64, torch.bfloat16, torch.float8_e5m2, torch.complex64])
def test_every_kind_of_number_has_a_largest_difference(dtype: torch.dtype, tmp_path: Path) -> None:
    one, other = torch.tensor([0, 1]).to(dtype), torch.tensor([0, 0]).to(dtype)
    (found,) = differences(tmp_path, ({"model": {"w": one}}, {}), ({"model": {"w": other}}, {}))
    assert (found.unequal, found.largest) == (1, 1.0)


def test_names_dtypes_and_shapes_that_differ_are_shown(tmp_path: Path) -> None:
    one = {"model": {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}, "old": {}}
    other = {"model": {"a": torch.ones(2).half(), "b": torch.ones(1, 2), "d\x1b": torch.ones(())}, "new": {}}
    assert [str(each) for each in differences(tmp_path, (one, {}), (other, {}))] == [
        "model.safetensors: a: float32[2], float16[2]",
        "model.safetensors: b: float32[2], float32[1, 2]",
        "model.safetensors: c: only in the first: float32[2]",
        r"model.safetensors: 'd\x1b': only in the second: float32[]",
        "old.safetensors: only in the first: no tensors",
        "new.safetensors: only in the second: no tensors",
    ]


def test_values_are_shown_with_their_dotted_path(tmp_path: Path) -> None:
    one = {
        "state": {"lr": 0.1, "n": 1, "rows": [{"a": 1}, {"a": 2}], "same": None, "length": [1], "a\x1b": 1},
        "old": 1,
    }
    other = {"state": {"lr": 0.2, "n": 1.0, "rows": [{"a": 1}, {"b": 2}], "same": None, "length": [1, 2], "a\x1b": 2}}
    assert [str(each) for each in differences(tmp_path, ({}, one | {"old": 1}), ({}, other))] == [
        "state.json: lr: 0.1, 0.2",
        "state.json: n: 1, 1.0",
        "state.json: rows[1].a: only in the first: 2",
        "state.json: rows[1].b: only in the second: 2",
        "state.json: length: [1], [1, 2]",
        r"state.json: ['a\x1b']: 1, 2",
        "old.json: only in the first: 1",
    ]


def test_a_damaged_bundle_is_not_compared(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_bundle(tmp_path / name, {}, {"state": 1})
    (tmp_path / "other/state.json").write_bytes(b"2\n")
    with pytest.raises(CheckpointDamaged, match="state.json"):
        diff_bundles(tmp_path / "one", tmp_path / "other")
