"""The null tree: the default tree with leaves that do nothing. What is left is ours.

It is run by a Learner, so the mean of the loss that every Learner keeps is part of what is measured. The guard is off:
what it takes is measured in guarding.py.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
from figures import Figure, interleaved
from torch import nn

from learner import Exhausted, Learner, Stage, TrainState, after, field, stage, supervised

LIMITS = {"off": 16.0, "summary": 22.0}
"""Microseconds a batch, by audit level."""
LOG_ROUNDS = 10_000
"""Rounds that the log in memory holds."""
FURTHER = 10
"""How many further stages or hooks are put in, to see what one costs."""


class NullState(TrainState):
    """The default state; the loss may be a plain number."""

    loss: Any = field(scope="batch")


class NextBatch(Stage):
    """In place of `fetch`, with its parameters: a loop has to end."""

    writes = ("batch",)

    def run(self, batches: Iterator[Any], batch_index: int, device: torch.device | None = None) -> Any:
        try:
            return next(batches)
        except StopIteration:
            raise Exhausted from None


class NoBackward(Stage):
    """In place of `backward`, which takes the view."""

    reads = ("loss", "model.grads", "*.params")
    writes = ("model.grads",)

    def run(self, state: Any) -> None: ...


@stage(writes=("inputs", "targets"))
def no_unpack(batch: Any) -> tuple[float, float]:
    return 0.5, 0.5


@stage(writes=("model.grads",))
def no_clear(optimizer: Any) -> None: ...


@stage(writes=("outputs",))
def no_forward(model: Any, inputs: Any) -> float:
    return 0.5


@stage(writes=("loss",))
def no_loss(loss_fn: Any, outputs: Any, targets: Any) -> float:
    return 0.25


@stage(reads=("model.grads", "model.params"), writes=("model.params", "optimizer.state", "updates"))
def no_update(optimizer: Any, updates: int) -> int:
    return updates + 1


def null_learner(num_batches: int, *, audit: Any = "summary", callbacks: Any = (), num_stages: int = 0) -> Learner:
    """A Learner whose leaves do nothing, over as many batches an epoch, with further stages that read and write."""
    tree = supervised(valid=False).swap("fetch", NextBatch()).swap("backward", NoBackward())
    for slot, leaf in {
        "unpack": no_unpack,
        "clear_gradients": no_clear,
        "forward": no_forward,
        "loss": no_loss,
        "update": no_update,
    }.items():
        tree = tree.swap(slot, leaf)
    for number in range(num_stages):
        tree = tree.insert(further_stage(), before="update", slot=f"further_{number}")
    model = nn.Linear(1, 1)
    state = NullState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=nn.functional.mse_loss,
        device=torch.device("cpu"),
    )
    data = Repeated(num_batches)
    return Learner.from_state(state, tree, train=data, callbacks=callbacks, audit=audit, guard="off")


class Repeated:
    """A loader of one batch, so many times."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return repeat((0.5, 0.5), self.length)


def further_stage() -> Callable[..., Any]:
    """A stage that takes a value and returns one."""

    @stage(writes=("outputs",))
    def further(outputs: Any) -> Any:
        return outputs

    return further


def value_hook() -> Any:
    """A hook that takes a value."""

    @after("update")
    def look(loss: Any) -> None: ...

    return look


def view_hook() -> Any:
    """A hook that takes the view, with a declaration."""

    @after("update", reads=("loss",))
    def look(state: Any) -> None:
        _ = state.loss

    return look


def writing_hook() -> Any:
    """A hook that takes a value and writes one."""

    @after("loss", writes=("loss",))
    def note(loss: Any) -> Any:
        return loss

    return note


def observer() -> Any:
    """A hook that reads what it likes."""

    @after("update")
    def look(state: Any) -> None:
        _ = state.loss

    return look


def measure(quick: bool) -> Iterator[Figure]:
    """What a batch costs beside the leaves, and one further stage or hook; the log in memory is full."""
    num_batches, repeats = (2_000, 5) if quick else (5_000, 11)
    more: dict[str, dict[str, Any]] = {
        "stage": {"num_stages": FURTHER},
        "hook that takes a value": {"callbacks": [value_hook() for _ in range(FURTHER)]},
        "hook that takes and writes one": {"callbacks": [tuple(writing_hook() for _ in range(FURTHER))]},
        "hook that takes the view": {"callbacks": [view_hook() for _ in range(FURTHER)]},
        "observer": {"callbacks": [observer() for _ in range(FURTHER)]},
    }
    for audit, limit in LIMITS.items():
        learners = {"": null_learner(num_batches, audit=audit), "absent hook": without_hooks(num_batches, audit)}
        learners |= {name: null_learner(num_batches, audit=audit, **given) for name, given in more.items()}
        for learner in learners.values():
            learner.fit(batches=LOG_ROUNDS)
        runs = {name: lambda learner=learner: learner.fit(epochs=1) for name, learner in learners.items()}
        seconds = interleaved(runs, repeats)
        us = {name: [each * 1e6 / num_batches for each in measured] for name, measured in seconds.items()}
        yield Figure(f"null tree, audit {audit}, a batch", tuple(us[""]), "us", limit)
        for name in [*more, "absent hook"]:
            each = tuple((with_it - bare) / FURTHER for with_it, bare in zip(us[name], us[""], strict=True))
            yield Figure(f"  each {name} more", each, "us", 0.1 if name == "absent hook" else 1.0)


def without_hooks(num_batches: int, audit: str) -> Learner:
    """A Learner whose further hooks were taken out again."""
    learner = null_learner(num_batches, audit=audit)
    looks = [lambda loss: None for _ in range(FURTHER)]
    for look in looks:
        learner.after("update")(look)
    for look in looks:
        learner.hooks.remove(look)
    return learner
