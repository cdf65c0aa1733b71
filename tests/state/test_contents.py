"""Contents of tensors: the bytes or the digest that tell them apart."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from state.contents import FEW, SLICE, Eye, digest, fingerprint, slice_at

ALL_DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
]
LONG = 70_001  # elements: many rows of lanes, and a rest


def bits(dtype: torch.dtype, size: int) -> Tensor:
    """Any bits as `size` elements of a dtype, NaN and denormal numbers among them; of bool 0 and 1 only."""
    count = size * torch.empty(0, dtype=dtype).itemsize
    return torch.randint(2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8).view(dtype)


def read(tensor: Tensor) -> Any:
    return Eye(reads=True).read(tensor)


def told(tensor: Tensor) -> list[Any]:
    """What tells a tensor apart, in each way that there is."""
    return [int(digest(tensor)), read(tensor)]


@pytest.mark.parametrize("size", [1, 2, 5, 64, LONG])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_equal_bits_are_told_alike_whatever_their_place_in_memory(dtype: torch.dtype, size: int) -> None:
    tensor = bits(dtype, size)
    known = told(tensor)
    assert told(tensor.clone()) == known
    assert Eye(reads=True).see(tensor).bits == known[1]
    raw = tensor.view(torch.uint8)
    shifted = torch.cat([raw[: tensor.itemsize], raw]).view(dtype)[1:]
    assert shifted.storage_offset() == 1
    strided = torch.stack([tensor.view(torch.uint8).view(size, -1)] * 2, 1).view(dtype)[:, 0].view(size)
    assert told(shifted) == told(strided) == known
    assert told(tensor.view(1, size, 1))[0] == known[0]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3)], ids=str)
def test_every_shape_can_be_read(shape: tuple[int, ...]) -> None:
    assert told(torch.ones(shape)) == told(torch.ones(shape))
    assert (told(torch.ones(shape)) == told(torch.zeros(shape))) == (0 in shape)


def test_views_are_told_as_what_they_show() -> None:
    matrix = torch.randn(40, 50)
    for view in (matrix.t(), matrix[::2], matrix[:, 1:], matrix[0].expand(300, 50), matrix.view(2, 20, 50).mT):
        assert told(view) == told(view.clone(memory_format=torch.contiguous_format))
    pair = torch.randn(5, dtype=torch.cfloat)
    assert int(digest(pair.conj())) == int(digest(pair.conj().resolve_conj())) != int(digest(pair))


@pytest.mark.parametrize("size", [3, LONG])
@pytest.mark.parametrize("dtype", [dtype for dtype in ALL_DTYPES if dtype != torch.bool], ids=str)
@given(data=st.data())
@settings(max_examples=20)
def test_a_single_flipped_bit_is_told(dtype: torch.dtype, size: int, data: Any) -> None:
    tensor = torch.zeros(size * torch.empty(0, dtype=dtype).itemsize, dtype=torch.uint8) + 77
    known = told(tensor.view(dtype))
    place = data.draw(st.integers(0, len(tensor) - 1))
    tensor[place] ^= 1 << data.draw(st.integers(0, 7))
    now = told(tensor.view(dtype))
    assert now[0] != known[0]
    assert now[1] != known[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int8], ids=str)
@given(data=st.data())
@settings(max_examples=20)
def test_a_swap_of_two_unequal_elements_is_told(dtype: torch.dtype, data: Any) -> None:
    tensor = torch.zeros(LONG, dtype=dtype)
    places = st.integers(0, LONG - 1)
    one, other = data.draw(st.tuples(places, places).filter(lambda pair: pair[0] != pair[1]))
    tensor[one], tensor[other] = data.draw(st.sampled_from([(1, -1), (1, 2), (0, 1), (-3, 5)]))
    known = told(tensor)
    tensor[[one, other]] = tensor[[other, one]]
    now = told(tensor)
    assert now[0] != known[0]
    assert now[1] != known[1]


EDITS: dict[str, Callable[[Tensor], Any]] = {
    "one unit in the last place": lambda x: x[3, 2].copy_(torch.nextafter(x[3, 2], x.new_tensor(9.0))),
    "the sign of one": lambda x: x[1, 1].neg_(),
    "the signs of two": lambda x: x.view(-1)[:2].neg_(),
    "a row negated": lambda x: x[2].neg_(),
    "all negated": lambda x: x.neg_(),
    "rows permuted": lambda x: x.copy_(x.roll(1, 0)),
    "columns permuted": lambda x: x.copy_(x.roll(1, 1)),
    "reversed": lambda x: x.copy_(x.flip(0, 1)),
    "sorted": lambda x: x.copy_(x.view(-1).sort().values.view_as(x)),
    "doubled": lambda x: x.mul_(2),
    "two rows exchanged": lambda x: x[:2].copy_(x[:2].flip(0)),
}


@pytest.mark.parametrize("shape", [(6, 4), (300, 250)], ids=["few", "many"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edit_is_told(edit: Callable[[Tensor], Any], dtype: torch.dtype, shape: tuple[int, int]) -> None:
    tensor = torch.randn(shape, dtype=dtype)
    known = told(tensor)
    edit(tensor)
    now = told(tensor)
    assert now[0] != known[0]
    assert now[1] != known[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8], ids=str)
def test_constants_are_told_apart(dtype: torch.dtype) -> None:
    values = [0, 1, 2, 3, 4, 8, 100] + ([-1, -2, 0.5, float("nan"), float("inf")] if dtype.is_floating_point else [])
    for size in (2, 64, LONG):
        assert len({int(digest(torch.full((size,), value, dtype=dtype))) for value in values}) == len(values)
    assert int(digest(torch.tensor([0.0]))) != int(digest(torch.tensor([-0.0])))


def test_nan_equals_itself_bit_for_bit() -> None:
    tensor = torch.full((LONG,), float("nan"))
    known = told(tensor)
    assert told(tensor) == known
    tensor.view(torch.int32)[17] += 1
    assert told(tensor)[0] != known[0]


def test_few_bytes_are_kept_and_many_are_condensed() -> None:
    few, many = torch.ones(FEW // 4), torch.ones(FEW // 4 + 1)
    assert len(read(few)) == FEW
    assert len(read(many)) == 8


class Wrapping(Tensor):
    """A subclass that holds another tensor and has no memory of its own."""

    def __new__(cls, inner: Tensor) -> Any:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(cls, *_: Any) -> Any:
        raise NotImplementedError


def freed(size: int) -> Tensor:
    tensor = torch.ones(size)[2:]
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.ones(2, device="meta"),
        lambda: nn.LazyLinear(2).weight,
        lambda: Wrapping(torch.ones(2)),
        lambda: freed(8),
        lambda: freed(LONG),
    ],
    ids=["sparse", "meta", "lazy", "wrapping", "freed", "long freed"],
)
def test_what_has_no_bytes_is_told_as_none(make: Callable[[], Tensor]) -> None:
    assert read(make()) is None


@pytest.mark.parametrize("size", [4, LONG])
def test_reading_leaves_the_tensor_and_the_modes_alone(size: int) -> None:
    parameter = nn.Parameter(torch.randn(size))
    before = (parameter._version, parameter.requires_grad, parameter.data_ptr(), torch.get_rng_state())
    with torch.inference_mode():
        frozen = torch.ones(size)
    assert read(frozen) is not None
    assert read(parameter) is not None
    after = (parameter._version, parameter.requires_grad, parameter.data_ptr(), torch.get_rng_state())
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3])
    assert parameter._use_count() == 1  # so that torch.utils.swap_tensors still takes it
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("size", [FEW + 1, 5 * SLICE, 5 * SLICE + 7])
def test_slices_of_all_turns_are_the_whole(size: int) -> None:
    turns = -(-size // SLICE)
    slices = [slice_at(turn, size) for turn in range(turns)]
    assert [byte for start, end in slices for byte in range(start, end)] == list(range(size))
    assert slice_at(turns, size) == slices[0]


def test_an_eye_with_a_turn_reads_one_slice_of_large_tensors_and_all_of_others() -> None:
    large, small, strided = torch.zeros(FEW), torch.zeros(8), torch.zeros(FEW, 2).t()
    seen = [Eye(reads=True, turn=turn).see(large) for turn in (0, 1)]
    large[-1] = 1  # in the last of sixteen slices
    again = [Eye(reads=True, turn=turn).see(large) for turn in (0, 1, 15)]
    assert [one.bits for one in again[:2]] == [one.bits for one in seen]
    assert again[2].bits != seen[0].bits
    assert [one.turn for one in again] == [0, 1, 15]
    assert [Eye(reads=True, turn=5).see(one).turn for one in (small, strided)] == [None, None]


def test_what_an_accelerator_promised_is_there_in_the_end() -> None:
    eye = Eye(reads=True)
    tensors = [torch.randn(5), torch.randn(LONG), torch.ones(3, dtype=torch.bool), torch.tensor(2.0), torch.zeros(0)]
    promised = [eye._promise(tensor) for tensor in tensors]  # as if they were on one
    assert promised == [b""] * 5
    eye.finish()
    assert promised == [read(tensor) for tensor in tensors]


@pytest.mark.gpu
def test_a_device_tells_as_the_cpu_does() -> None:
    eye = Eye(reads=True)
    tensors = [bits(dtype, size) for dtype in ALL_DTYPES for size in (3, LONG)]
    promised = [eye.read(tensor.cuda()) for tensor in tensors]
    eye.finish()
    assert promised == [read(tensor) for tensor in tensors]


def module(*contents: Tensor) -> nn.Module:
    made = nn.Module()
    for index, tensor in enumerate(contents):
        made.register_parameter(f"p{index}", nn.Parameter(tensor.clone(), requires_grad=False))
    return made


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.cfloat, torch.int64, torch.uint8]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 4), (5,), (1, 1), ()], ids=str)
def test_equal_contents_have_equal_fingerprints(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    contents = torch.rand(shape).mul(100).to(dtype)
    found = fingerprint(module(contents))
    assert len(found) == 16
    assert int(found, 16) >= 0
    assert fingerprint(module(contents)) == found
    assert fingerprint(module(contents.clone().t().contiguous().t() if contents.ndim == 2 else contents)) == found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_one_unit_in_the_last_place_changes_it(dtype: torch.dtype) -> None:
    contents = torch.rand(7, 3, dtype=dtype)
    for index in range(contents.numel()):
        changed = contents.clone()
        element = changed.view(-1)[index]
        element.copy_(torch.nextafter(element, torch.tensor(2.0, dtype=dtype)))
        assert fingerprint(module(changed)) != fingerprint(module(contents))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@given(values=st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=12), data=st.data())
def test_a_swap_or_a_change_of_sign_changes_it(dtype: torch.dtype, values: list[float], data: Any) -> None:
    contents = torch.tensor(values, dtype=dtype)
    indices = st.integers(0, len(values) - 1)
    one, other = data.draw(indices), data.draw(indices)
    swapped, negated = contents.clone(), contents.clone()
    swapped[[one, other]] = contents[[other, one]]
    negated[min(one, other) : max(one, other) + 1] *= -1
    for changed in (swapped, negated):
        is_same = torch.equal(changed, contents) and torch.equal(changed.signbit(), contents.signbit())
        assert (fingerprint(module(changed)) == fingerprint(module(contents))) == is_same


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_negated_rows_and_opposite_signs_change_it(dtype: torch.dtype) -> None:
    contents = torch.randn(6, 4, dtype=dtype)
    seen = {fingerprint(module(contents))}
    for row in range(6):
        changed = contents.clone()
        changed[row] *= -1
        seen.add(fingerprint(module(changed)))
    assert len(seen) == 7
    pair = torch.tensor([1.0, -1.0], dtype=dtype)
    assert fingerprint(module(pair)) != fingerprint(module(pair.flip(0)))
    assert fingerprint(module(torch.ones(1), pair)) != fingerprint(module(torch.ones(1), pair.flip(0)))


def test_where_a_value_stands_counts() -> None:
    one, two = torch.ones(2), torch.zeros(2)
    found = [
        module(one, two),
        module(two, one),
        module(torch.cat([one, two])),
        module(one),
        module(torch.cat([one, torch.zeros(1)])),
        module(),
        module(torch.zeros(0)),
    ]
    assert len({fingerprint(each) for each in found}) == len(found)


def test_parameters_without_contents_do_no_harm() -> None:
    for made in (nn.LazyLinear(2), nn.Linear(2, 2, device="meta"), module(torch.eye(2).to_sparse()), nn.ReLU()):
        assert len(fingerprint(made)) == 16


def test_reading_the_fingerprint_changes_nothing() -> None:
    model = nn.Linear(2, 2)
    versions = [parameter._version for parameter in model.parameters()]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    fingerprint(model)
    assert [parameter._version for parameter in model.parameters()] == versions
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
