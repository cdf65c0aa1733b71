"""Hooks around a stage: entered before it, resumed with its outcome afterwards, whatever that is."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import (
    Callback,
    Cancel,
    EvaluationPhase,
    GraphError,
    Learner,
    Outcome,
    Skip,
    Stage,
    StageError,
    TrainState,
    after,
    around,
    before,
    field,
)
from learner.testing import toy_learner
from stages import ContractBroken, DeclarationError
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


@pytest.mark.parametrize("side", ["before", "around"])
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (lambda: Skip("why"), "was not entered: skipped: why"),
        (lambda: Cancel("phase", "why"), r"was not entered: cancelled \(phase\) by train/epoch/fit:.*:end: why"),
        (lambda: Cancel("epoch", "why"), "was not entered: what it stands in was cancelled"),
        (lambda: Cancel("run", "why"), r"was not entered: cancelled \(run\) by train/epoch/fit:.*:end: why"),
    ],
    ids=["skip", "phase", "epoch", "run"],
)
def test_own_loop_cannot_be_left_out(side: str, raised: Any, told: str) -> None:
    learner = toy_learner(valid=None)

    def end(state: Any) -> Any:
        raise raised()
        yield

    def end_before(state: Any) -> None:
        raise raised()

    end_before.__name__ = "end"
    getattr(learner, side)("fit")(end if side == "around" else end_before)
    entered = False
    with pytest.raises(StageError, match=f"^train/epoch/fit {told}. The block of a `with` cannot be left out"):
        with learner.inside("epoch/fit"):
            entered = True
    assert not entered
    learner.hooks.remove("end")
    learner.fit(epochs=1)
    assert learner.outcome.ok and learner.state.updates == 8


# How it ended


@pytest.mark.parametrize("audit", ["off", "summary"])
@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (lambda: Skip("why"), "skipped"),
        (lambda: Cancel("batch", "why"), "cancelled"),
        (lambda: Cancel("run", "why"), "cancelled"),
        (lambda: ValueError("why"), "failed"),
        (lambda: KeyboardInterrupt("why"), "interrupted"),
        (lambda: SystemExit("why"), "interrupted"),
    ],
    ids=["skip", "batch", "run", "error", "ctrl-c", "exit"],
)
def test_hook_is_resumed_with_the_outcome_and_nothing_is_thrown_into_it(raised: Any, kind: str, audit: Any) -> None:
    learner = toy_learner(valid=None, audit=audit)
    seen: list[Outcome] = []

    @learner.around("gradient")
    def pair(state: Any) -> Any:
        try:
            outcome = yield
        except BaseException:
            pytest.fail("something was thrown into it")
        seen.append(outcome)

    if kind == "skipped":  # of the whole gradient, by a hook further inside

        @learner.around("gradient")
        def end_inside(state: Any) -> Any:
            raise raised()
            yield

    else:

        @learner.before("loss")
        def end(state: Any) -> None:
            raise raised()

    try:
        learner.fit(batches=1)
    except (ValueError, KeyboardInterrupt, SystemExit) as error:
        assert seen[0].error is error
    assert [outcome.kind for outcome in seen] == [kind]
    if kind == "cancelled":
        assert seen[0].by.endswith("loss:before:end") and seen[0].reason == "why"


def test_fetch_that_finds_no_batch_is_exhausted_for_the_hook_around_it() -> None:
    learner, seen = toy_learner(valid=None), list[str]()
    learner.around("fit/fetch")(noting(seen, "fetch"))
    learner.fit(epochs=1)
    assert seen[-2:] == ["fetch in", "fetch exhausted"] and seen.count("fetch ok") == 8


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (lambda: ValueError("no"), "failed"),
        (lambda: Cancel("batch", "no"), "cancelled"),
        (lambda: Skip("no"), "skipped"),
    ],
    ids=["error", "cancel", "skip"],
)
def test_hook_that_was_entered_is_left_where_a_later_one_is_not(raised: Any, kind: str) -> None:
    learner, seen = toy_learner(valid=None), list[str]()
    learner.around("update")(noting(seen, "first"))

    @learner.around("update")
    def second(state: Any) -> Any:
        seen.append("second in")
        raise raised()
        yield

    learner.around("update")(noting(seen, "third"))
    learner.after("update")(lambda state, outcome: seen.append(f"after {outcome.kind}"))
    try:
        learner.fit(batches=1)
    except ValueError as error:
        assert "In train/epoch/fit/batch/update:around:second at" in error.__notes__[0]
    assert seen == ["first in", "second in", f"first {kind}", f"after {kind}"]
    assert learner.state.updates == 0


def test_skip_of_a_hook_around_a_stage_ends_that_stage_alone() -> None:
    learner, seen = toy_learner(valid=None), list[str]()

    @learner.around("update")
    def odd(state: Any) -> Any:
        if state.batch_index % 2:
            raise Skip("odd")
        yield

    learner.after("update")(lambda state, outcome: seen.append(str(outcome)))
    learner.fit(epochs=1)
    assert (learner.state.updates, learner.state.batches_seen) == (4, 8)
    assert seen == ["ok", "skipped: odd"] * 4


def test_cancel_after_the_stage_is_taken_as_one_of_an_after_hook() -> None:
    learner, seen = toy_learner(valid=None), list[str]()

    @learner.around("update")
    def stop(state: Any) -> Any:
        yield
        raise Cancel("run", "low loss")

    learner.after("update")(lambda state, outcome: seen.append(outcome.kind))
    learner.fit(epochs=1)
    assert learner.outcome.by == "train/epoch/fit/batch/update:around:stop"
    assert (learner.state.updates, seen) == (1, ["cancelled"])


# What it does wrong


@pytest.mark.parametrize("where", ["before", "after"])
def test_error_of_the_hook_keeps_its_cause_and_gets_one_note(where: str) -> None:
    def broken(state: Any) -> Any:
        if where == "after":
            yield
        try:
            {}["x"]
        except KeyError as error:
            raise ValueError(where) from error
        yield

    with pytest.raises(ValueError, match=where) as caught:
        fitted(broken)
    assert isinstance(caught.value.__cause__, KeyError)
    (note,) = caught.value.__notes__
    assert note.startswith("In train/epoch/fit/batch/update:around:broken at epoch 0, fit, batch 0")


def test_error_of_the_stage_wins_over_those_of_the_hooks_around_it() -> None:
    learner = toy_learner()

    @learner.around("update")
    def outer(state: Any) -> Any:
        yield
        raise TypeError("outer")

    @learner.around("update")
    def inner(state: Any) -> Any:
        yield
        raise KeyError("inner")

    @learner.before("update")
    def fail(state: Any) -> None:
        raise ValueError("first")

    with pytest.raises(ValueError, match="^first"):
        learner.fit(batches=1)
    learner.hooks.remove("fail")
    with pytest.raises(KeyError, match="inner") as caught:
        learner.fit(batches=1)
    assert caught.value.__notes__[-1] == "Then an after-hook raised TypeError: outer"


def never(state: Any) -> Any:
    if state is None:
        yield


def twice(state: Any) -> Any:
    yield
    yield


def on_and_on(state: Any) -> Any:
    try:
        yield
        yield
    finally:
        yield


@contextmanager
def managed(state: Any) -> Any:
    yield


def skips_at_the_end(state: Any) -> Any:
    yield
    raise Skip("too late")


@pytest.mark.parametrize(
    ("hook", "match"),
    [
        (never, "never ended without `yield`, so the stage would have run outside of it"),
        (twice, "twice yields twice. It stands around one run of its stage: yield once"),
        (on_and_on, "on_and_on yields twice"),
        (managed, "managed gave a _GeneratorContextManager, no generator. Take off what wraps it"),
        (skips_at_the_end, "raises Skip after its stage has ended. Return instead, or raise it before the `yield`"),
    ],
)
def test_hook_that_does_not_stand_around_its_stage_is_an_error(hook: Any, match: str) -> None:
    with pytest.raises(ContractBroken, match=f"^train/epoch/fit/batch/update:around:.*{match}") as caught:
        fitted(hook)
    assert caught.value.actor == f"train/epoch/fit/batch/update:around:{hook.__name__}"


def test_hook_that_is_wrapped_in_a_function_still_is_a_generator() -> None:
    seen: list[str] = []

    def doubly(function: Hook) -> Hook:
        @wraps(function)
        def call(state: Any) -> Any:
            seen.append("wrapped")
            return function(state)

        return call

    def pair(state: Any) -> Any:
        yield from noting(seen, "pair")(state)

    fitted(doubly(pair))
    assert seen == ["wrapped", "pair in", "pair ok"] * 2


def plain(state: Any) -> None: ...


def takes_outcome(outcome: Any) -> Any:
    yield


def takes_values(model: Any) -> Any:
    yield


@pytest.mark.parametrize(
    ("hook", "options", "match"),
    [
        (plain, {}, "plain: stands around a stage and has no `yield`. Write `outcome = yield`"),
        (takes_outcome, {}, "takes 'outcome' before there is one. It is what `yield` gives"),
        (takes_values, {"writes": ("loss",)}, r"writes \['loss'\] and returns nothing. Take `state`, and set them"),
        (takes_values, {"restores": ("loss",)}, r"restores=\['loss'\] names fields. A pair gives back parts"),
        (takes_values, {"restores": ("model",)}, r"restores=\['model'\] names fields"),
        (takes_values, {"restores": "model.params"}, "restores = 'model.params' is a string"),
        (takes_values, {"restores": 3}, "restores = 3 is no tuple of names"),
        (takes_values, {"when": 3}, "when=3 cannot be called"),
        (takes_values, {"unsafe": "yes"}, "unsafe='yes'. It is True or False"),
    ],
)
def test_declaration_that_cannot_be_kept_is_refused(hook: Any, options: Any, match: str) -> None:
    with pytest.raises(DeclarationError, match=match):
        toy_learner().around("update", **options)(hook)


@pytest.mark.parametrize("side", ["before", "after"])
def test_only_a_hook_around_yields_and_restores(side: str) -> None:
    learner = toy_learner()
    with pytest.raises(DeclarationError, match=r"has a `yield`.* A hook that yields stands around: @around"):
        getattr(learner, side)("update")(takes_values)
    with pytest.raises(DeclarationError, match=r"restores=\['model.params'\] is for a hook `around`"):
        getattr(learner, side)("update", restores=("model.params",))(plain)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("model.parms", "declares 'model.parms', but State has no such field. Did you mean 'model.params'"),
        ("model.params?", r"declares 'model.params\?', but State has no such field"),
        ("critic.params", "declares 'critic.params', but State has no such field"),
    ],
)
def test_part_that_is_not_there_cannot_be_restored(name: str, match: str) -> None:
    with pytest.raises(GraphError, match=match):
        toy_learner().around("update", restores=(name,))(takes_values)


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


# What it restores


class Averaged(Callback):
    """Lends the model other weights for as long as the evaluation runs."""

    @around(EvaluationPhase, restores=("model.params",))
    @torch.no_grad()
    def lend(self, model: nn.Module) -> Any:
        own = copy.deepcopy(model.state_dict())
        for parameter in model.parameters():
            parameter.fill_(3.0)
        yield
        model.load_state_dict(own)


@pytest.mark.parametrize(
    "raised",
    [None, lambda: Cancel("batch"), lambda: Cancel("run"), lambda: Skip(), lambda: ValueError(), KeyboardInterrupt],
    ids=["ok", "batch", "run", "skip", "error", "ctrl-c"],
)
def test_lent_weights_are_back_however_the_evaluation_ends(raised: Any) -> None:
    learner, weights = toy_learner(callbacks=[Averaged()]), list[Tensor]()
    learner.before("validate")(lambda state: weights.append(state.model.weight.detach().clone()))

    @learner.before("validate_loss")
    def end(state: Any) -> None:
        weights.append(state.model.weight.detach().clone())
        if raised is not None:
            raise raised()

    try:
        learner.fit(epochs=1)
    except (ValueError, KeyboardInterrupt):
        pass
    own, *lent = weights
    assert torch.equal(learner.state.model.weight, own) and own.item() != 3.0
    assert lent and {weight.item() for weight in lent} == {3.0}


def test_restored_part_is_on_record_when_it_is_lent_and_when_it_is_back() -> None:
    learner = toy_learner(callbacks=[Averaged()])
    learner.fit(epochs=1)
    lent = learner.log.where(actor="**:around:Averaged.lend", epoch=0)
    assert [(change.field, change.evidence) for change in lent] == [
        ("model.params", "until restored"),
        ("model.params", "restored"),
    ]


def test_deep_part_may_be_restored() -> None:
    learner = fitted(takes_values, restores=("model.params.weight", "optimizer.hyper.lr", "rng", "*.mode"))
    assert learner.state.updates == 2
    fields = {change.field for change in learner.log.where(actor="**/update:around:takes_values")}
    assert {"model.params.weight", "optimizer.hyper.lr", "rng", "model.mode"} <= fields


def test_part_that_a_pair_is_there_to_change_is_on_record_at_its_end() -> None:
    @torch.no_grad()
    def shrink(model: nn.Module) -> Any:
        yield
        for parameter in model.parameters():
            parameter.mul_(0.5)

    learner = fitted(shrink, writes=("model.params",))
    (first, second) = learner.log.where(actor="**/update:around:shrink", field="model.params")
    assert (first.evidence, second.evidence) == ("inferred", "inferred")


# The list of hooks


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
