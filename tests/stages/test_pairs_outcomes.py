"""Hooks around a stage that end it, or go wrong: what the others see, and what the error says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from learner import (
    Cancel,
    GraphError,
    Learner,
    Outcome,
    Skip,
)
from learner.testing import toy_learner
from stages import ContractBroken, DeclarationError

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
