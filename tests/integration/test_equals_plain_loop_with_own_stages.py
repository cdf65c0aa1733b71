"""With stages of the user's own the staged loop is still the one written by hand, bit for bit.

Each program is written twice, from the same parts. The hand-written loop is first shown to be deterministic.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner, TrainState, field, stage, supervised


class DistillState(TrainState):
    teacher: nn.Module
    teacher_outputs: Tensor = field(scope="batch")


@stage(state=DistillState, writes=("teacher_outputs",))
def teach(inputs: Tensor, teacher: nn.Module) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = teacher(inputs)
    return outputs


@stage(state=DistillState, writes=("loss",))
def distillation_loss(outputs: Tensor, targets: Tensor, teacher_outputs: Tensor) -> Tensor:
    soft = F.kl_div(outputs.log_softmax(1), teacher_outputs.softmax(1), reduction="batchmean")
    return F.cross_entropy(outputs, targets) + soft


def test_distillation_from_a_frozen_teacher_that_stays_as_it_was(
    proves_equal: Any, losses_of: Any, assert_same: Any
) -> None:
    def build() -> SimpleNamespace:
        data = TensorDataset(torch.randn(40, 5), torch.randint(0, 3, (40,)))
        teacher = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3)).eval()
        teacher[1].running_mean.normal_()
        model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.1), nn.Linear(4, 3))
        return SimpleNamespace(
            model=model,
            teacher=teacher,
            optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
            train=DataLoader(data, batch_size=8, shuffle=True),
        )

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(3):
            parts.model.train()
            for inputs, targets in parts.train:
                with torch.no_grad():
                    soft = parts.teacher(inputs)
                parts.optimizer.zero_grad()
                loss = distillation_loss(parts.model(inputs), targets, soft)
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        models = {"model": parts.model, "teacher": parts.teacher}
        before = {name: value.clone() for name, value in parts.teacher.state_dict().items()}
        learner = Learner(models, F.cross_entropy, parts.optimizer, train=parts.train, device="cpu")
        learner.insert(teach, before="gradient")
        learner.swap("gradient/loss", distillation_loss)
        losses = losses_of(learner, 3)
        assert_same(dict(parts.teacher.state_dict()), before, "the teacher changed")
        assert all(parameter.grad is None for parameter in parts.teacher.parameters())
        return losses

    proves_equal(build, by_hand, staged)


class Tagger(nn.Module):
    """Takes a batch of named tensors and computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.head(self.embed(batch["tokens"]).mean(1))
        return {"loss": F.cross_entropy(logits, batch["labels"]), "logits": logits}


@stage(writes=("inputs", "targets"))
def unpack_mapping(batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    return batch, batch["labels"]


@stage(writes=("loss", "model.grads", "model.params", "optimizer.state", "updates"))
def train_on(batch: Any, model: nn.Module, optimizer: torch.optim.Optimizer, updates: int) -> tuple[Tensor, int]:
    optimizer.zero_grad()
    loss: Tensor = model(batch)["loss"]
    loss.backward()
    optimizer.step()
    return loss, updates + 1


@pytest.mark.parametrize(("slot", "new"), [("unpack", unpack_mapping), ("fit/batch", train_on)])
def test_model_that_takes_mappings_and_computes_its_own_loss_by_one_swap(
    slot: str, new: Any, proves_equal: Any, losses_of: Any
) -> None:
    def build() -> SimpleNamespace:
        rows = [{"tokens": torch.randint(0, 10, (5,)), "labels": torch.randint(0, 3, ())} for _ in range(30)]
        model = Tagger()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return SimpleNamespace(model=model, optimizer=optimizer, train=DataLoader(rows, batch_size=4, shuffle=True))

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(3):
            for batch in parts.train:
                parts.optimizer.zero_grad()
                loss = parts.model(batch)["loss"]
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        own_loss = lambda outputs, targets: outputs["loss"]  # noqa: E731  # as a user writes it
        learner = Learner(parts.model, own_loss, parts.optimizer, train=parts.train, device="cpu")
        learner.swap(slot, new)
        losses: list[Tensor] = losses_of(learner, 3)
        return losses

    proves_equal(build, by_hand, staged)


class CarryState(TrainState):
    hidden: tuple[Tensor, Tensor] | None = field(scope="phase", default=None, description="(h, c), detached")


@stage(state=CarryState, writes=("outputs", "hidden"))
def carry(model: nn.Module, inputs: Tensor, hidden: Any) -> tuple[Tensor, Any]:
    outputs, (h, c) = model(inputs, hidden)
    return outputs, (h.detach(), c.detach())


class Predictor(nn.Module):
    """An LSTM and a head: the next value of each of its sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 6, batch_first=True)
        self.head = nn.Linear(6, 1)

    def forward(self, inputs: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        outputs, hidden = self.lstm(inputs, hidden)
        return self.head(outputs), hidden


def test_lstm_whose_hidden_state_is_carried_from_batch_to_batch(proves_equal: Any, losses_of: Any) -> None:
    def build() -> SimpleNamespace:
        series = torch.randn(4, 31, 1).cumsum(1)
        windows = [(series[:, i : i + 5], series[:, i + 1 : i + 6]) for i in range(0, 25, 5)]
        model = Predictor()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        return SimpleNamespace(model=model, optimizer=optimizer, train=windows[:4], valid=windows[4:])

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        model, losses = parts.model, []
        for _ in range(3):
            hidden = None
            for inputs, targets in parts.train:
                parts.optimizer.zero_grad()
                outputs, hidden = model(inputs, hidden)
                hidden = tuple(part.detach() for part in hidden)
                loss = F.mse_loss(outputs, targets)
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
            model.eval()
            with torch.no_grad():
                hidden = None
                for inputs, targets in parts.valid:
                    outputs, hidden = model(inputs, hidden)
                    losses.append(F.mse_loss(outputs, targets))
            model.train()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        tree = supervised().swap("fit/batch/gradient/forward", carry).swap("validate/batch/forward", carry)
        data = {"train": parts.train, "valid": parts.valid}
        learner = Learner(parts.model, F.mse_loss, parts.optimizer, **data, stages=tree, device="cpu")
        losses: list[Tensor] = losses_of(learner, 3)
        return losses

    proves_equal(build, by_hand, staged)
