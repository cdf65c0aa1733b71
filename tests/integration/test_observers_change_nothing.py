"""Observation is free of consequence: neither observers at every point nor any level of the log change a bit."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner
from learner.callbacks import Accuracy
from learner.testing import events


def build() -> SimpleNamespace:
    inputs, targets = torch.randn(40, 6), torch.randint(0, 3, (40,))
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    return SimpleNamespace(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        train=DataLoader(TensorDataset(inputs[:28], targets[:28]), batch_size=8, shuffle=True),
        valid=DataLoader(TensorDataset(inputs[28:], targets[28:]), batch_size=8),
    )


def learner_of(parts: SimpleNamespace, **settings: Any) -> Learner:
    data = {"train": parts.train, "valid": parts.valid}
    return Learner(parts.model, F.cross_entropy, parts.optimizer, **data, device="cpu", **settings)


def plain(parts: SimpleNamespace) -> list[Tensor]:
    """The run to compare with: nothing logged, nothing looked at but the losses of the history."""
    history = learner_of(parts, audit="off").fit(epochs=2)
    return [torch.tensor([row["train_loss"], row["valid_loss"]]) for row in history]


def look_at_everything(state: Any) -> None:
    """Read every field there is, print the view, and count the tensors."""
    for name in dir(state):
        if state.ready(name):
            getattr(state, name)
    assert "model" in repr(state)
    assert state.components(nn.Module)


def test_observers_at_every_point_change_no_bit(outcome_of: Any, assert_same: Any) -> None:
    def observed(parts: SimpleNamespace) -> list[Tensor]:
        learner = learner_of(parts)
        seen = events(learner)
        for place in learner.assembly.places:
            learner.before(place.path)(look_at_everything)
            learner.after(place.path)(look_at_everything)
        history = learner.fit(epochs=2)
        assert len(seen) > 200 and seen.count("after checkpoint: ok") == 2 * (4 + 2) + 2
        return [torch.tensor([row["train_loss"], row["valid_loss"]]) for row in history]

    assert_same(outcome_of(build, observed), outcome_of(build, plain), "observers changed something")


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(
    "audit",
    ["off", "writes", "summary", "stats", "full", "full/3", {"*": "writes", "loss": "summary", "model": "full"}],
)
def test_no_level_of_the_log_changes_a_bit(
    audit: Any, on_disk: bool, tmp_path: Path, outcome_of: Any, assert_same: Any
) -> None:
    def logged(parts: SimpleNamespace) -> list[Tensor]:
        learner = learner_of(parts, audit=audit, run_dir=tmp_path / "runs" if on_disk else None)
        history = learner.fit(epochs=2)
        if audit != "off":
            last = learner.log.blame("model.params")
            assert last is not None and str(last.actor) == "train/epoch/fit/batch/update"
        learner.close()
        return [torch.tensor([row["train_loss"], row["valid_loss"]]) for row in history]

    assert_same(outcome_of(build, logged), outcome_of(build, plain), "the log changed something")


def test_a_metric_changes_no_bit(outcome_of: Any, assert_same: Any) -> None:
    def measured(parts: SimpleNamespace) -> list[Tensor]:
        history = learner_of(parts, callbacks=[Accuracy()]).fit(epochs=2)
        assert "valid_accuracy" in history[-1]
        return [torch.tensor([row["train_loss"], row["valid_loss"]]) for row in history]

    assert_same(outcome_of(build, measured), outcome_of(build, plain), "the metric changed something")
