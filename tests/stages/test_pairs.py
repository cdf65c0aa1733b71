"""Hooks around a stage: entered before it, resumed with its outcome afterwards, whatever that is."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import (
    Callback,
    Cancel,
    EvaluationPhase,
    GraphError,
    Learner,
    Outcome,
    Stage,
    TrainState,
    after,
    around,
    before,
    field,
)
from learner.testing import toy_learner
from stages import ContractBroken
from state import AccessDenied, FieldNotReady

Hook = Callable[[Any], Iterator[None]]


def noting(seen: list[str], name: str) -> Hook:
    """A hook that notes when it is entered, and the outcome with which it is left."""

    def pair(state: Any) -> Any:
        seen.append(f"{name} in")
        outcome: Outcome = yield
        seen.append(f"{name} {outcome.kind}")

    return pair


def fitted(hook: Any, target: str = "update", *, audit: Any = "summary", **options: Any) -> Learner:
    learner = toy_learner(valid=None, audit=audit)
    learner.around(target, **options)(hook)
    learner.fit(batches=2)
    return learner


# When


@pytest.mark.parametrize("audit", ["off", "summary"])
def test_hooks_of_a_slot_run_before_around_and_after_it(audit: Any) -> None:
    learner, seen = toy_learner(valid=None, audit=audit), list[str]()
    learner.after("update")(lambda state: seen.append("after"))
    learner.around("update")(noting(seen, "outer"))
    learner.around("update")(noting(seen, "inner"))
    learner.before("update")(lambda state: seen.append("before"))
    learner.before("update")(lambda state: seen.append("second before"))
    learner.after("update")(lambda state: seen.append("second after"))
    learner.fit(batches=1)
    assert seen == [
        *("before", "second before", "outer in", "inner in", "inner ok", "outer ok", "after", "second after")
    ]


def test_stage_runs_where_the_hook_yields() -> None:
    seen: list[int] = []

    def count(state: Any) -> Any:
        seen.append(state.updates)
        yield
        seen.append(state.updates)

    fitted(count)
    assert seen == [0, 1, 1, 2]


def test_declared_order_of_callbacks_orders_the_pairs() -> None:
    seen: list[str] = []

    class Outer(Callback):
        @around("update", reads=("loss",), runs_before=("Inner",))
        def pair(self, state: Any) -> Any:
            yield from noting(seen, "outer")(state)

    class Inner(Callback):
        @around("update", reads=("loss",))
        def pair(self, state: Any) -> Any:
            yield from noting(seen, "inner")(state)

    toy_learner(callbacks=[Inner(), Outer()]).fit(batches=1)
    assert seen == ["outer in", "inner in", "inner ok", "outer ok"]


def test_observer_stands_inside_those_that_act() -> None:
    learner, seen = toy_learner(), list[str]()
    learner.around("update")(noting(seen, "observer"))
    learner.around("update", reads=("loss",))(noting(seen, "reader"))
    learner.fit(batches=1)
    assert seen == ["reader in", "observer in", "observer ok", "reader ok"]


@pytest.mark.parametrize(
    ("target", "count"),
    [("/", 1), ("epoch", 1), ("fit", 1), (EvaluationPhase, 1), ("fit/batch", 8), ("batch", 10), ("fit/checkpoint", 8)],
    ids=str,
)
def test_hook_stands_around_any_place(target: Any, count: int) -> None:
    learner, seen = toy_learner(), list[str]()
    learner.around(target)(noting(seen, "pair"))
    learner.fit(epochs=1)
    assert seen == ["pair in", "pair ok"] * count


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({"every": "3 batches"}, [2, 5]),
        ({"first": "2 batches"}, [0, 1]),
        ({"every": "2 updates", "first": "5 updates"}, [1, 3]),
        ({"when": lambda state: state.batch_index in (0, 7)}, [0, 7]),
        ({"when": lambda state: state.updates < 1}, [0]),
    ],
    ids=["every", "first", "both", "when", "when that changes meanwhile"],
)
def test_thinned_hook_is_left_wherever_it_was_entered(options: dict[str, Any], batches: list[int]) -> None:
    learner, seen = toy_learner(valid=None), list[Any]()

    @learner.around("update", **options)
    def pair(state: Any) -> Any:
        seen.append(state.batch_index)
        seen.append((yield).kind)

    learner.fit(epochs=1)
    assert seen == [one for batch in batches for one in (batch, "ok")]


class InPieces(Stage):
    """Two inline stages."""

    inline = ("forward", "loss")
    reads = ("inputs", "loss_fn", "model", "targets")
    writes = ("outputs", "loss")

    def run(self, state: TrainState) -> None:
        with state.stage("forward"):
            state.outputs = state.model(state.inputs)
        with state.stage("loss"):
            state.loss = state.loss_fn(state.outputs, state.targets)


def in_pieces() -> Learner:
    learner = toy_learner(valid=None)
    learner.insert(InPieces(), before="gradient", slot="pieces")
    return learner


def test_hook_stands_around_an_inline_stage() -> None:
    learner, seen = in_pieces(), list[Any]()

    @learner.around("pieces/loss")
    def pair(state: Any) -> Any:
        seen.append(state.ready("loss"))
        outcome = yield
        seen.extend((state.ready("loss"), outcome.kind))

    learner.fit(batches=1)
    assert seen == [False, True, "ok"]


def test_own_loop_is_inside_the_hooks_around_it() -> None:
    learner, seen = toy_learner(valid=None), list[str]()
    for target in ("epoch", "fit", "fit/batch"):
        learner.around(target)(noting(seen, target))
    with learner.inside("epoch/fit"):
        seen.append("loop")
        learner.fit_batch((torch.ones(2, 1), torch.ones(2, 1)))
    batch = ["fit/batch in", "fit/batch ok"]
    assert seen == ["epoch in", "fit in", "loop", *batch, "fit ok", "epoch ok"]


def test_own_loop_that_fails_leaves_the_hooks_around_it_with_its_outcome() -> None:
    learner, seen = toy_learner(valid=None), list[str]()
    learner.around("fit")(noting(seen, "fit"))
    with pytest.raises(ValueError, match="mine"), learner.inside("epoch/fit"):
        raise ValueError("mine")
    with learner.inside("epoch/fit"):
        raise Cancel("phase", "enough")
    assert seen == ["fit in", "fit failed", "fit in", "fit cancelled"]


# What it may read and write


def test_parameters_are_the_values_at_its_entry() -> None:
    learner, seen = toy_learner(valid=None), list[Any]()

    @learner.around("update")
    def look(loss: Tensor, updates: int, valid_loss: Any = None) -> Any:
        yield
        seen.append((loss.dim(), updates, valid_loss))

    learner.fit(batches=2)
    assert seen == [(0, 0, None), (0, 1, None)]


def test_value_that_is_not_there_at_its_entry_is_refused_when_the_tree_is_built() -> None:
    with pytest.raises(GraphError, match="forward:around:look reads 'loss', which .*/loss writes only afterwards"):

        @toy_learner(valid=None).around("forward", within="fit")
        def look(loss: Tensor) -> Any:
            yield


class NormState(TrainState):
    norm: Tensor = field(scope="batch", description="of the weights, before the update")


def test_view_reads_and_writes_on_both_sides_of_the_stage() -> None:
    learner, seen = toy_learner(valid=None), list[float]()

    @learner.around("update", reads=("model.params",), writes=("norm",))
    def measure(state: NormState) -> Any:
        state.norm = state.model.weight.norm().detach()
        yield
        seen.append((state.model.weight.norm() - state.norm).item())

    learner.after("update")(lambda norm: seen.append(norm.item()))
    learner.fit(batches=1)
    assert seen[0] > 0 and seen[1] == 0
    assert learner.log.blame("norm").actor == "train/epoch/fit/batch/update:around:measure"


@pytest.mark.parametrize("raised", [None, lambda: Cancel("batch", "why")], ids=["ok", "cancelled"])
def test_promise_to_write_is_kept_if_the_stage_ends_well(raised: Any) -> None:
    learner = toy_learner(valid=None)

    @learner.around("update", writes=("norm",))
    def idle(state: NormState) -> Any:
        yield

    if raised:

        @learner.before("update")
        def cancel(state: Any) -> None:
            raise raised()

        learner.fit(batches=1)
        assert learner.outcome.ok
    else:
        with pytest.raises(ContractBroken, match="idle declares that it writes 'norm' and ended without a value there"):
            learner.fit(batches=1)


def test_what_it_set_in_one_round_is_not_its_own_in_the_next() -> None:
    class Kept(TrainState):
        kept: int = field(default=0)

    learner = toy_learner(valid=None)

    @learner.around("update", writes=("kept",))
    def once(state: Kept) -> Any:
        if learner.state.updates == 0:
            state.kept = 1
        assert state.kept == 1
        yield

    with pytest.raises(AccessDenied, match="may not read 'kept'. .* once it has set it"):
        learner.fit(batches=2)
    assert learner.state.updates == 1


def test_value_that_ended_early_is_missed_with_the_actors_name() -> None:
    learner = toy_learner(valid=None)

    @learner.around("gradient")
    def look(state: Any) -> Any:
        yield
        state.loss  # noqa: B018

    @learner.before("loss")
    def stop(state: Any) -> None:
        raise Cancel("batch", "why")

    with pytest.raises(FieldNotReady, match="gradient:around:look reads 'loss', which has no value now"):
        learner.fit(batches=1)


# The list of hooks


def takes_values(model: Any) -> Any:
    yield


def test_around_gives_the_function_back_and_the_list_shows_its_side() -> None:
    learner = toy_learner()
    assert learner.around("update")(takes_values) is takes_values
    assert "takes_values" in learner.hooks
    line = next(line for line in repr(learner.hooks).splitlines() if line.startswith("takes_values"))
    assert line.split() == ["takes_values", "around", "update"]
    learner.hooks.remove(takes_values)
    assert "takes_values" not in learner.hooks


def test_one_callback_may_stand_on_all_sides() -> None:
    seen: list[str] = []

    class Everywhere(Callback):
        @before("update")
        def ahead(self, state: Any) -> None:
            seen.append("before")

        @around("update")
        def pair(self, state: Any) -> Any:
            yield from noting(seen, "pair")(state)

        @after("update")
        def behind(self, state: Any) -> None:
            seen.append("after")

    toy_learner(callbacks=[Everywhere()]).fit(batches=1)
    assert seen == ["before", "pair in", "pair ok", "after"]


def test_explain_lists_the_hooks_around_in_their_order() -> None:
    learner = toy_learner()
    learner.around("update", restores=("model.mode",))(takes_values)
    told = learner.explain("update")
    assert "hooks around it, in this order:\n    1. takes_values: reads model; restores model.mode" in told
