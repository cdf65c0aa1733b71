"""Several batches for one update, a batch in several parts: bit for bit as by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from learner import Callback, Cancel, Composite, Learner, after, supervised
from learner.callbacks import Schedule


def parts_for(samples: int, batch_size: int) -> SimpleNamespace:
    """A network that keeps statistics and draws random numbers, and a loader that shuffles."""
    data = TensorDataset(torch.randn(samples, 5), torch.randint(0, 3, (samples,)))
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return SimpleNamespace(model=model, optimizer=optimizer, train=DataLoader(data, batch_size, shuffle=True))


def learner_of(parts: SimpleNamespace, tree: Composite, callbacks: tuple[Callback, ...] = ()) -> Learner:
    settings = {"train": parts.train, "stages": tree, "callbacks": callbacks, "device": "cpu"}
    return Learner(parts.model, F.cross_entropy, parts.optimizer, **settings)


class ClipWindow(Callback):
    """Clip the average over a window, once for each update."""

    @after("average_gradients", reads=("model.grads",), writes=("model.grads",))
    def clip(self, model: nn.Module) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)


@pytest.mark.parametrize(("window", "batches"), [(4, 10), (3, 10), (4, 3), (5, 10)])
def test_accumulation_with_an_incomplete_last_window_clipped_and_scheduled_per_update(
    window: int, batches: int, proves_equal: Any, losses_of: Any
) -> None:
    updates = 2 * -(-batches // window)

    def schedule(optimizer: Optimizer) -> OneCycleLR:
        return OneCycleLR(optimizer, max_lr=0.2, total_steps=updates)

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        model, optimizer, losses = parts.model, parts.optimizer, []
        scheduler = schedule(optimizer)
        for _ in range(2):
            optimizer.zero_grad()
            size = 0
            for number, (inputs, targets) in enumerate(parts.train, start=1):
                loss = F.cross_entropy(model(inputs), targets)
                loss.backward()
                losses.append(loss.detach())
                size += 1
                if size == window or number == len(parts.train):
                    for parameter in model.parameters():
                        parameter.grad /= size
                    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                    size = 0
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        tree = supervised(valid=False, accumulate=window)
        learner = learner_of(parts, tree, (ClipWindow(), Schedule(schedule)))
        losses: list[Tensor] = losses_of(learner, 2)
        assert learner.state.updates == updates
        return losses

    proves_equal(lambda: parts_for(batches * 4, 4), by_hand, staged)


def test_accumulation_that_divides_each_loss_by_the_size_of_its_window(proves_equal: Any, losses_of: Any) -> None:
    """As most people write it; sizes are powers of two here, so that it comes to the same bits."""

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(3):
            for number, (inputs, targets) in enumerate(parts.train, start=1):
                loss = F.cross_entropy(parts.model(inputs), targets)
                (loss / (4 if number <= 8 else 2)).backward()
                losses.append(loss.detach())
                if number in (4, 8, 10):
                    parts.optimizer.step()
                    parts.optimizer.zero_grad()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = losses_of(learner_of(parts, supervised(valid=False, accumulate=4)), 3)
        return losses

    proves_equal(lambda: parts_for(39, 4), by_hand, staged)


@pytest.mark.parametrize(("limit", "sizes"), [({"batches": 6}, (4, 2)), ({"updates": 2}, (4, 4))])
def test_run_that_ends_within_an_epoch_makes_its_last_update(
    limit: dict[str, int], sizes: tuple[int, ...], proves_equal: Any
) -> None:
    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(2):
            batches = iter(parts.train)
            for size in sizes:
                parts.optimizer.zero_grad()
                for _ in range(size):
                    inputs, targets = next(batches)
                    loss = F.cross_entropy(parts.model(inputs), targets)
                    loss.backward()
                    losses.append(loss.detach())
                for parameter in parts.model.parameters():
                    parameter.grad /= size
                parts.optimizer.step()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        learner = learner_of(parts, supervised(valid=False, accumulate=4))
        learner.after("batch")(lambda state: losses.append(state.loss.detach()))
        learner.fit(**limit)
        learner.fit(**limit)
        assert learner.state.updates == 4
        return losses

    proves_equal(lambda: parts_for(40, 4), by_hand, staged)


def test_cancelled_batches_do_not_count_and_a_window_of_them_makes_no_update(proves_equal: Any) -> None:
    cancelled = (1, 4, 5, 6, 7)

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(2):
            size = 0
            for number, (inputs, targets) in enumerate(parts.train):
                loss = F.cross_entropy(parts.model(inputs), targets)
                losses.append(loss.detach())
                if number not in cancelled:
                    loss.backward()
                    size += 1
                if number in (3, 7, 9) and size:
                    for parameter in parts.model.parameters():
                        parameter.grad /= size
                    parts.optimizer.step()
                    parts.optimizer.zero_grad()
                    size = 0
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        learner = learner_of(parts, supervised(valid=False, accumulate=4))

        @learner.after("gradient/loss")
        def look(state: Any) -> None:
            losses.append(state.loss.detach())
            if state.batch_index in cancelled:
                raise Cancel("batch", "not this one")

        learner.fit(epochs=2)
        assert learner.outcome.ok and learner.state.updates == 4
        return losses

    proves_equal(lambda: parts_for(40, 4), by_hand, staged)


@pytest.mark.parametrize("accumulate", [None, 2])
def test_microbatches_of_unequal_size(accumulate: int | None, proves_equal: Any) -> None:
    """Of 26 samples the batches have 10, 10 and 6, and their parts 4, 4, 2 and 2, 2, 2."""

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        model, losses = parts.model, []
        for _ in range(2):
            for number, (inputs, targets) in enumerate(parts.train, start=1):
                length, size, whole = -(-len(inputs) // 3), len(inputs), 0.0
                for some, their in zip(inputs.split(length), targets.split(length), strict=True):
                    loss = F.cross_entropy(model(some), their)
                    losses.append(loss.detach())
                    (loss * (len(some) / size)).backward()
                    whole = whole + loss.detach() * (len(some) / size)
                losses.append(whole)
                if accumulate is None or number in (2, 3):
                    if accumulate is not None:
                        for parameter in model.parameters():
                            parameter.grad /= 2 if number == 2 else 1
                    parts.optimizer.step()
                    parts.optimizer.zero_grad()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = learner_of(parts, supervised(valid=False, microbatches=3, accumulate=accumulate))
        losses: list[Tensor] = []
        learner.after("gradient/loss")(lambda state: losses.append(state.loss.detach()))
        learner.after("batch")(lambda state: losses.append(state.loss.detach()))
        learner.fit(epochs=2)
        return losses

    proves_equal(lambda: parts_for(26, 10), by_hand, staged)
