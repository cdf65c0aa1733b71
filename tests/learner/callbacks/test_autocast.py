"""Autocast: the stages that it names run in half precision, and those only."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learner import GraphError
from learner.callbacks import Autocast
from learner.errors import ArgumentError


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_named_slots_are_cast_as_by_hand(make: Any, batches: Any, dtype: torch.dtype) -> None:
    learner = make(Autocast(dtype))
    learner.debug()
    learner.fit(epochs=2)

    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for inputs, targets in batches:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
    assert torch.equal(learner.state.model.weight, model.weight)


def test_slot_that_is_not_named_is_not_cast(make: Any) -> None:
    learner = make(Autocast(slots=("gradient/forward",)))
    seen: set[tuple[str, torch.dtype]] = set()
    learner.after("forward", within="fit")(lambda state: seen.add(("fit", state.outputs.dtype)))
    learner.after("forward", within="validate")(lambda state: seen.add(("validate", state.outputs.dtype)))
    learner.fit(epochs=1)
    assert seen == {("fit", torch.bfloat16), ("validate", torch.float32)}


def test_autocast_ends_when_its_stage_fails(make: Any) -> None:
    learner = make(Autocast())

    def fail(outputs: Any, targets: Any) -> Any:
        raise RuntimeError("no")

    learner.state.loss_fn = fail
    with pytest.raises(RuntimeError, match="no"):
        learner.fit(epochs=1)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"dtype": torch.float32}, "dtype=torch.float32 is neither torch.bfloat16 nor torch.float16"),
        ({"dtype": "bf16"}, "is neither"),
        ({"slots": "forward"}, r"Write \('forward',\)"),
        ({"slots": ()}, "is no tuple of slots"),
        ({"slots": None}, "is no tuple of slots"),
    ],
    ids=["float32", "text", "one slot", "no slot", "None"],
)
def test_setting_that_cannot_be_used_is_refused(settings: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        Autocast(**settings)


def test_slot_that_is_not_there_is_refused_with_the_nearest(make: Any) -> None:
    with pytest.raises(GraphError, match="Autocast.cast asks for 'forwrad'.*Did you mean 'forward'"):
        make(Autocast(slots=("forwrad",)))


@pytest.mark.gpu
def test_cast_is_for_the_device_of_the_learner(make: Any) -> None:
    learner = make(Autocast(), device="cuda")
    seen: set[torch.dtype] = set()
    learner.after("forward")(lambda state: seen.add(state.outputs.dtype))
    learner.fit(epochs=1)
    assert seen == {torch.bfloat16}
