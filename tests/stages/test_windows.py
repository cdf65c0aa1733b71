"""Windows: several batches for one update, with whatever a loader, a limit or a Cancel leaves of them."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Cancel, GraphError, Learner, Skip, field, supervised
from learner.testing import run_stage, toy_learner
from stages import (
    AverageGradients,
    Backward,
    BatchError,
    ClearGradients,
    DeclarationError,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Microbatches,
    Misuse,
    Train,
    Unpack,
    Update,
    Window,
)
from state import TrainState

BATCH = (torch.ones(2, 1), torch.ones(2, 1))


def windowed(batches: int = 3, count: int = 8, **settings: Any) -> tuple[Learner, list[int]]:
    """A Learner whose loader has `count` batches, and the list of the sizes of its windows."""
    settings.setdefault("train", [BATCH] * count)
    learner = toy_learner(stages=supervised(accumulate=batches, valid=False), valid=None, **settings)
    sizes: list[int] = []
    learner.before("update")(lambda state: sizes.append(state.window_size))
    return learner, sizes


@pytest.mark.parametrize(
    ("batches", "count", "expected"),
    [
        (3, 8, [3, 3, 2]),
        (4, 8, [4, 4]),
        (8, 8, [8]),
        (9, 8, [8]),
        (1, 3, [1, 1, 1]),
        (2, 1, [1]),
        (3, 4, [3, 1]),
    ],
)
def test_window_has_so_many_batches_and_the_last_one_what_is_left(
    batches: int, count: int, expected: list[int]
) -> None:
    learner, sizes = windowed(batches, count)
    learner.fit(epochs=2)
    state = learner.state
    assert sizes == expected * 2, "a loader that ends at the border of a window gives no empty one"
    assert (state.updates, state.batches_seen, state.epochs_done) == (2 * len(expected), 2 * count, 2)
    assert state.samples_seen == 4 * count and learner.outcome.ok


@pytest.mark.parametrize(
    ("limit", "sizes", "batches", "epochs"),
    [
        ({"batches": 1}, [1], 1, 0),
        ({"batches": 3}, [3], 3, 0),
        ({"batches": 4}, [3, 1], 4, 0),
        ({"batches": 8}, [3, 3, 2], 8, 0),
        ({"batches": 10}, [3, 3, 2, 2], 10, 1),
        ({"updates": 1}, [3], 3, 0),
        ({"updates": 3}, [3, 3, 2], 8, 0),
        ({"updates": 4}, [3, 3, 2, 3], 11, 1),
    ],
    ids=str,
)
def test_limit_inside_a_window_lets_its_update_follow(
    limit: dict[str, int], sizes: list[int], batches: int, epochs: int
) -> None:
    learner, seen = windowed()
    learner.fit(**limit)
    assert seen == sizes
    assert (learner.state.updates, learner.state.batches_seen) == (len(sizes), batches)
    assert (learner.state.epochs_done, learner.outcome.kind) == (epochs, "ok")


def test_next_fit_begins_a_window_of_its_own() -> None:
    learner, seen = windowed()
    learner.fit(batches=4)
    learner.fit(batches=2)
    assert seen == [3, 1, 2]


def cancelling(which: set[int], scope: str = "batch", slot: str = "unpack") -> tuple[Learner, list[int]]:
    learner, sizes = windowed()

    @learner.after(slot)
    def stop(state: Any) -> None:
        if state.batch_index in which:
            raise Cancel(scope, "not this one")

    return learner, sizes


@pytest.mark.parametrize(
    ("which", "scope", "sizes", "batches"),
    [
        ({1}, "batch", [2, 3, 2], 8),
        ({6, 7}, "batch", [3, 3], 8),
        ({7}, "batch", [3, 3, 1], 8),
        ({0, 1, 2}, "batch", [3, 2], 8),
        ({1}, "update", [3, 3], 7),
        ({4}, "phase", [3], 4),
    ],
    ids=str,
)
def test_cancelled_batch_does_not_count_for_its_window(
    which: set[int], scope: str, sizes: list[int], batches: int
) -> None:
    learner, seen = cancelling(which, scope)
    learner.fit(epochs=1)
    assert (seen, learner.state.batches_seen, learner.state.updates) == (sizes, batches, len(sizes))
    assert learner.outcome.ok and learner.state.epochs_done == 1


def test_window_without_a_batch_cancels_its_update_whatever_its_gradients() -> None:
    learner, sizes = cancelling({3, 4, 5}, slot="backward")
    seen: list[str] = []
    learner.after("window")(lambda state, outcome: seen.append(str(outcome)))
    learner.fit(epochs=1)
    told = "cancelled (update) by train/epoch/fit/window: every batch of its window was cancelled or skipped"
    assert seen == ["ok", told, "ok"]
    assert sizes == [3, 2] and bool(learner.state.model.weight.isfinite())


@pytest.mark.parametrize("which", [{6}, {5, 6}, {4, 5, 6}, {3, 4, 5, 6}])
def test_limit_that_comes_with_a_cancelled_batch_ends_the_run_there(which: set[int]) -> None:
    learner, _ = cancelling(which)
    learner.fit(batches=7)
    assert (learner.state.batches_seen, learner.state.epochs_done) == (7, 0)
    assert learner.outcome.reason == "fit(batches=7)"


def test_error_in_a_window_leaves_everything_for_the_debugger() -> None:
    learner, sizes = windowed()

    @learner.after("loss", every="5 batches")
    def fail(loss: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        learner.fit(epochs=1)
    assert "at epoch 0, fit, batch 4, update 1" in caught.value.__notes__[0]
    assert sizes == [3] and learner.state.inputs is BATCH[0]
    learner.hooks.remove(fail)
    learner.fit(epochs=1)
    assert learner.state.epochs_done == 1


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TensorDataset(torch.ones(20, 1), torch.ones(20, 1)), batch_size=4, num_workers=0),
        DataLoader(TensorDataset(torch.ones(22, 1), torch.ones(22, 1)), batch_size=4, drop_last=True),
        tuple([BATCH] * 5),
    ],
    ids=["loader", "drop last", "tuple"],
)
def test_any_loader_is_read_in_windows(loader: Any) -> None:
    learner, sizes = windowed(train=loader)
    learner.fit(epochs=2)
    assert sizes == [3, 2] * 2


def test_generator_is_read_in_windows_once() -> None:
    learner, sizes = windowed(train=(BATCH for _ in range(5)))
    learner.fit(epochs=1)
    assert sizes == [3, 2]
    with pytest.raises(BatchError, match="The loader gave no batch .its iterator is a generator"):
        learner.fit(epochs=1)


def test_empty_loader_is_an_error_in_a_window_too() -> None:
    learner, _ = windowed(train=[])
    with pytest.raises(BatchError, match="The loader gave no batch"):
        learner.fit(epochs=1)


def test_loop_of_ones_own_runs_inside_a_window() -> None:
    learner, _ = windowed()
    learner.fit(updates=1)
    learner.state.optimizer.zero_grad()
    with learner.inside("fit/window"):
        for _ in range(2):
            learner.fit_batch(BATCH)
    assert (learner.state.batches_seen, learner.state.updates) == (5, 1)


def test_single_batch_is_no_round_of_a_loop_of_updates() -> None:
    learner, _ = windowed()
    with pytest.raises(
        Misuse, match="a round of train/epoch/fit is another thing. Enter the loop whose rounds are bat"
    ):
        learner.fit_batch(BATCH)
    with pytest.raises(Misuse, match="fit_batch.. runs one batch"), learner.inside("epoch/fit"):
        learner.fit_batch(BATCH)
    learner.fit(epochs=1)
    assert learner.state.updates == 3


def tree(window: Any, *, each: str | None = "update", **slots: Any) -> Train:
    return Train(Epoch(Fit(ClearGradients(), window, AverageGradients(), Update(), each=each, **slots)))


def inside() -> list[Any]:
    return [Fetch(), FitBatch(Unpack(), Gradient(Forward(), Loss(), Backward()))]


def test_window_in_a_loop_of_batches_is_refused() -> None:
    with pytest.raises(
        GraphError, match=r"window gathers batches for one update, but each round of train/epoch/fit is"
    ):
        toy_learner(valid=None, stages=tree(Window(3, *inside()), each=None))
    alone = Fit(
        Window(3, Fetch(), FitBatch(Unpack(), ClearGradients(), Gradient(Forward(), Loss(), Backward()), Update()))
    )
    with pytest.raises(GraphError, match=r"is a 'batch'. Write Fit\(..., each='update'\)") as caught:
        toy_learner(valid=None, stages=Train(Epoch(alone)))
    (finding,) = caught.value.findings
    assert finding.kind == "window without update"
    assert finding.actors == ("train/epoch/fit/window", "train/epoch/fit")
    toy_learner(valid=None, stages=tree(Window(3, *inside()))).fit(epochs=1)


def test_window_without_the_clearing_of_gradients_is_refused() -> None:
    made = Train(Epoch(Fit(Window(3, *inside()), AverageGradients(), Update(), each="update")))
    with pytest.raises(GraphError, match="backward reads 'model.grads', which nobody has cleared before"):
        toy_learner(valid=None, stages=made)


@pytest.mark.parametrize("made", [lambda: Window(3, each="update"), lambda: Microbatches(3, each="batch")])
def test_rounds_of_windows_and_parts_cannot_be_others(made: Any) -> None:
    with pytest.raises(DeclarationError, match="got each='(update|batch)'. Its rounds are (batches|parts)"):
        made()


class Sized(TrainState):
    window_size: int = field(scope="update", description="as a Window brings it")


def test_average_divides_the_gradients_that_the_optimizer_uses() -> None:
    model, frozen = nn.Linear(2, 1), nn.Linear(1, 1)
    model.weight.grad, frozen.weight.grad = torch.tensor([[3.0, 6.0]]), torch.tensor([[3.0]])
    state = Sized(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    run_stage(AverageGradients(), state, window_size=3)
    assert model.weight.grad.tolist() == [[1.0, 2.0]] and model.bias.grad is None
    assert frozen.weight.grad.tolist() == [[3.0]]


@pytest.mark.parametrize(("limit", "totals"), [({"epochs": 1}, [3, 6, 8]), ({"batches": 5}, [3, 5])])
def test_checkpoint_stands_where_the_window_is_closed(limit: dict[str, int], totals: list[int]) -> None:
    learner, _ = windowed(3)
    seen: list[tuple[int, int, bool]] = []

    @learner.after("fit/checkpoint")
    def note(state: Any) -> None:
        seen.append((state.updates, state.batches_seen, state.ready("window_size")))

    learner.fit(**limit)
    assert seen == [(number, total, False) for number, total in enumerate(totals, start=1)]


def test_skipped_batch_does_not_count_in_the_mean_of_its_window() -> None:
    learner, sizes = windowed(4)

    @learner.before("window/batch")
    def skip(state: Any) -> None:
        if state.batch_index in (1, 4, 5, 6, 7):
            raise Skip("no use")

    learner.fit(epochs=1)
    assert sizes == [3]
    assert (learner.state.updates, learner.state.batches_seen) == (1, 8), "it was seen, as a cancelled one is"
