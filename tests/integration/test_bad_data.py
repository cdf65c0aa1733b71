"""Values, batches, loaders and exceptions of the user's own: stopped where they are, what was committed intact."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import (
    Stage,
    State,
    TrainState,
    field,
    stage,
)
from learner.errors import ArgumentError
from learner.testing import toy_learner
from stages import BatchError
from stages.errors import LimitError
from state import InvalidValue, UnknownField

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


# Values


def test_value_of_a_wrong_type_is_stopped_and_the_old_one_stands(stopped: Any) -> None:
    @stage(writes=("updates",))
    def miscount() -> str:
        return "three"

    learner = toy_learner()
    learner.insert(miscount, before="gradient")
    error = stopped(learner, InvalidValue, "may not set 'updates' to 'three'. The field is int", "batch/miscount")
    assert (error.field, error.value) == ("updates", "three")
    assert learner.state.updates == 0


def test_value_outside_its_constraint_is_refused(refused: Any) -> None:
    learner = toy_learner()
    error = refused(learner, lambda: setattr(learner.state, "updates", -1), InvalidValue, "greater than or equal to 0")
    assert error.actor == "user"


def test_tensor_is_never_turned_into_a_number(stopped: Any) -> None:
    class Norm(TrainState):
        norm: float = field(scope="batch", default=0.0)

    @stage(state=Norm, writes=("norm",))
    def norm_of(loss: Tensor) -> Tensor:
        return loss

    learner = toy_learner()
    learner.insert(norm_of, after="gradient")
    stopped(learner, InvalidValue, "a Tensor is never converted, that would be a device sync", "batch/norm_of")


@pytest.mark.parametrize(
    "limits",
    [{}, {"epochs": 0}, {"epochs": 1.5}, {"batches": True}, {"minutes": float("nan")}, {"epochs": 1, "batches": 2}],
)
def test_fit_without_one_clear_end_is_refused(limits: dict[str, Any], refused: Any) -> None:
    learner = toy_learner()
    refused(learner, lambda: learner.fit(**limits), LimitError, "fit\\(.*(exactly one|wants a positive)")


# Data


def test_batch_of_unequal_lengths_is_stopped(stopped: Any) -> None:
    learner = toy_learner(train=[BATCH, (torch.ones(4, 1), torch.ones(3, 1))])
    stopped(learner, BatchError, "'inputs' and 'targets' of unequal length: 4 and 3", "unpack at epoch 0, fit, batch 1")
    assert learner.state.updates == 1


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        ([], "gave no batch .*dataset, drop_last"),
        ([{"a": torch.ones(2)}], "a mapping with \\['a'\\]; unpack wants a pair .*Swap the slot 'unpack'"),
        ([torch.ones(2)], "gave a Tensor; unpack wants a pair"),
        ([(torch.ones(2),) * 3], "gave a tuple of 3"),
    ],
    ids=["empty", "mapping", "tensor", "three"],
)
def test_loader_that_gives_nothing_or_something_else_is_stopped(loader: Any, match: str, stopped: Any) -> None:
    stopped(toy_learner(train=loader), BatchError, match, "at epoch 0, fit, batch 0")
    learner = toy_learner(valid=loader)
    stopped(learner, BatchError, match, "at epoch 0, validate, batch 0")
    assert learner.state.updates == 8, "what was committed before stands"


def test_loader_that_changes_its_structure_is_stopped_there(stopped: Any) -> None:
    learner = toy_learner(train=[BATCH, {"inputs": BATCH[0]}])
    stopped(learner, BatchError, "gave a mapping", "fit, batch 1")
    assert learner.state.batches_seen == 1


def test_generator_is_stopped_on_its_second_reading_with_the_remedy() -> None:
    learner = toy_learner(train=(BATCH for _ in range(3)))
    learner.fit(epochs=1)
    with pytest.raises(BatchError, match="A generator can be read once; give a list, a DataLoader") as caught:
        learner.fit(batches=4)
    assert "at epoch 1, fit, batch 0" in caught.value.__notes__[0]
    assert (learner.state.epochs_done, learner.state.updates) == (1, 3)


@pytest.mark.parametrize("argument", ["train", "valid"])
def test_generator_that_several_epochs_would_read_is_refused_before_the_first(argument: str, refused: Any) -> None:
    learner = toy_learner(**{argument: (BATCH for _ in range(3))})
    told = f"fit\\(epochs=2\\): .* reads '{argument}_loader' in each epoch, .* of type generator, which can be read"
    refused(learner, lambda: learner.fit(epochs=2), BatchError, told)


@pytest.mark.parametrize("loader", [3, None, print])
def test_loader_that_cannot_be_iterated_is_refused(loader: Any) -> None:
    with pytest.raises(ArgumentError, match="train= is .*, which cannot be iterated") as caught:
        toy_learner(train=loader)
    assert caught.value.argument == "train"


# A user's own exception


class Diverged(Exception):
    """An exception of the user's own."""


@pytest.mark.parametrize("kind", [Diverged, StopIteration, KeyError, GeneratorExit, RecursionError])
@pytest.mark.parametrize("audit", ["off", "summary"])
def test_exception_of_the_users_keeps_type_and_traceback_and_gets_one_note(
    kind: type[BaseException], audit: Any
) -> None:
    learner = toy_learner(audit=audit)
    raised = kind("far off")

    class Explode(Stage):
        def run(self, updates: int) -> None:
            if updates == 2:
                raise raised

    learner.insert(Explode(), before="gradient")
    with pytest.raises(kind, match="far off") as caught:
        learner.fit(epochs=1)
    assert caught.value is raised
    assert caught.traceback[-1].name == "run" and caught.traceback[-1].path.name == "test_bad_data.py"
    (note,) = caught.value.__notes__
    assert note.startswith("In train/epoch/fit/batch/explode at epoch 0, fit, batch 2, update 2.")
    assert learner.outcome.kind == "failed" and learner.outcome.error is raised
    assert learner.state.inputs.shape == (8, 1), "the values of the batch stay for the debugger"


def test_exception_of_a_loader_keeps_its_type() -> None:
    def rows() -> Iterator[Any]:
        yield BATCH
        raise Diverged("row 2")

    class Rows:
        def __iter__(self) -> Iterator[Any]:
            return rows()

    learner = toy_learner(train=Rows())
    with pytest.raises(Diverged, match="row 2") as caught:
        learner.fit(epochs=1)
    assert caught.value.__notes__[0].startswith("In train/epoch/fit/fetch at epoch 0, fit, batch 1")
    assert learner.state.batches_seen == 1


def test_after_a_failure_fit_works_again_from_where_it_stopped() -> None:
    learner, failing = toy_learner(), [True]

    @learner.after("update")
    def fail(state: Any) -> None:
        if failing and state.updates == 3:
            failing.clear()
            raise Diverged("once")

    with pytest.raises(Diverged, match="once"):
        learner.fit(epochs=1)
    assert (learner.state.updates, learner.state.batches_seen, learner.state.epochs_done) == (3, 2, 0)
    learner.fit(epochs=1)
    assert (learner.state.updates, learner.state.batches_seen, learner.state.epochs_done) == (11, 10, 1)
    assert learner.outcome.ok and not learner.state.ready("inputs")


def test_state_that_is_no_train_state_gives_its_own_errors() -> None:
    class Small(State):
        count: int = 0

    with pytest.raises(UnknownField, match="Small has no field 'cuont'. Did you mean 'count'") as caught:
        Small(cuont=1)
    assert caught.value.field == "cuont"
