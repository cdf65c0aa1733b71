"""The order of events is that of fastai too, which has a signal for each of our scopes.

The points come from the table in docs/reference/events.md; the original is written down here, by its rules.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from learner.testing import toy_learner

Events = list[str]
LEVELS = ["fit", "epoch", "train", "validate", "batch", "backward", "step"]  # the outer ones first
PAIRS = [(f"before_{level}", f"after_{level}") for level in LEVELS]


class Signal(Exception):
    """A signal of theirs."""


class Fastai:
    """`Learner.fit`: each level is before, body, after; its own signal, from before or body, leads to the after.

    It notes its events, and throws `signal` when it is at `place` for the `nth` time.
    """

    def __init__(self, place: str = "", signal: str = "", nth: int = 1) -> None:
        self.events: Events = []
        self.place, self.signal, self.left = place, signal, nth

    def event(self, name: str) -> None:
        self.events.append(name)
        if name == self.place:
            self.left -= 1
            if self.left == 0:
                raise Signal(self.signal)

    def level(self, name: str, signal: str, body: Callable[[], object]) -> None:
        try:
            self.event(f"before_{name}")
            body()
        except Signal as raised:
            if str(raised) != signal:
                raise
        self.event(f"after_{name}")

    def fit(self, epochs: int) -> Events:
        self.level("fit", "CancelFitException", lambda: [self.epoch() for _ in range(epochs)])
        return self.events

    def epoch(self) -> None:
        train = partial(self.level, "train", "CancelTrainException", partial(self.batches, True))
        validate = partial(self.level, "validate", "CancelValidException", partial(self.batches, False))
        self.level("epoch", "CancelEpochException", lambda: [train(), validate()])

    def batches(self, training: bool) -> None:
        for _ in range(2):
            self.level("batch", "CancelBatchException", partial(self.batch, training))

    def batch(self, training: bool) -> None:
        self.event("after_pred")
        self.event("after_loss")
        if training:
            self.level("backward", "CancelBackwardException", list)
            self.level("step", "CancelStepException", list)


def ours(watch: Any) -> Events:
    """What the observers of a watch see of the default tree."""
    batches = [(batch, 3 * batch) for batch in torch.randn(4, 8, 1)]
    learner = toy_learner(callbacks=watch.callbacks, train=batches[:2], valid=batches[2:])
    learner.fit(epochs=2)
    assert watch.left <= 0 or not watch.place, f"{watch.place} was never reached"
    assert learner.outcome.kind == ("cancelled" if watch.scope == "run" else "ok")
    seen: Events = watch.seen
    return seen


def test_fastai_has_the_same_events_in_the_same_order(watched: Any) -> None:
    assert ours(watched("fastai")) == Fastai().fit(2)


PLACES = {  # where each signal is caught by the level that it ends
    "CancelBatchException": ["before_batch", "after_pred", "after_loss", "before_backward", "after_step"],
    "CancelTrainException": ["before_train", "before_batch", "after_pred", "after_backward", "after_batch"],
    "CancelValidException": ["before_validate", "before_batch", "after_pred", "after_loss", "after_batch"],
    "CancelEpochException": ["before_epoch", "before_train", "before_step", "after_batch", "after_validate"],
    "CancelFitException": [
        "before_fit",
        "before_epoch",
        "before_batch",
        "before_validate",
        "after_step",
        "after_epoch",
    ],
}
CANCELS = [(signal, place) for signal, places in PLACES.items() for place in places]


@pytest.mark.parametrize(("signal", "place"), CANCELS)
def test_after_a_cancel_fastai_goes_on_as_we_do(signal: str, place: str, peers: Any, watched: Any, closed: Any) -> None:
    nth = 3 if signal == "CancelValidException" and place != "before_validate" else 1  # the first two are training
    watch = watched("fastai", at=place, scope=peers.scope("fastai", signal), nth=nth)
    theirs = Fastai(place, signal, nth).fit(2)
    assert ours(watch) == closed(theirs, PAIRS, {end for _, end in PAIRS})


def test_only_a_signal_of_a_wide_scope_makes_a_difference(peers: Any, watched: Any, closed: Any) -> None:
    ends = {end for _, end in PAIRS}
    narrow = Fastai("after_loss", "CancelBatchException").fit(2)
    assert closed(narrow, PAIRS, ends) == narrow
    wide = Fastai("after_loss", "CancelEpochException").fit(2)
    assert closed(wide, PAIRS, {"after_batch"}) != wide  # difference 1
    assert closed(wide, PAIRS, {"after_train"}) != wide  # difference 5
    assert ours(watched("fastai", at="after_loss", scope="epoch")) == closed(wide, PAIRS, ends)
