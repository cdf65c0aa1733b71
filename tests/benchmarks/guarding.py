"""The guard: what a run that it looks after takes over one without, on the same ready batches, in the same process.

W2 is that of training.py, over a thousand batches: a guarded run stands between two without, and what it takes over the
mean of these counts. W3 and W4 have batches of about 10 ms, where one hundredth cannot be told from noise in that way:
there the guard's own methods are timed, and what they take is put over the rest of the same run. W3 is a small
convolutional network on 1x28x28, batch 64, Adam. W4 is an MLP of 1.6 million parameters, batch 128, SGD with momentum:
20 MB to look at, all of which is read in the first three rounds.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from figures import Figure
from torch import nn
from torch.nn import functional as F
from training import Batches, Workload, digits_batches, digits_mlp

from learner import Learner
from stages.guard import EVERY, FIRST, Guard


def conv_net() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(32 * 7 * 7, 10))
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def wide_mlp() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layers = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    model = nn.Sequential(*layers)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def random_batches(count: int, size: int, *shape: int) -> Batches:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count * size, *shape, generator=generator)
    targets = torch.randint(10, (count * size,), generator=generator)
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def run(work: Workload, guard: str) -> float:
    """CPU seconds of `fit`."""
    model, optimizer = work.make()
    learner = Learner(model, work.loss_fn, optimizer, train=work.batches, device="cpu", guard=guard)
    started = time.process_time()
    learner.fit(epochs=work.epochs)
    taken = time.process_time() - started
    learner.close()
    return taken


class Inside:
    """The seconds that went by in the methods that a Guard is called by."""

    def __init__(self, guard: Guard) -> None:
        self.seconds = 0.0
        for name in ("begin", "settle", "pass_by", "compare_plain", "step_in"):
            setattr(guard, name, self._timed(getattr(guard, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            started = time.perf_counter()
            answer = method(*args)
            self.seconds += time.perf_counter() - started
            return answer

        return timed


def shares(work: Workload, *lengths: int) -> Iterator[tuple[float, float]]:
    """For each of these numbers of batches, one after the other: seconds a batch, and the guard's over the rest."""
    model, optimizer = work.make()
    learner = Learner(model, work.loss_fn, optimizer, train=work.batches, device="cpu")
    inside = Inside(learner._bound.runner.guard)
    for length in lengths:
        started, inside.seconds = time.perf_counter(), 0.0
        learner.fit(batches=length)
        taken = time.perf_counter() - started
        yield taken / length, inside.seconds / (taken - inside.seconds)
    learner.close()


def measure(quick: bool) -> Iterator[Figure]:
    torch.set_num_threads(1)
    work = Workload("W2", digits_mlp, F.cross_entropy, digits_batches(), 44, (0, 0), True)
    num_batches = work.epochs * len(work.batches)
    off, over = [], []
    for repeat in range(-1, 3 if quick else 11):
        first, guarded, last = (run(work, guard) for guard in ("off", "contents", "off"))
        if repeat >= 0:  # the one before warms up
            off += [first, last]
            over.append(guarded / (first + last) * 2 - 1)
    yield Figure("W2 without a guard, a batch", tuple(each * 1e6 / num_batches for each in off), "us")
    yield Figure("W2, guard 'contents', over that", tuple(over), "", 0.04)
    for work in (
        Workload("W3", conv_net, F.cross_entropy, random_batches(100, 64, 1, 28, 28), 0, (0, 0), True),
        Workload("W4", wide_mlp, F.cross_entropy, random_batches(100, 128, 512), 0, (0, 0), True),
    ):
        found = [list(shares(work, FIRST, 1, 1, EVERY if quick else 15 * EVERY)) for _ in range(1 if quick else 3)]
        yield Figure(f"{work.name}, a batch", tuple(run[-1][0] * 1e3 for run in found), "ms")
        yield Figure(
            f"{work.name}, the first {FIRST} batches, guard over the rest", tuple(run[0][1] for run in found), ""
        )
        yield Figure(f"{work.name}, later ones, guard over the rest", tuple(run[-1][1] for run in found), "", 0.01)
