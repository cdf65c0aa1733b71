"""The guard: the ratio of a run that it looks after to one without, over the same ready batches, in the same process.

W2 is that of training.py, over a thousand batches. W10 is an MLP 512-1024-1024-10, batch 128, SGD: about 10 ms a batch,
and 1.6 million parameters to read in a batch that is looked at.
"""

import time
from collections.abc import Iterator

import torch
from figures import Figure
from torch import nn
from torch.nn import functional as F
from training import Batches, Workload, digits_batches, digits_mlp

from learner import Learner


def wide_mlp() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layers = [nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    model = nn.Sequential(*layers)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def wide_batches(count: int) -> Batches:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count * 128, 512, generator=generator)
    targets = torch.randint(10, (count * 128,), generator=generator)
    return list(zip(inputs.split(128), targets.split(128), strict=True))


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
        (Workload("W2", digits_mlp, F.cross_entropy, digits_batches(), 44, (0.04, 0.0), True), 0.04, 11),
        (Workload("W10", wide_mlp, F.cross_entropy, wide_batches(50), 20, (0.01, 0.0), True), 0.01, 3),
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
