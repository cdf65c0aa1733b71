"""Building: how long it takes to put a large tree together and check it, and whether that is linear."""

import gc
import time
from collections.abc import Iterator
from typing import Any

import torch
from figures import Figure
from torch import nn

from learner import Composite, Learner, Stage, TrainState, after, before, field, supervised

DEPTH = 50
SIZES = (250, 500, 1_000)
"""Stages; there are three times as many hooks."""
PER_FIELD = 10
"""Stages that share one field."""
PER_CROWD = 20
"""Of so many stages, one has its hooks at the slot of the batch, where hooks crowd."""


class Refine(Stage):
    """Read a value, write the next one."""

    def __init__(self, number: int) -> None:
        self.source = value(number - 1) if number else "inputs"
        self.result = value(number)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.source,)

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.result,)

    def fields(self) -> dict[str, Any]:
        return {self.result: (Any, field(scope="batch"))}

    def run(self, state: Any) -> None: ...


def value(number: int) -> str:
    """The field that stage `number` writes."""
    return f"value_{number // PER_FIELD}"


def hooks(number: int) -> list[Any]:
    """Three hooks for one stage: one that reads what it wrote, one that writes too, and an observer."""
    crowds = number % PER_CROWD == 0
    slot, result, note = "batch" if crowds else f"refine_{number}", value(number), f"note_{number // PER_FIELD}"

    @after(slot, reads=(result,))
    def look(state: Any) -> None: ...

    @after(slot, reads=(result,), writes=(note,))
    def take_note(state: Any) -> None: ...

    @before(slot)
    def observe(state: Any) -> None: ...

    return [look, take_note, observe]


def notes(num_stages: int) -> type[TrainState]:
    """The state with the fields that hooks write; a stage brings its own."""
    names = dict.fromkeys(f"note_{number // PER_FIELD}" for number in range(num_stages))
    annotations = {name: Any for name in names}
    fields = {name: field(scope="batch", default=None) for name in names}
    return type("NoteState", (TrainState,), {"__annotations__": annotations, "__module__": __name__, **fields})


def large_tree(num_stages: int) -> Composite:
    """The default tree with so many stages more, in composites that hold each other down to `DEPTH`."""
    levels = DEPTH - 5  # train, epoch, fit and batch are above, the stages below
    inner: Composite | None = None
    for level in reversed(range(levels)):
        numbers = range(num_stages * level // levels, num_stages * (level + 1) // levels)
        stages = {f"refine_{number}": Refine(number) for number in numbers}
        inner = Composite(**stages, **({"level": inner} if inner else {}))
    assert inner is not None
    return supervised(valid=False).insert(inner, after="unpack", slot="level")


def build(num_stages: int) -> float:
    """Seconds for a Learner of so many stages and three times as many hooks: put together, checked, and bound."""
    model = nn.Linear(1, 1)
    state = notes(num_stages)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=nn.functional.mse_loss,
        device=torch.device("cpu"),
    )
    callbacks = [hook for number in range(num_stages) for hook in hooks(number)]
    started = time.process_time()
    learner = Learner.from_state(state, large_tree(num_stages), train=[], callbacks=callbacks)
    taken = time.process_time() - started
    assert max(place.path.count("/") + 1 for place in learner.assembly.places) == DEPTH
    learner.close()
    return taken


def measure(quick: bool) -> Iterator[Figure]:
    """The sizes in turn; linear means that an actor costs no more in the largest than in the smallest.

    Linear without Python's cycle collector: whether that goes over all objects of torch (0.2 s) in the midst of a
    build is chance, and falls on large builds more often.
    """
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    alone: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(3 if quick else 5):
        for size in SIZES:
            seconds[size].append(build(size))
            gc.disable()
            alone[size].append(build(size))
            gc.enable()
    for size in SIZES:
        limit = 1.5 if size == SIZES[-1] else None
        yield Figure(f"build and check {size:,} stages, {3 * size:,} hooks", tuple(seconds[size]), "s", limit)
    growth = SIZES[-1] / SIZES[0]
    ratios = [large / small / growth for small, large in zip(alone[SIZES[0]], alone[SIZES[-1]], strict=True)]
    yield Figure(f"  an actor of {SIZES[-1]:,} stages, to one of {SIZES[0]}", tuple(ratios), "", 1.3)
