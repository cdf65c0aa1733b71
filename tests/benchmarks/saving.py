"""Saving: what a checkpoint costs beside `torch.save` of the same state_dicts to a new file, synced, and its name too.

In the same process, in turn, now this one first and now that one; each is removed outside of what is measured.

Of a model of 10 MB and one of 500 MB. Behind the run, what counts is the time until the run goes on: with the memory of
the copy kept from one checkpoint to the next, and with new memory.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from figures import Figure
from torch import nn

from learner import Learner
from learner.checkpoints import Checkpoints
from learner.writing import Writer


def learner_of(megabytes: int) -> Learner:
    torch.manual_seed(0)
    width = int((megabytes * 250_000 / 2) ** 0.5)
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, nn.MSELoss(), optimizer, train=[torch.zeros(1, width)] * 2, device="cpu")


def plainly(learner: Learner, path: Path) -> None:
    """What one would write by hand: the file is on the disk, and so is its name."""
    state = learner.state
    with open(path, "xb") as file:
        torch.save({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def taken_and_written(learner: Learner, writer: Writer) -> None:
    """What a run does at a committed point."""
    writer.write(*learner._bound.keeper.take())


def timed(call: Callable[..., object], *given: object) -> float:
    """Seconds that it takes, begun when the disk has nothing left to do of what was before."""
    os.sync()
    begun = time.perf_counter()
    call(*given)
    return time.perf_counter() - begun


def measure(quick: bool) -> Iterator[Figure]:
    torch.set_num_threads(1)
    for megabytes, repeats in ((10, 5 if quick else 15), (500, 2 if quick else 5)):
        learner = learner_of(megabytes)
        plain, ours, kept, new = [], [], [], []
        with TemporaryDirectory() as name:
            folder = Path(name)
            checkpoints = Checkpoints(folder)
            checkpoints.begin()
            behind = Writer(checkpoints, lambda there: set(), behind=True)
            for repeat in range(repeats + 1):
                if repeat % 2:
                    checkpoint = timed(learner.save, folder / "ours")
                base = timed(plainly, learner, folder / "plain.pt")
                if not repeat % 2:
                    checkpoint = timed(learner.save, folder / "ours")
                (folder / "plain.pt").unlink()
                shutil.rmtree(folder / "ours")
                again = timed(taken_and_written, learner, behind)
                behind.wait()
                fresh = Writer(checkpoints, lambda there: set(), behind=True)
                first = timed(taken_and_written, learner, fresh)
                fresh.close()
                if repeat:  # the first one makes the buffers
                    plain.append(base * 1e3)
                    ours.append(checkpoint / base)
                    kept.append(again / base)
                    new.append(first / base)
            behind.close()
        yield Figure(f"{megabytes} MB, torch.save and fsyncs", tuple(plain), "ms")
        yield Figure(f"{megabytes} MB, a checkpoint, over that", tuple(ours), "", 1.25)
        yield Figure(f"{megabytes} MB, behind the run, memory kept", tuple(kept), "", 0.15)
        yield Figure(f"{megabytes} MB, behind the run, new memory", tuple(new), "", 0.4)
