"""Bundles: what is written is read again bit for bit, or refused before anything is at its path."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from state import CheckpointError
from state.bundle import Bundle, read_bundle, verify_bundle, write_bundle
from state.digested import Digest
from state.documents import text_of, value_of
from state.tensor_files import _NATIVE, DTYPES, Stored, header_of


def round_trip(path: Path, tensors: dict[str, dict[str, Tensor]], documents: dict[str, Any] | None = None) -> Bundle:
    write_bundle(path / "one", tensors, documents or {})
    assert verify_bundle(path / "one") == []
    return read_bundle(path / "one")


def bits(tensor: Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().clone(memory_format=torch.contiguous_format)
    return bytes(plain.reshape(-1, 1).view(torch.uint8).flatten().tolist())


def assert_same(found: Tensor, given: Tensor) -> None:
    assert (found.dtype, found.shape, bits(found)) == (given.dtype, given.shape, bits(given))


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_keeps_its_bits(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    kind = DTYPES[dtype]
    high = 2 if kind is torch.bool else 256
    given = torch.randint(high, (*shape, kind.itemsize), dtype=torch.uint8).view(kind).reshape(shape)
    assert_same(round_trip(tmp_path, {"model": {"entry": given}}).tensors["model"]["entry"], given)


def test_files_load_with_the_safetensors_package_alone(tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    given = {f"of.{name}": torch.zeros(2, 3).to(DTYPES[name]) for name in _NATIVE if name in DTYPES}
    round_trip(tmp_path, {"model": given | {"no number": torch.zeros(0, 2)}, "none": {}})
    found = load_file(tmp_path / "one/model.safetensors")
    assert found.keys() == given.keys() | {"no number"}
    for name, tensor in given.items():
        assert_same(found[name], tensor)
    assert load_file(tmp_path / "one/none.safetensors") == {}


def test_files_are_those_that_the_safetensors_package_writes(tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.torch").save
    given = {"b": torch.ones(3), "a": torch.ones(2, dtype=torch.float64), 'c\u00e9"': torch.tensor(True)}
    round_trip(tmp_path, {"model": given})
    written = (tmp_path / "one/model.safetensors").read_bytes()
    again = save(given, metadata={"format": "pt"})
    size = int.from_bytes(written[:8], "little")
    assert json.loads(written[8 : 8 + size]) == json.loads(again[8 : 8 + int.from_bytes(again[:8], "little")])
    assert written.endswith(torch.ones(3).numpy().tobytes() + b"\x01")


def test_tied_weights_are_stored_once_and_are_one_tensor_again(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    found = round_trip(tmp_path, {"model": model.state_dict()}).tensors["model"]
    assert list(found) == list(model.state_dict())
    assert found["1.weight"] is found["0.weight"]
    load_model = pytest.importorskip("safetensors.torch").load_model
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    other[1].weight = other[0].weight
    assert load_model(other, tmp_path / "one/model.safetensors") == (set(), [])
    assert torch.equal(other[1].weight, model[0].weight)


def test_other_views_of_one_memory_are_stored_each_by_itself(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    wave = torch.tensor([1 + 2j])
    given = {
        "whole": whole,
        "turned": whole.T,
        "part": whole[1:, ::2],
        "as ints": whole.view(torch.int32),
        "spread": torch.ones(1).expand(3),
        "wave": wave,
        "conjugate": wave.conj(),
        "negative": wave.conj().imag,
        "parameter": nn.Parameter(torch.ones(2)),
    }
    found = round_trip(tmp_path, {"model": given}).tensors["model"]
    for name, tensor in given.items():
        assert_same(found[name], tensor)
        assert found[name].is_contiguous() and not found[name].requires_grad
    assert len({id(tensor) for tensor in found.values()}) == len(given)


def test_what_is_read_does_not_follow_the_default_device_or_dtype(tmp_path: Path) -> None:
    write_bundle(tmp_path / "one", {"model": {"w": torch.ones(2)}}, {})
    with torch.device("meta"):
        found = read_bundle(tmp_path / "one").tensors["model"]["w"]
    assert_same(found, torch.ones(2))


@pytest.mark.gpu
def test_tensors_of_a_device_keep_their_bits_and_come_back_to_the_cpu(tmp_path: Path) -> None:
    given = torch.randn(1000, 1000, device="cuda")
    found = round_trip(tmp_path, {"model": {"w": given, "turned": given.T, "same": given}}).tensors["model"]
    assert_same(found["w"], given)
    assert_same(found["turned"], given.T)
    assert found["same"] is found["w"] and found["w"].device.type == "cpu"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "$int", "$float", "$dict", "$", "b.c"]), inner, max_size=3)
    ),
)


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@given(plain)
def test_every_plain_value_is_the_same_again(value: Any) -> None:
    assert same(value_of(text_of(value)), value)


@pytest.mark.parametrize(
    "value",
    [math.nan, -math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 2**64, -(2**64) - 1, 7**9000, "\u00e9\U0001f600\x00"],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) else f"{value.bit_length()} bits",
)
def test_odd_values_are_the_same_again(value: Any, tmp_path: Path) -> None:
    assert same(round_trip(tmp_path, {}, {"state": [value]}).documents, {"state": [value]})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": [{"b": (1, 2)}]}, r"a\[0\].b: it is of type tuple"),
        ({"a": {1: 2}}, "a: the key 1 is of type int"),
        ({"a": "\ud83d"}, "a: .* is no text"),
        ({"a": {"\ud83d": 1}}, "a.*is no text"),
        ({"a b": {"\x1b": [()]}}, r"\['a b'\]\['\\x1b'\]\[0\]: it is of type tuple"),
        ({"a": torch.ones(1)}, "a: it is of type Tensor"),
        ({"a": "x" * 2**26}, "it takes 67108873 bytes as JSON; at most 67108864"),
    ],
    ids=["tuple", "key", "text", "text of a key", "odd keys", "tensor", "size"],
)
def test_a_value_that_json_cannot_say_is_refused_with_its_place(value: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"cannot be written: state.json: {reason}"):
        write_bundle(tmp_path / "one", {}, {"state": value})
    assert not list(tmp_path.iterdir())


def test_values_may_be_a_hundred_deep_and_no_more(tmp_path: Path) -> None:
    deep: Any = 0
    for _ in range(100):
        deep = [deep]
    assert round_trip(tmp_path, {}, {"state": deep}).documents["state"] == deep
    with pytest.raises(CheckpointError, match="more than 100 deep"):
        write_bundle(tmp_path / "two", {}, {"state": [deep]})


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.ones(2).to_sparse(), "sparse_coo tensor; only dense"),
        (torch.ones(2, device="meta"), "meta tensor; only dense"),
        (torch.ones([1] * 65), "65 dimensions; at most 64"),
        (torch.empty(2, dtype=torch.bits8), "dtype torch.bits8; known are bool"),
    ],
    ids=["sparse", "meta", "dimensions", "dtype"],
)
def test_a_tensor_that_cannot_be_stored_is_refused_by_name(tensor: Tensor, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"model.safetensors, entry 'w': .*{reason}"):
        write_bundle(tmp_path / "one", {"model": {"w": tensor}}, {})
    assert not list(tmp_path.iterdir())


def test_a_name_of_a_tensor_is_any_text(tmp_path: Path) -> None:
    names = ["", " ", "a/../b", "\x00", '"', "\u00e9", "data_offsets", "w" * 1000]
    found = round_trip(tmp_path, {"model": {name: torch.tensor(index) for index, name in enumerate(names)}})
    assert {name: int(tensor) for name, tensor in found.tensors["model"].items()} == {n: i for i, n in enumerate(names)}
    with pytest.raises(CheckpointError, match=r"model.safetensors: \[0\]: .* is no text"):
        write_bundle(tmp_path / "two", {"model": {"\ud83d": torch.ones(1)}}, {})


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", ".a", "a b", "a\n", "\u00e9", "a\x00"])
def test_a_name_that_is_no_plain_file_name_is_refused(name: str, tmp_path: Path) -> None:
    for tensors, documents in (({name: {}}, {}), ({}, {name: 1})):
        with pytest.raises(CheckpointError, match="may not be the name of a file"):
            write_bundle(tmp_path / "one", tensors, documents)
    assert not list(tmp_path.iterdir())


def test_names_that_the_format_keeps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'manifest' may not be"):
        write_bundle(tmp_path / "one", {}, {"manifest": 1})
    with pytest.raises(CheckpointError, match="entry '__metadata__'"):
        write_bundle(tmp_path / "one", {"model": {"__metadata__": torch.ones(1)}}, {})
    both = round_trip(tmp_path, {"manifest": {"a": torch.ones(1)}, "x.json": {}}, {"x": 1, "x.safetensors": 2})
    assert (list(both.tensors), both.documents) == (["manifest", "x.json"], {"x": 1, "x.safetensors": 2})


def test_nothing_is_ever_written_over(tmp_path: Path) -> None:
    write_bundle(tmp_path / "one", {}, {"state": 1})
    for _ in range(2):
        with pytest.raises(CheckpointError, match="exists, and nothing is ever written over it"):
            write_bundle(tmp_path / "one", {}, {"state": 2})
    assert read_bundle(tmp_path / "one").documents == {"state": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_no_checkpoint_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such directory") as caught:
        read_bundle(tmp_path / "one")
    assert type(caught.value) is CheckpointError and caught.value.path == str(tmp_path / "one")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="there is no such directory"):
        read_bundle(tmp_path / "file")
    assert verify_bundle(tmp_path / "none") == [
        str(tmp_path / "none").join(["Checkpoint '", "' cannot be read: there is no such directory."])
    ]


def test_the_first_format_is_read_for_ever() -> None:
    entries = {"a": Stored("float32", (2,)), "b": Stored("complex128", ()), "c": Stored("float64", (1,))}
    assert header_of(entries) == (
        b"\xc8\x00\x00\x00\x00\x00\x00\x00"
        b'{"__metadata__":{"format":"pt"},'
        b'"c":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},'
        b'"b":{"dtype":"U8","shape":[16],"data_offsets":[16,32]}}      '
    )
    value = {"n": [1.5, 2**64, math.inf], "$dict": None}
    assert text_of(value) == b'{"n":[1.5,{"$int":"0x10000000000000000"},{"$float":"7ff0000000000000"}],"$dict":null}\n'
    assert Digest(1, "a")._asdict() == {"size": 1, "sha256": "a"}
