"""Memory for copies: it is given out again, and grows with what it has to hold."""

import pytest
import torch

from state.memory import Memory
from state.tensor_files import DTYPES


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_there_is_room_for_every_dtype_and_shape_and_none_lies_over_another() -> None:
    wanted = [
        torch.randint(2, (*shape, kind.itemsize), dtype=torch.uint8).view(kind).reshape(shape)
        for kind in DTYPES.values()
        for shape in ((), (0,), (3,), (2, 0, 3), (5, 7))
    ]
    given = Memory().like(wanted)
    for one, other in zip(given, wanted, strict=True):
        assert (one.dtype, one.shape, one.is_contiguous()) == (other.dtype, other.shape, True)
        one.copy_(other)
    for one, other in zip(given, wanted, strict=True):
        assert torch.equal(one.reshape(-1, 1).view(torch.uint8), other.reshape(-1, 1).view(torch.uint8))


def test_it_is_given_out_again_until_more_is_wanted() -> None:
    memory = Memory()
    small, large = torch.zeros(1000), torch.zeros(10**6)
    (first,) = memory.like([small])
    begin = first.data_ptr()
    assert memory.like([small])[0].data_ptr() == begin
    assert memory.like([torch.zeros(2, dtype=torch.int64)])[0].data_ptr() == begin
    first.fill_(7)
    (grown,) = memory.like([large])
    grown.fill_(1)
    assert (first == 7).all()  # what somebody still holds stays
    assert memory.like([small])[0].data_ptr() == grown.data_ptr()


def test_what_was_given_out_outlives_it() -> None:
    (given,) = Memory().like([torch.zeros(10**6)])
    assert given.fill_(3).sum() == 3 * 10**6


def test_it_does_not_follow_the_default_device() -> None:
    with torch.device("meta"):
        given = Memory().like([torch.zeros(3, device="cpu"), torch.zeros(0, device="cpu")])
    assert {one.device.type for one in given} == {"cpu"}
