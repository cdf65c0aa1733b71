"""Frame: the values of a round, detached, as items and as attributes."""

import pytest
import torch

from learner import Frame
from learner.testing import toy_learner
from state import StateError, UnknownField


def test_values_are_items_and_attributes() -> None:
    frame = Frame({"loss": 2.0, "updates": 1})
    assert frame["loss"] == frame.loss == 2.0
    assert dict(frame) == {"loss": 2.0, "updates": 1}
    assert (len(frame), "loss" in frame, "los" in frame) == (2, True, False)
    assert repr(frame) == "Frame(loss, updates)"


def test_tensors_are_detached_also_inside_collections() -> None:
    made = torch.ones(1, requires_grad=True) * 2
    frame = Frame({"loss": made, "outputs": {"a": made, "b": (made,)}})
    assert not frame.loss.requires_grad
    assert not frame.outputs["a"].requires_grad and not frame.outputs["b"][0].requires_grad
    assert made.requires_grad


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownField, match=r"This frame has no field 'los'\. Did you mean 'loss'\?") as caught:
        _ = Frame({"loss": 1}).los
    assert isinstance(caught.value, StateError) and caught.value.nearest == "loss"


def test_get_gives_a_default_as_any_mapping_does() -> None:
    frame = Frame({"loss": 1})
    assert (frame.get("loss"), frame.get("outputs"), frame.get("outputs", 0)) == (1, None, 0)


def test_underscored_names_are_attribute_errors() -> None:
    assert not hasattr(Frame({}), "_repr_html_")


def test_frame_outlives_the_round_it_was_taken_from() -> None:
    learner = toy_learner()
    first = learner.fit_batch((torch.ones(4, 1), torch.ones(4, 1)))
    second = learner.fit_batch((torch.zeros(2, 1), torch.ones(2, 1)))
    assert (first.inputs.shape, second.inputs.shape) == ((4, 1), (2, 1))
    assert not first.loss.requires_grad
    assert not learner.state.ready("loss")
