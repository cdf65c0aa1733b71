"""The guard: what a run that it looks after takes over one without, on the same ready batches, in the same process.

W2 is that of training.py, over a thousand batches. W3 is a small convolutional network on 1x28x28, batch 64, Adam,
about 10 ms a batch. W4 is an MLP of 1.6 million parameters, batch 128, SGD with momentum: as many milliseconds, and 20
MB to read at each boundary of a batch that is looked at. It has no limit; it shows what a large model with small
batches pays.
"""

import time
from collections.abc import Iterator

import torch
from figures import Figure
from torch import nn
from torch.nn import functional as F
from training import Batches, Workload, digits_batches, digits_mlp

from learner import Learner


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


def measure(quick: bool) -> Iterator[Figure]:
    """Each guarded run stands between two without; what counts is what it takes over their mean."""
    torch.set_num_threads(1)
    for work, limit, repeats in (
        (Workload("W2", digits_mlp, F.cross_entropy, digits_batches(), 44, (0, 0), True), 0.04, 11),
        (Workload("W3", conv_net, F.cross_entropy, random_batches(100, 64, 1, 28, 28), 10, (0, 0), True), 0.01, 3),
        (Workload("W4", wide_mlp, F.cross_entropy, random_batches(100, 128, 512), 5, (0, 0), True), None, 1),
    ):
        num_batches = work.epochs * len(work.batches)
        off, over = [], []
        for repeat in range(-1, min(repeats, 3) if quick else repeats):
            first, guarded, last = (run(work, guard) for guard in ("off", "contents", "off"))
            if repeat >= 0:  # the one before warms up
                off += [first, last]
                over.append(guarded / (first + last) * 2 - 1)
        yield Figure(f"{work.name} without a guard, a batch", tuple(each * 1e6 / num_batches for each in off), "us")
        yield Figure(f"{work.name}, guard 'contents', over that", tuple(over), "", limit)
