"""Training for real: the ratio of our loop to the hand-written one, over the same ready batches, in the same process.

W1 is Linear(16, 16), batch 8, SGD, mean squared error: all of a step is overhead. W2 is the digits MLP 64-128-10,
batch 64, Adam, cross-entropy.
"""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from figures import Figure
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from learner import Learner
from learner.callbacks import Accuracy, ProgressBar

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Workload:
    """A model, an optimizer, a loss and ready batches.

    Attributes:
        make: makes the model and its optimizer, the same every time.
        limits: of the ratio, with the defaults and with all that a first program has.
        has_classes: whether there is an accuracy.
    """

    name: str
    make: Callable[[], tuple[nn.Module, torch.optim.Optimizer]]
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    batches: Batches
    epochs: int
    limits: tuple[float, float]
    has_classes: bool


def linear() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(16, 16)
    return model, torch.optim.SGD(model.parameters(), lr=0.01)


def digits_mlp() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def random_batches(count: int) -> Batches:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 16, generator=generator), torch.randn(8, 16, generator=generator)) for _ in range(count)]


def digits_batches() -> Batches:
    """The first 1,472 of the digits, in 23 full batches."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs = torch.tensor(digits.data[:1472], dtype=torch.float32) / 16
    targets = torch.tensor(digits.target[:1472])
    return list(zip(inputs.split(64), targets.split(64), strict=True))


def by_hand(work: Workload) -> float:
    """CPU seconds of the loop one would write."""
    model, optimizer = work.make()
    loss_fn = work.loss_fn
    started = time.process_time()
    for _ in range(work.epochs):
        for inputs, targets in work.batches:
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
    return time.process_time() - started


def by_learner(work: Workload, **given: Any) -> float:
    """CPU seconds of `fit`, the writing of what is left of the log included."""
    model, optimizer = work.make()
    learner = Learner(model, work.loss_fn, optimizer, train=work.batches, device="cpu", **given)
    started = time.process_time()
    learner.fit(epochs=work.epochs)
    taken = time.process_time() - started
    learner.close()
    return taken


def with_everything(work: Workload, folder: Path) -> dict[str, Any]:
    """A live bar on a terminal that nobody sees, the accuracy where there is one, and a run on disk."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    callbacks = [ProgressBar(console=terminal), *([Accuracy()] if work.has_classes else [])]
    return {"callbacks": callbacks, "run_dir": folder / work.name}


def measure(quick: bool) -> Iterator[Figure]:
    """Each run stands between two hand-written ones; what counts is the ratio to the mean of the two."""
    torch.set_num_threads(1)
    repeats = 5 if quick else 21
    for work in (
        Workload("W1", linear, F.mse_loss, random_batches(1_000), 2, (1.25, 1.45), False),
        Workload("W2", digits_mlp, F.cross_entropy, digits_batches(), 25, (1.07, 1.14), True),
    ):
        num_batches = work.epochs * len(work.batches)
        hand, default, everything = [], [], []
        with TemporaryDirectory() as folder:
            for repeat in range(-1, repeats):
                first = by_hand(work)
                plain = by_learner(work)
                between = by_hand(work)
                full = by_learner(work, **with_everything(work, Path(folder)))
                last = by_hand(work)
                if repeat >= 0:  # the one before warms up
                    hand += [first, between, last]
                    default.append(plain / (first + between) * 2)
                    everything.append(full / (between + last) * 2)
        extra = "accuracy, bar, run_dir" if work.has_classes else "bar, run_dir"
        yield Figure(f"{work.name} by hand, a batch", tuple(each * 1e6 / num_batches for each in hand), "us")
        yield Figure(f"{work.name}, defaults, to by hand", tuple(default), "", work.limits[0])
        yield Figure(f"{work.name}, {extra}, to by hand", tuple(everything), "", work.limits[1])
