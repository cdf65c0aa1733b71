"""ClipGradients: the clipping one would write by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learner.callbacks import ClipGradients, Mean
from learner.errors import ArgumentError


@pytest.mark.parametrize("norm_type", [2.0, float("inf")], ids=["2-norm", "greatest value"])
def test_clipped_run_is_the_loop_by_hand(make: Any, batches: Any, norm_type: float) -> None:
    learner = make(ClipGradients(0.2, norm_type=norm_type))
    learner.fit(epochs=3)

    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        for inputs, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.2, norm_type)
            optimizer.step()
    assert torch.equal(learner.state.model.weight, model.weight)
    assert torch.equal(learner.state.model.bias, model.bias)


def test_clipping_binds_and_grad_norm_is_the_norm_before_it(make: Any) -> None:
    learner = make(ClipGradients(0.01))
    rows: list[tuple[float, float]] = []

    def look(state: Any) -> None:
        norms = [p.grad.norm() for p in state.model.parameters()]
        rows.append((float(state.grad_norm), float(torch.stack(norms).norm())))

    learner.before("update")(look)
    learner.fit(epochs=1)
    assert all(before > 0.01 for before, _ in rows)
    assert [after for _, after in rows] == pytest.approx([0.01] * 3, rel=1e-3)


def test_grad_norm_is_a_field_others_can_read(make: Any) -> None:
    history = make(ClipGradients(), Mean("grad_norm")).fit(epochs=1)
    assert history["train_grad_norm"][0] > 0


def test_log_names_the_hook_as_the_last_writer_of_the_gradients(make: Any) -> None:
    learner = make(ClipGradients())
    learner.fit(epochs=1)
    assert learner.log.blame("model.grads").actor == "train/epoch/fit/batch/update:before:ClipGradients.clip"


@pytest.mark.parametrize(
    ("settings", "argument"),
    [({"max_norm": 0}, "max_norm"), ({"max_norm": "1"}, "max_norm"), ({"norm_type": -1.0}, "norm_type")],
    ids=["zero", "text", "negative norm"],
)
def test_setting_that_is_no_number_above_zero_is_refused(settings: dict[str, Any], argument: str) -> None:
    with pytest.raises(ArgumentError, match="is no number above 0") as caught:
        ClipGradients(**settings)
    assert caught.value.argument == argument
