"""What happens to the data on their way, and to the rates: mixup, unfreezing, a plateau, validation within an epoch.

Each is, bit for bit, the loop by hand.
"""

import operator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from learner import Callback, Learner, Outcome, after, stage, supervised
from learner.callbacks import Schedule
from learner.recipes import validate
from stages import Every


def parts_for(frozen: bool = False) -> SimpleNamespace:
    """A network that keeps statistics and draws random numbers, and loaders; `frozen`: only the head is trained."""
    inputs, targets = torch.randn(46, 5), torch.randint(0, 3, (46,))
    body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))
    model = nn.Sequential(body, nn.Linear(8, 3))
    if frozen:
        body.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return SimpleNamespace(
        model=model,
        optimizer=torch.optim.SGD(trained, lr=0.5, momentum=0.9),
        train=DataLoader(TensorDataset(inputs[:38], targets[:38]), batch_size=8, shuffle=True),
        valid=DataLoader(TensorDataset(inputs[38:], targets[38:]), batch_size=5),
    )


def learner_of(parts: SimpleNamespace, **settings: Any) -> Learner:
    data = {"train": parts.train, "valid": parts.valid, "device": "cpu"}
    return Learner(parts.model, F.cross_entropy, parts.optimizer, **data, **settings)


def updated(parts: SimpleNamespace, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of one update by hand."""
    parts.optimizer.zero_grad()
    loss = F.cross_entropy(parts.model(inputs), targets)
    loss.backward()
    parts.optimizer.step()
    return loss.detach()


def validated(parts: SimpleNamespace) -> list[tuple[Tensor, int]]:
    """The loss and the size of each validation batch, by hand."""
    parts.model.eval()
    with torch.no_grad():
        found = [(F.cross_entropy(parts.model(inputs), targets), len(targets)) for inputs, targets in parts.valid]
    parts.model.train()
    return found


def mixed(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample mixed with another of its batch (Zhang et al. 2018); the targets as probabilities of 3 classes."""
    share = torch.distributions.Beta(0.4, 0.4).sample()
    others = torch.randperm(len(inputs))
    classes = F.one_hot(targets, 3).float()
    return inputs.lerp(inputs[others], share), classes.lerp(classes[others], share)


class Mixup(Callback):
    """Mix the samples of each training batch."""

    @after("fit/batch/unpack", writes=("inputs", "targets"), touches=("rng",))
    def mix(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return mixed(inputs, targets)


mixup = stage(writes=("inputs", "targets"), touches=("rng",))(mixed)


@pytest.mark.parametrize("how", ["callback", "stage"])
def test_mixup(how: str, proves_equal: Any, losses_of: Any) -> None:
    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(3):
            losses += [updated(parts, *mixed(inputs, targets)) for inputs, targets in parts.train]
            losses += [loss for loss, _ in validated(parts)]
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = learner_of(parts, callbacks=[Mixup()] if how == "callback" else [])
        if how == "stage":
            learner.insert(mixup, after="fit/batch/unpack")
        losses: list[Tensor] = losses_of(learner, 3)
        return losses

    proves_equal(parts_for, by_hand, staged)


class Unfreeze(Callback):
    """Train the body too, from the third epoch on, as a parameter group with a rate of its own."""

    @after("epoch", writes=("optimizer.hyper", "model.mode"))
    def thaw(self, model: nn.Module, optimizer: Optimizer, epochs_done: int, outcome: Outcome) -> None:
        if outcome.ok and epochs_done == 2:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.05})


def test_unfreezing_with_a_new_parameter_group_and_a_plateau_schedule(proves_equal: Any, losses_of: Any) -> None:
    def plateau(optimizer: Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.05)

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses, scheduler = [], plateau(parts.optimizer)
        for epoch in range(5):
            losses += [updated(parts, inputs, targets) for inputs, targets in parts.train]
            found = validated(parts)
            losses += [loss for loss, _ in found]
            scheduler.step(sum(loss.item() * size for loss, size in found) / sum(size for _, size in found))
            if epoch == 1:
                parts.model[0].requires_grad_(True)
                parts.optimizer.add_param_group({"params": parts.model[0].parameters(), "lr": 0.05})
        rates = [group["lr"] for group in parts.optimizer.param_groups]
        assert rates[0] < 0.5 and rates[1] < 0.05, "a plateau came, also with both groups"
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        start = [parameter.clone() for parameter in parts.model[0].parameters()]
        callbacks = [(Schedule(plateau, per="epoch", monitor="valid_loss"), Unfreeze())]
        learner = learner_of(parts, callbacks=callbacks, invariants=())  # statistics of what is frozen go on moving
        losses: list[Tensor] = losses_of(learner, 2)
        assert all(map(torch.equal, start, parts.model[0].parameters())), "frozen for two epochs"
        learner.hooks.remove("collect")
        more: list[Tensor] = losses_of(learner, 3)
        return losses + more

    proves_equal(lambda: parts_for(frozen=True), by_hand, staged)


def test_validation_every_three_batches_within_the_epoch(proves_equal: Any, losses_of: Any) -> None:
    """Five batches an epoch, so validation follows batches 3, 6, 9, ... of the run."""

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses, batches = [], 0
        for _ in range(4):
            for inputs, targets in parts.train:
                losses.append(updated(parts, inputs, targets))
                batches += 1
                if batches % 3 == 0:
                    losses += [loss for loss, _ in validated(parts)]
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        tree = supervised().remove("validate").insert(Every("3 batches", validate()), after="fit/batch")
        learner = learner_of(parts, stages=tree)
        outer: list[tuple[Any, ...]] = []
        for hook in (learner.before, learner.after):
            hook("every")(lambda state: outer.append((state.batch_index, state.loss, state.inputs, state.targets)))
        losses: list[Tensor] = losses_of(learner, 4)
        for before, behind in zip(outer[::2], outer[1::2], strict=True):
            assert all(map(operator.is_, before, behind)), "the values of the training batch are there again"
        sums = [loss.item() * len(targets) for _, loss, _, targets in outer[::2]]
        assert learner.history["train_loss"] == [sum(sums[i : i + 5]) / 38 for i in (0, 5, 10, 15)]
        return losses

    proves_equal(parts_for, by_hand, staged)
