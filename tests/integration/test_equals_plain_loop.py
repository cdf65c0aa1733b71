"""The staged loop is the loop you would have written by hand, bit for bit: weights, optimizer, losses, random draws.

Each program is written twice, from the same parts. The hand-written loop is first shown to be deterministic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner, Stage, TrainState, field, stage, supervised

Run = Callable[[SimpleNamespace], list[Tensor]]


def proves_equal(build: Callable[[], SimpleNamespace], by_hand: Run, staged: Run) -> None:
    """Run both loops on parts made alike; twice the one by hand."""
    first, again, ours = (outcome_of(build, run) for run in (by_hand, by_hand, staged))
    assert first["losses"], "the loop must train on something"
    assert_same(first, again, "the loop by hand is not deterministic")
    assert_same(ours, first, "the staged loop differs")


def outcome_of(build: Callable[[], SimpleNamespace], run: Run) -> dict[str, Any]:
    """Everything a run comes to, the state of the random generator included."""
    torch.manual_seed(3)
    parts = build()
    start = {name: value.clone() for name, value in parts.model.state_dict().items()}
    losses = run(parts)
    modules = {name: part for name, part in vars(parts).items() if isinstance(part, nn.Module)}
    assert not all(torch.equal(start[name], value) for name, value in parts.model.state_dict().items())
    return {
        "losses": losses,
        "weights": {name: module.state_dict() for name, module in modules.items()},
        "modes": {name: [part.training for part in module.modules()] for name, module in modules.items()},
        "optimizer": parts.optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }


def assert_same(ours: Any, theirs: Any, told: str, path: str = "") -> None:
    """Equal to the last bit, through mappings and sequences."""
    assert type(ours) is type(theirs), f"{told}: {path}"
    if isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), f"{told}: {path}"
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), f"{told}: {path}"
        for key in ours:
            assert_same(ours[key], theirs[key], told, f"{path}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), f"{told}: {path}"
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, told, f"{path}/{number}")
    else:
        assert ours == theirs, f"{told}: {path}"


def losses_of(learner: Learner, epochs: int) -> list[Tensor]:
    """Fit, with an observer that collects the loss of every batch, of validation too."""
    losses: list[Tensor] = []

    @learner.after("batch")
    def collect(state: Any) -> None:
        losses.append(state.loss.detach().clone())

    learner.fit(epochs=epochs)
    assert learner.outcome.ok
    return losses


@pytest.mark.parametrize("audit", ["off", "writes", "summary"])
def test_mlp_with_adamw_and_a_shuffling_loader(audit: Any) -> None:
    def build() -> SimpleNamespace:
        data = TensorDataset(torch.randn(50, 6), torch.randint(0, 3, (50,)))
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        return SimpleNamespace(model=model, optimizer=optimizer, train=DataLoader(data, batch_size=8, shuffle=True))

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(4):
            parts.model.train()
            for inputs, targets in parts.train:
                parts.optimizer.zero_grad()
                loss = F.cross_entropy(parts.model(inputs), targets)
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = Learner(parts.model, F.cross_entropy, parts.optimizer, train=parts.train, device="cpu", audit=audit)
        return losses_of(learner, 4)

    proves_equal(build, by_hand, staged)


def test_conv_net_with_batchnorm_and_dropout_validated_every_epoch() -> None:
    def build() -> SimpleNamespace:
        images, labels = torch.randn(40, 1, 6, 6), torch.randint(0, 4, (40,))
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 4)
        )
        return SimpleNamespace(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            train=DataLoader(TensorDataset(images[:30], labels[:30]), batch_size=8, shuffle=True),
            valid=DataLoader(TensorDataset(images[30:], labels[30:]), batch_size=4),
        )

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        model, losses = parts.model, []
        for _ in range(3):
            model.train()
            for inputs, targets in parts.train:
                parts.optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), targets)
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
            model.eval()
            with torch.no_grad():
                losses += [F.cross_entropy(model(inputs), targets) for inputs, targets in parts.valid]
            model.train()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = Learner(
            parts.model, F.cross_entropy, parts.optimizer, train=parts.train, valid=parts.valid, device="cpu"
        )
        return losses_of(learner, 3)

    proves_equal(build, by_hand, staged)


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


def test_distillation_from_a_frozen_teacher_that_stays_as_it_was() -> None:
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


@dataclass(frozen=True)
class SharpnessAware(Stage):
    """Gradient at the worst point within rho (Foret et al. 2021)."""

    rho: float = 0.05
    reads = ("model", "model.grads", "loss_fn", "inputs", "targets")
    writes = ("outputs", "loss", "model.grads")
    touches = ("model.params", "model.buffers", "rng")
    inline = ("forward", "loss", "backward")

    def run(self, state: TrainState) -> None:
        with state.stage("forward"):
            state.outputs = state.model(state.inputs)
        with state.stage("loss"):
            state.loss = state.loss_fn(state.outputs, state.targets)
        with state.stage("backward"):
            state.loss.backward()
        sharpen(state.model, state.loss_fn, state.inputs, state.targets, self.rho)


def sharpen(model: nn.Module, loss_fn: Any, inputs: Tensor, targets: Tensor, rho: float) -> None:
    """From the gradient here to the gradient at the worst point within rho."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
    moves = [p.grad * (rho / (norm + 1e-12)) for p in parameters if p.grad is not None]
    with torch.no_grad():
        torch._foreach_add_(parameters, moves)
    model.zero_grad()
    loss_fn(model(inputs), targets).backward()
    with torch.no_grad():
        torch._foreach_sub_(parameters, moves)


def test_sharpness_aware_minimisation_in_the_slot_gradient() -> None:
    def build() -> SimpleNamespace:
        data = TensorDataset(torch.randn(40, 5), torch.randint(0, 3, (40,)))
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return SimpleNamespace(model=model, optimizer=optimizer, train=DataLoader(data, batch_size=8, shuffle=True))

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(3):
            for inputs, targets in parts.train:
                parts.optimizer.zero_grad()
                loss = F.cross_entropy(parts.model(inputs), targets)
                loss.backward()
                sharpen(parts.model, F.cross_entropy, inputs, targets, 0.05)
                parts.optimizer.step()
                losses.append(loss.detach())
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = Learner(parts.model, F.cross_entropy, parts.optimizer, train=parts.train, device="cpu")
        seen: list[float] = []
        learner.after("gradient/loss", every="2 batches")(lambda state: seen.append(state.loss.item()))
        learner.swap("gradient", SharpnessAware(rho=0.05))
        losses = losses_of(learner, 3)
        assert seen == [loss.item() for loss in losses[1::2]], "the hook on the swapped slot stays where it was"
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
def test_model_that_takes_mappings_and_computes_its_own_loss_by_one_swap(slot: str, new: Any) -> None:
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
        return losses_of(learner, 3)

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


def test_lstm_whose_hidden_state_is_carried_from_batch_to_batch() -> None:
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
        return losses_of(learner, 3)

    proves_equal(build, by_hand, staged)
