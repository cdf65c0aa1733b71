"""How a stage ends: Cancel as a signal, and the outcome that after-hooks, the Learner and the log see."""

from typing import Any

import pytest

from learner import Cancel, Exhausted, Outcome, Skip, StageError
from learner.testing import toy_learner
from stages.cancel import OK, Reached, is_failure


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (Cancel("batch", "loss is not finite"), "cancelled", "loss is not finite"),
        (Exhausted(), "exhausted", ""),
        (Skip("not now"), "skipped", "not now"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (SystemExit(1), "interrupted", "SystemExit"),
        (ValueError("no"), "failed", "ValueError: no"),
    ],
)
def test_outcome_follows_from_what_was_raised(error: BaseException, kind: str, reason: str) -> None:
    outcome = Outcome.of(error)
    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert outcome.ok is (kind == "ok")
    assert (outcome.error is error) is (kind in ("interrupted", "failed"))


def test_end_that_fit_asked_for_is_good_for_a_loop_and_cuts_the_rest_short() -> None:
    end = Reached("run", "fit(batches=3)")
    assert (Outcome.of(end, is_loop=True).kind, Outcome.of(end).kind) == ("ok", "cancelled")
    assert Outcome.of(end).reason == "fit(batches=3)"


def test_cancel_is_no_exception_that_user_code_swallows() -> None:
    assert not issubclass(Cancel, Exception)
    assert not issubclass(Exhausted, Exception)
    assert not issubclass(Skip, Exception)


def test_skip_is_no_failure_and_keeps_no_values() -> None:
    assert not is_failure(Skip("why")) and not is_failure(Cancel("batch")) and is_failure(KeyboardInterrupt())


def test_outcome_reads_as_a_sentence() -> None:
    signal = Cancel("run", "low loss")
    signal.by = "train/epoch:after:Stop.judge"
    assert str(Outcome.of(signal)) == "cancelled (run) by train/epoch:after:Stop.judge: low loss"
    assert str(OK) == "ok"
    assert str(Outcome.of(Skip("not now"))) == "skipped: not now"
    assert Outcome.of(Skip("not now")).told == "not now" and Outcome.of(Skip()).told is None


@pytest.mark.parametrize(
    ("scope", "epochs", "batches", "updates"),
    [("batch", 2, 16, 16), ("phase", 2, 2, 4), ("epoch", 2, 2, 4), ("run", 0, 1, 2)],
)
def test_cancel_ends_the_scope_it_names_and_no_more(scope: str, epochs: int, batches: int, updates: int) -> None:
    learner = toy_learner(valid=None)

    @learner.after("update")
    def stop(state: Any) -> None:
        if state.batch_index == 1:
            raise Cancel(scope, "enough")

    learner.fit(epochs=2)
    state = learner.state
    assert (state.epochs_done, state.batches_seen, state.updates) == (epochs, batches, updates)


def test_learner_keeps_who_cancelled_the_run_and_why() -> None:
    learner = toy_learner()

    @learner.after("update")
    def stop(state: Any) -> None:
        raise Cancel("run", "low loss")

    history = learner.fit(epochs=3)
    assert learner.outcome.kind == "cancelled"
    assert learner.outcome.by == "train/epoch/fit/batch/update:after:stop"
    assert (learner.outcome.scope, learner.outcome.reason) == ("run", "low loss")
    assert len(history) == 1
    assert learner.log.tail(1)[0].actor == "train"


def test_next_fit_goes_on_after_a_cancel() -> None:
    learner = toy_learner()

    @learner.after("update", when=lambda state: state.updates == 3)
    def stop(state: Any) -> None:
        raise Cancel("run", "once")

    learner.fit(epochs=1)
    assert (learner.outcome.kind, learner.state.updates) == ("cancelled", 3)
    learner.fit(epochs=1)
    assert (learner.outcome.kind, learner.state.updates) == ("ok", 11)


def test_cancel_of_a_scope_that_is_not_open_is_an_error_that_lists_the_open_ones() -> None:
    learner = toy_learner()

    @learner.before("epoch")
    def stop(state: Any) -> None:
        raise Cancel("batch", "too early")

    with pytest.raises(StageError, match=r"cancels the scope 'batch', which is not open\. Open are \['run', 'epoch'\]"):
        learner.fit(epochs=1)
    assert learner.outcome.kind == "failed"


def test_validation_goes_on_after_a_cancelled_fit() -> None:
    learner = toy_learner()

    @learner.before("fit/batch")
    def stop(state: Any) -> None:
        raise Cancel("phase", "no training")

    (row,) = learner.fit(epochs=1)
    assert learner.state.updates == 0
    assert row["valid_loss"] > 0


def test_keyboard_interrupt_is_flushed_and_then_raised() -> None:
    learner = toy_learner()
    seen: list[str] = []

    @learner.before("update", every="3 batches")
    def interrupt(state: Any) -> None:
        raise KeyboardInterrupt

    @learner.after("fit")
    def note(state: Any, outcome: Outcome) -> None:
        seen.append(outcome.kind)

    with pytest.raises(KeyboardInterrupt):
        learner.fit(epochs=1)
    assert (learner.outcome.kind, learner.state.updates, seen) == ("interrupted", 2, ["interrupted"])
    assert learner.log.blame("updates").after == 2
