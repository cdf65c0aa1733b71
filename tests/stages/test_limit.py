"""Limits: where a `fit` ends, from where the state is, and which questions have no answer."""

import itertools
from typing import Any

import pytest
import torch

from learner import Cancel, Composite, StageError, after, before, stage, supervised
from learner.recipes import validate
from learner.testing import toy_learner
from stages.cancel import Exhausted
from stages.errors import BatchError, LimitError
from stages.limit import limit_of
from stages.supervised import Epoch, Fetch, Train, Unpack

BATCH = (torch.ones(4, 1), torch.ones(4, 1))
NOTHING: dict[str, float | None] = {"epochs": None, "batches": None, "updates": None, "minutes": None}


@pytest.mark.parametrize(
    ("unit", "total"), [("epochs", "epochs_done"), ("batches", "batches_seen"), ("updates", "updates")]
)
def test_limit_counts_from_where_the_state_is(unit: str, total: str) -> None:
    learner = toy_learner()
    setattr(learner.state, total, 5)
    limit = limit_of({**NOTHING, unit: 3}, learner.assembly, learner.state)
    assert (limit.total, limit.target, str(limit)) == (total, 8, f"fit({unit}=3)")
    assert not limit.is_reached({total: 7})
    assert limit.is_reached({total: 8})


def test_limit_in_time_looks_at_no_value() -> None:
    learner = toy_learner()
    assert limit_of({**NOTHING, "minutes": 1e-9}, learner.assembly, learner.state).is_reached({})
    assert not limit_of({**NOTHING, "minutes": 10}, learner.assembly, learner.state).is_reached({})


@pytest.mark.parametrize(
    ("given", "got"), [({}, "it got none"), ({"epochs": 1, "batches": 2}, r"it got \['batches', 'epochs'\]")]
)
def test_exactly_one_limit_is_wanted(given: dict[str, Any], got: str) -> None:
    learner = toy_learner()
    with pytest.raises(
        LimitError, match=rf"takes exactly one of epochs=, batches=, updates=, minutes=; {got}"
    ) as caught:
        learner.fit(**given)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, StageError)
    assert learner.state.batches_seen == 0


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"epochs": 1.5},
        {"batches": True},
        {"updates": "3"},
        {"minutes": 0},
        {"minutes": float("inf")},
        {"minutes": float("nan")},
    ],
)
def test_limit_is_a_positive_number(given: dict[str, Any]) -> None:
    with pytest.raises(LimitError, match=r"wants a positive (whole )?number") as caught:
        toy_learner().fit(**given)
    assert isinstance(caught.value, ValueError)


def test_unit_that_no_stage_counts_is_refused() -> None:
    tree = Train(Epoch(Unpack(), slot_free=Epoch()))
    learner = toy_learner(stages=tree.remove("epoch/unpack"))
    with pytest.raises(LimitError, match=r"fit\(updates=2\) cannot end: no stage of this tree counts updates"):
        learner.fit(updates=2)
    with pytest.raises(LimitError, match="counts batches"):
        learner.fit(batches=2)
    learner.fit(epochs=2)
    assert learner.state.epochs_done == 2


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({"epochs": 2}, (2, 16, 16, 128)),
        ({"batches": 3}, (0, 3, 3, 24)),
        ({"updates": 11}, (1, 11, 11, 88)),
        ({"minutes": 1e-9}, (0, 1, 1, 8)),
    ],
)
def test_fit_ends_where_it_was_asked_to(given: dict[str, Any], counts: tuple[int, int, int, int]) -> None:
    learner = toy_learner()
    learner.fit(**given)
    state = learner.state
    assert (state.epochs_done, state.batches_seen, state.updates, state.samples_seen) == counts
    assert learner.outcome.ok


class Rewound:
    """Its own iterator, as many a prefetcher is; `iter` starts it anew."""

    def __iter__(self) -> "Rewound":
        self.left = 3
        return self

    def __next__(self) -> Any:
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return BATCH


@before("fit", writes=("train_loader",))
def refill() -> Any:
    return (BATCH for _ in range(3))


@after("batch")
def stop(state: Any) -> None:
    if state.batch_index == 2:
        raise Cancel("phase", "enough")


class First(Composite):
    """Runs what it holds in the first epoch only."""

    runs = "0-1"
    reads = ("epoch",)

    def run(self, state: Any) -> None:
        if state.epoch == 0:
            super().run(state)


@stage(writes=("batch",))
def one_batch(batches: Any, batch_index: int) -> Any:
    if batch_index == 1:
        raise Exhausted
    return next(batches)


@pytest.mark.parametrize(
    ("loader", "kind"),
    [(iter([BATCH]), "list_iterator"), (zip([BATCH[0]], [BATCH[1]], strict=True), "zip"), (map(id, []), "map")],
    ids=["list", "zip", "map"],
)
def test_iterators_of_python_can_be_read_in_one_epoch_only(loader: Any, kind: str) -> None:
    learner = toy_learner(train=loader)
    with pytest.raises(BatchError, match=rf"fit\(epochs=2\): train/epoch/fit reads .* of type {kind}, which can be"):
        learner.fit(epochs=2)
    assert learner.state.epochs_done == 0


def test_generator_below_a_window_is_refused_too() -> None:
    learner = toy_learner(stages=supervised(accumulate=2, valid=False), train=(BATCH for _ in range(4)), valid=None)
    with pytest.raises(BatchError, match="of type generator, which can be read once"):
        learner.fit(epochs=2)
    learner.fit(epochs=1)
    assert (learner.state.updates, learner.state.batches_seen) == (2, 4)


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ({"train": Rewound()}, {"epochs": 2}),
        ({"train": itertools.cycle([BATCH]), "callbacks": [stop]}, {"epochs": 2}),
        ({"train": (BATCH for _ in range(3)), "callbacks": [refill]}, {"epochs": 2}),
        ({"train": (BATCH for _ in range(3)), "stages": supervised().swap("fit/fetch", one_batch)}, {"epochs": 2}),
        (
            {"valid": (BATCH for _ in range(3)), "stages": supervised().swap("validate", First(validate()))},
            {"epochs": 2},
        ),
        ({"train": (BATCH for _ in range(3))}, {"batches": 3}),
        ({"train": (BATCH for _ in range(3))}, {"epochs": 1}),
    ],
    ids=["rewound", "endless", "refilled", "own fetch", "sometimes", "batches", "one epoch"],
)
def test_iterator_that_may_have_more_is_not_refused(given: dict[str, Any], fitted: dict[str, Any]) -> None:
    learner = toy_learner(**given)
    learner.fit(**fitted)
    assert learner.outcome.ok


def test_reached_limit_is_the_reason_of_the_outcome() -> None:
    learner = toy_learner()
    learner.fit(batches=3)
    assert (learner.outcome.kind, learner.outcome.reason) == ("ok", "fit(batches=3)")


def test_last_batch_of_an_epoch_does_not_end_it_early() -> None:
    learner = toy_learner()
    learner.fit(batches=8)
    assert learner.state.epochs_done == 0
    assert list(learner.history[-1]) == ["epoch", "train_loss", "seconds"]


def test_fetch_is_what_ends_a_phase() -> None:
    assert "batch" in Fetch.writes
