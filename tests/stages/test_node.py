"""One place of the tree: hooks before, the body, hooks after, exactly once, whatever the end."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from learner import Cancel, Composite, Learner, Outcome, Stage, StageError, TrainState, stage, supervised
from learner.testing import events, toy_learner
from stages import Backward, Forward, Loss, Misuse
from stages.cancel import Exhausted


def ends(learner: Learner, slots: tuple[str, ...] = ("forward", "gradient", "batch", "fit", "epoch")) -> list[str]:
    """Each before and after of these slots of the training, as "slot" and "slot: outcome"."""
    seen: list[str] = []
    for slot in slots:
        within = "train/epoch/fit" if slot not in ("epoch", "train") else None
        learner.before(slot, within=within)(noting(seen, slot))
        learner.after(slot, within=within)(noting_outcome(seen, slot))
    return seen


def noting(seen: list[str], slot: str) -> Callable[[Any], None]:
    def begin(state: Any) -> None:
        seen.append(slot)

    return begin


def noting_outcome(seen: list[str], slot: str) -> Callable[[Any, Outcome], None]:
    def end(state: Any, outcome: Outcome) -> None:
        seen.append(f"{slot}: {outcome.kind}")

    return end


def at(learner: Learner, side: str, slot: str, raised: Callable[[], BaseException], batch: int = 1) -> None:
    """Let a hook raise in one batch."""

    @getattr(learner, side)(slot, within="fit")
    def act(state: Any) -> None:
        if state.ready("batch_index") and state.batch_index == batch:
            raise raised()


@pytest.mark.parametrize("audit", ["off", "summary"])
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("slot", ["forward", "loss", "update", "batch"])
@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (lambda: Cancel("batch", "why"), "cancelled"),
        (lambda: Cancel("phase", "why"), "cancelled"),
        (lambda: Cancel("epoch", "why"), "cancelled"),
        (lambda: Cancel("run", "why"), "cancelled"),
        (lambda: ValueError("why"), "failed"),
        (lambda: KeyboardInterrupt("why"), "interrupted"),
        (lambda: SystemExit("why"), "interrupted"),
        (Exhausted, "exhausted"),
    ],
    ids=["batch", "phase", "epoch", "run", "error", "ctrl-c", "exit", "exhausted"],
)
def test_after_hooks_run_exactly_once_for_every_way_to_end(
    raised: Any, kind: str, slot: str, side: str, audit: Any
) -> None:
    learner = toy_learner(valid=None, audit=audit)
    seen = ends(learner)
    at(learner, side, slot, raised)
    try:
        learner.fit(batches=4)
    except (ValueError, KeyboardInterrupt, SystemExit) as error:
        assert learner.outcome.error is error
    for name in ("forward", "gradient", "batch", "fit", "epoch"):
        assert seen.count(name) == sum(one.startswith(f"{name}: ") for one in seen), seen
    stack: list[str] = []
    for one in seen:
        if ":" in one:
            assert stack.pop() == one.split(":")[0], "they nest"
        else:
            stack.append(one)
    assert not stack
    if slot in ("forward", "loss"):
        assert f"gradient: {kind}" in seen


@pytest.mark.parametrize(
    ("scope", "counts", "outcome"),
    [
        ("batch", (8, 8, 1), "ok"),
        ("phase", (3, 3, 1), "ok"),
        ("epoch", (3, 3, 1), "ok"),
        ("run", (3, 3, 0), "cancelled"),
    ],
)
def test_cancel_ends_the_scope_it_names_and_no_more(scope: str, counts: tuple[int, ...], outcome: str) -> None:
    learner = toy_learner()
    seen = events(learner)
    at(learner, "after", "update", lambda: Cancel(scope, "enough"), batch=2)
    learner.fit(epochs=1)
    state = learner.state
    assert (state.updates, state.batches_seen, state.epochs_done)[0] == counts[0]
    assert state.epochs_done == counts[2]
    assert learner.outcome.kind == outcome
    assert ("before validate" in seen) == (scope in ("batch", "phase"))
    if scope == "run":
        assert learner.outcome == Outcome("cancelled", "train/epoch/fit/batch/update:after:act", "run", "enough")


def test_cancel_of_a_scope_that_is_not_open_is_an_error_with_those_that_are() -> None:
    learner = toy_learner()
    at(learner, "after", "update", lambda: Cancel("attempt"))
    with pytest.raises(StageError, match="cancels the scope 'attempt', which is not open. Open are") as caught:
        learner.fit(epochs=1)
    assert "['run', 'epoch', 'phase', 'batch']" in str(caught.value)
    assert learner.outcome.kind == "failed"


def test_cancel_object_that_is_raised_twice_is_taken_twice() -> None:
    stop = Cancel("batch", "again")
    learner = toy_learner()
    learner.before("update")(lambda state: raise_(stop))
    learner.fit(epochs=2)
    assert learner.outcome.ok and (learner.state.updates, learner.state.batches_seen) == (0, 16)


def raise_(error: BaseException) -> None:
    raise error


def test_after_hook_that_fails_skips_no_other_and_the_first_error_wins() -> None:
    learner, seen = toy_learner(), []

    @learner.after("update")
    def first(state: Any) -> None:
        raise ValueError("first")

    @learner.after("update")
    def second(state: Any, outcome: Outcome) -> None:
        seen.append(str(outcome))
        raise TypeError("second")

    with pytest.raises(ValueError, match="^first") as caught:
        learner.fit(epochs=1)
    assert seen == ["failed: ValueError: first"]
    assert caught.value.__notes__[-1] == "Then train/epoch/fit/batch/update:after:second raised TypeError: second"


def test_error_of_an_after_hook_wins_over_a_cancel() -> None:
    learner = toy_learner()
    at(learner, "before", "update", lambda: Cancel("batch"))
    at(learner, "after", "batch", lambda: ValueError("mine"))
    with pytest.raises(ValueError, match="mine"):
        learner.fit(epochs=1)


def test_wide_cancel_wins_over_a_narrow_one_and_any_over_the_end_of_a_loader() -> None:
    learner = toy_learner()
    at(learner, "before", "update", lambda: Cancel("batch", "narrow"))
    at(learner, "after", "batch", lambda: Cancel("run", "wide"))
    learner.fit(epochs=1)
    assert (learner.outcome.scope, learner.outcome.reason) == ("run", "wide")

    learner = toy_learner()

    @learner.after("fetch", within="fit")
    def stop(state: Any, outcome: Outcome) -> None:
        if outcome.kind == "exhausted":
            raise Cancel("run", "no more")

    learner.fit(epochs=3)
    assert learner.outcome.reason == "no more" and learner.state.batches_seen == 8


def test_narrow_cancel_does_not_undo_a_wide_one() -> None:
    learner = toy_learner()
    at(learner, "before", "update", lambda: Cancel("run", "wide"))
    at(learner, "after", "batch", lambda: Cancel("batch", "narrow"))
    learner.fit(epochs=1)
    assert learner.outcome.reason == "wide" and learner.state.updates == 1


def test_hook_whose_values_are_not_there_is_left_out_when_the_stage_ended_early() -> None:
    learner, seen = toy_learner(valid=None), []
    at(learner, "before", "loss", lambda: Cancel("batch"))
    learner.after("fetch")(lambda batch: seen.append("fetch"))
    learner.after("batch")(lambda loss: seen.append("values"))
    learner.after("batch")(lambda state: seen.append(f"observer {state.loss.dim()}"))
    learner.after("batch", when=lambda state: state.loss.isfinite())(lambda state: seen.append("thinned"))
    learner.after("batch")(lambda state, outcome: seen.append(outcome.kind))
    learner.fit(epochs=1)
    assert learner.outcome.ok
    assert [seen.count(one) for one in ("fetch", "values", "observer 0", "thinned")] == [8, 7, 7, 7]
    assert (seen.count("ok"), seen.count("cancelled")) == (7, 1)


def test_hook_whose_values_are_not_there_is_an_error_when_the_stage_ended_well() -> None:
    learner = toy_learner(valid=None)
    learner.after("fetch")(lambda state: state.loss)
    with pytest.raises(Exception, match="reads 'loss', which has no value now"):
        learner.fit(epochs=1)


class InOnePiece(Stage):
    """Forward, loss and backward as inline stages."""

    inline = ("forward", "loss", "backward")
    reads = ("inputs", "loss_fn", "model", "model.grads", "targets")
    writes = ("outputs", "loss", "model.grads")

    def run(self, state: TrainState) -> None:
        with state.stage("forward"):
            state.outputs = state.model(state.inputs)
        with state.stage("loss"):
            state.loss = state.loss_fn(state.outputs, state.targets)
        with state.stage("backward"):
            state.loss.backward()


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("raised", [lambda: Cancel("batch"), lambda: ValueError("x")], ids=["cancel", "error"])
def test_inline_stage_runs_its_after_hooks_once_for_every_way_to_end(raised: Any, side: str) -> None:
    learner = toy_learner(valid=None)
    learner.swap("gradient", InOnePiece())
    seen = ends(learner, ("forward", "loss", "gradient"))
    at(learner, side, "gradient/forward", raised, batch=0)
    try:
        learner.fit(batches=2)
    except ValueError:
        pass
    kind = "cancelled" if isinstance(raised(), Cancel) else "failed"
    first = [f"forward: {kind}" if side == "before" else "forward: ok"]
    assert seen[:4] == ["gradient", "forward", *first, f"gradient: {kind}"]


def test_writes_inside_an_inline_stage_are_its_own() -> None:
    learner = toy_learner()
    learner.swap("gradient", InOnePiece())
    learner.fit(batches=1)
    change = learner.log.where(field="loss", batch=0)[0]
    assert change.actor == "train/epoch/fit/batch/gradient/loss"


def test_inline_stage_that_is_not_listed_is_refused() -> None:
    class Unlisted(InOnePiece):
        inline = ("forward", "loss")

    learner = toy_learner(stages=supervised().swap("fit/batch/gradient", Unlisted()))
    with pytest.raises(Misuse, match="enters the inline stage 'backward', which it does not list"):
        learner.fit(epochs=1)


class Timed(Composite):
    """Runs its stages inside an inline stage."""

    inline = ("clock",)

    def run(self, state: Any) -> None:
        with state.stage("clock"):
            super().run(state)


def test_composite_may_run_its_stages_inside_an_inline_stage() -> None:
    learner = toy_learner(stages=supervised().swap("fit/batch/gradient", Timed(Forward(), Loss(), Backward())))
    seen = ends(learner, ("clock", "forward"))
    learner.fit(batches=1)
    assert seen == ["clock", "forward", "forward: ok", "clock: ok"]


def test_composite_may_only_run_what_it_holds() -> None:
    class Wrong(Composite):
        def run(self, state: Any) -> None:
            super().run(state)
            Forward()(state)

    learner = toy_learner(stages=supervised().swap("fit/batch/gradient", Wrong(Forward(), Loss(), Backward())))
    with pytest.raises(Misuse, match="runs Forward.., which it does not hold. It holds .*'forward', 'loss'"):
        learner.fit(epochs=1)


def test_stage_that_keeps_no_promise_is_an_error() -> None:
    class Idle(Stage):
        writes = ("outputs",)

        def run(self, state: Any) -> None:
            pass

    @stage(writes=("outputs", "loss"))
    def half(inputs: Tensor) -> Tensor:
        return inputs

    for broken, match in ((Idle(), "ended without a value there"), (half, "returns a tuple of 2; it returned Tensor")):
        learner = toy_learner(stages=supervised().insert(broken, before="fit/batch/gradient"))
        with pytest.raises(StageError, match=match):
            learner.fit(epochs=1)
