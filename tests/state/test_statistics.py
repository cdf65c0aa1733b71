"""Statistics: the numbers are those of torch, and a fingerprint tells one set of bits from another."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from state.contents import fingerprint
from state.insides import Inside
from state.recording import Recording
from state.records import Records
from state.statistics import Summary
from state.stores import MemoryStore
from state.summaries import Summaries


def kept(value: Any, level: str = "stats") -> Any:
    """What a reader of the log gets of a written value."""
    store = MemoryStore()
    recording = Recording(store, level)
    recording.actor("train/fit", "stage", "")
    recording.field("outputs", "batch", "Any", "")
    slot = recording.slot("train/fit", "write", "outputs", "write")
    assert slot is not None
    recording.write(slot, value)
    recording.flush()
    return next(Records(store).read()).value


def kept_part(tensors: dict[str, Tensor | None], *, full: bool = False) -> Any:
    """The same of a part with these tensors, before it is stored; its first entry is the number of a text."""
    return Summaries({}).part(Inside(list(tensors), list(tensors.values())), fingerprint=full)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
def test_numbers_of_a_tensor_are_those_of_torch(dtype: torch.dtype) -> None:
    value = (torch.randn(30, 4) * 5).abs().to(dtype)
    found, wide = kept(value), value.double()
    assert found.text == f"{dtype}[30, 4]".removeprefix("torch.")
    numbers = torch.tensor([found.low, found.high, found.mean, found.norm])
    assert torch.allclose(numbers, torch.stack([wide.min(), wide.max(), wide.mean(), wide.norm()]).float(), rtol=1e-5)
    assert found.is_finite and found.fingerprint is None and found.where is None


def test_bools_count_as_zero_and_one_and_complex_numbers_by_their_size() -> None:
    assert kept(torch.tensor([True, False]))[1:5] == (0.0, 1.0, 0.5, 1.0)
    assert kept(torch.tensor([3 + 4j, 0]))[1:5] == (0.0, 5.0, 2.5, 5.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_not_finite_is_told(bad: float) -> None:
    value = torch.zeros(50)
    value[17] = bad
    assert not kept(value).is_finite
    assert kept(torch.tensor(bad)) == bad or math.isnan(kept(torch.tensor(bad))), "a scalar is kept as it is"


@pytest.mark.parametrize("value", [1.5, None, "text", torch.tensor(2.0), nn.ReLU(), torch.zeros(0, 3), [1, 2]])
@pytest.mark.parametrize("level", ["stats", "full"])
def test_of_all_else_the_summary_is_kept(value: Any, level: str) -> None:
    assert kept(value, level) == kept(value, "summary")


@pytest.mark.parametrize("value", [torch.eye(2).to_sparse(), torch.ones(2, device="meta")], ids=["sparse", "meta"])
def test_what_has_no_elements_to_read_has_its_summary(value: Tensor) -> None:
    assert kept(value, "full") == kept(value, "summary")


def test_a_batch_is_measured_as_all_the_tensors_in_it() -> None:
    found = kept((torch.full((4,), 3.0), {"mask": torch.full((4,), 4.0)}))
    assert found == ("tuple[2]", None, None, None, 10.0, None, None)
    worse = kept((torch.zeros(2), {"mask": torch.tensor([math.nan])}))
    assert worse.where == "1.mask" and not worse.is_finite


def test_a_fingerprint_tells_one_unit_in_the_last_place_and_not_one_copy_from_another() -> None:
    value = torch.randn(300, 100)
    known = kept(value, "full").fingerprint
    assert len(known) == 16 and kept(value.clone(), "full").fingerprint == known
    assert kept(value.t().contiguous().t(), "full").fingerprint == known, "by what it shows, not by its strides"
    value[7, 7] = torch.nextafter(value[7, 7], torch.tensor(9.0))
    assert kept(value, "full").fingerprint != known


def test_a_part_has_the_norm_of_all_and_the_name_of_the_first_that_is_not_finite() -> None:
    tensors = {"0.weight": torch.full((2, 2), 3.0), "0.bias": torch.full((4,), 4.0), "lazy": None}
    assert kept_part(tensors)[1:] == [None, None, None, 10.0, None, None]
    tensors["0.bias"][1] = math.nan  # type: ignore[index]
    *_, where = kept_part(tensors)
    assert where == "0.bias"
    assert kept_part({"0.weight": None}) is None


def test_a_part_has_the_fingerprint_that_the_log_keeps_of_the_first_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    found = kept_part(dict(model.named_parameters()), full=True)
    assert found[5] == fingerprint(model)


def test_a_summary_reads_as_one_line() -> None:
    told = str(kept(torch.tensor([1.0, 2.0, 6.0]), "full"))
    assert re.fullmatch(r"float32\[3\] #[0-9a-f]{8}, 1 to 6, mean 3, norm 6.403", told)
    assert (
        str(Summary("2 tensors", None, None, None, math.inf, None, "0.bias"))
        == "2 tensors, norm inf, 0.bias is not finite"
    )


def test_measuring_keeps_no_graph_and_moves_no_version() -> None:
    value = torch.randn(3, requires_grad=True) * 2
    version = value._version
    kept(value, "full")
    assert value._version == version and value.grad_fn is not None


@pytest.mark.gpu
def test_numbers_on_a_device_are_read_at_the_save() -> None:
    value = torch.tensor([1.0, 2.0, 6.0], device="cuda")
    assert kept(value, "full")[1:] == kept(value.cpu(), "full")[1:]
