"""The change log: what a run that is recorded takes over one that is not, by level.

W2 is that of training.py: a recorded run stands between two that are not. W3 and W4 have batches of about 10 ms (see
guarding.py): there what the log itself does for the levels "stats" and "full/20" is timed, and put over the rest. What
it does at "summary" is as much as on W2, and too little to be timed there.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from figures import Figure
from guarding import conv_net, random_batches, wide_mlp
from torch.nn import functional as F
from training import Workload, digits_batches, digits_mlp

from learner import Learner
from state.summaries import Summaries


def run(work: Workload, audit: str) -> float:
    """CPU seconds of `fit`, without a guard."""
    model, optimizer = work.make()
    learner = Learner(model, work.loss_fn, optimizer, train=work.batches, device="cpu", audit=audit, guard="off")
    started = time.process_time()
    learner.fit(epochs=work.epochs)
    taken = time.process_time() - started
    learner.close()
    return taken


class Inside:
    """The seconds that went by in what measures tensors."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._methods = {name: getattr(Summaries, name) for name in ("measured", "part")}

    def __enter__(self) -> "Inside":
        for name, method in self._methods.items():
            setattr(Summaries, name, self._timed(method))
        return self

    def __exit__(self, *_: object) -> None:
        for name, method in self._methods.items():
            setattr(Summaries, name, method)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **settings: Any) -> Any:
            started = time.perf_counter()
            answer = method(*args, **settings)
            self.seconds += time.perf_counter() - started
            return answer

        return timed


def share(work: Workload, audit: str, batches: int) -> float:
    """What measuring takes over the rest of the same run."""
    model, optimizer = work.make()
    learner = Learner(model, work.loss_fn, optimizer, train=work.batches, device="cpu", audit=audit, guard="off")
    learner.fit(batches=5)
    with Inside() as inside:
        started = time.perf_counter()
        learner.fit(batches=batches)
        taken = time.perf_counter() - started
    learner.close()
    return inside.seconds / (taken - inside.seconds)


def measure(quick: bool) -> Iterator[Figure]:
    torch.set_num_threads(1)
    work = Workload("W2", digits_mlp, F.cross_entropy, digits_batches(), 44, (0, 0), True)
    over, spent = [], []
    for repeat in range(-1, 3 if quick else 11):
        first, recorded, last = (run(work, audit) for audit in ("off", "summary", "off"))
        if repeat >= 0:  # the one before warms up
            over.append(recorded / (first + last) * 2 - 1)
            spent.append((recorded - (first + last) / 2) / (work.epochs * len(work.batches)))
    yield Figure("W2, audit 'summary', over 'off'", tuple(over), "", 0.05)
    slow = Workload("W3", conv_net, F.cross_entropy, random_batches(100, 64, 1, 28, 28), 1, (0, 0), True)
    batch = run(slow, "off") / len(slow.batches)
    name = "W3, audit 'summary': what it takes on W2, over a batch"
    yield Figure(name, tuple(one / batch * 100 for one in spent), "%", 1.0)
    for work in (
        slow,
        Workload("W4", wide_mlp, F.cross_entropy, random_batches(100, 128, 512), 0, (0, 0), True),
    ):
        for audit, limit in (("stats", 0.05), ("full/20", 0.02)):
            found = tuple(share(work, audit, 100) for _ in range(1 if quick else 3))
            yield Figure(f"{work.name}, audit {audit!r}, measuring over the rest", found, "", limit)
