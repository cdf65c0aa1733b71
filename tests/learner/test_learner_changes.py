"""Learner: how it is hooked, edited, looked at and closed, and whose State it holds."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import (
    AlreadyBound,
    Callback,
    ChangeLog,
    GraphError,
    Learner,
    LearnerError,
    Stage,
    TrainState,
    after,
    before,
    field,
    stage,
)
from learner.recipes import supervised
from learner.testing import toy_learner
from stages import Forward, Loss, Misuse, UnknownSlot
from state import FieldNotReady


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(inputs, 3 * inputs) for inputs in torch.randn(count, 4, 1, generator=generator)]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


class Doubled(Loss):
    """The loss, times two."""

    def run(self, loss_fn: Any, outputs: Any, targets: Any) -> Any:
        return 2 * loss_fn(outputs, targets)


def test_state_belongs_to_one_learner_at_a_time() -> None:
    learner = toy_learner()
    with pytest.raises(AlreadyBound, match=r"is bound to another Learner\. One State belongs to one Learner") as caught:
        Learner.from_state(learner.state, supervised(), train=batches(), valid=batches())
    assert isinstance(caught.value, LearnerError)
    learner.close()
    Learner.from_state(learner.state, supervised(), train=batches(), valid=batches()).fit(epochs=1)


def test_learner_that_is_gone_frees_its_state() -> None:
    def used() -> tuple[Any, weakref.ref[Learner]]:
        learner = toy_learner()

        @learner.after("update")
        def show(state: Any) -> None:
            assert learner.history is not None

        learner.fit(epochs=1)
        return learner.state, weakref.ref(learner)

    state, gone = used()
    gc.collect()
    assert gone() is None
    Learner.from_state(state, supervised(), train=batches(), valid=batches()).fit(epochs=1)
    assert state.epochs_done == 2


def test_hook_before_and_after_as_decorator_and_as_call() -> None:
    learner = toy_learner()
    seen: list[str] = []

    @learner.before("update")
    def ahead(state: Any) -> None:
        seen.append("before")

    def behind(updates: int) -> None:
        seen.append(f"after {updates}")

    assert learner.after("update")(behind) is behind
    learner.fit(batches=1)
    ahead(None)
    assert seen == ["before", "after 1", "before"]


def test_decorated_function_may_be_hooked_once_more() -> None:
    learner = toy_learner()
    seen: list[int] = []

    @after("update")
    def note(state: Any) -> None:
        seen.append(state.updates)

    assert learner.before("update")(note) is note
    learner.fit(batches=1)
    assert seen == [0, 1]


def test_hook_with_a_misspelt_target_is_refused_and_leaves_no_trace() -> None:
    learner = toy_learner()
    with pytest.raises(GraphError, match=r"show asks for 'updat'.*Did you mean 'update'\?") as caught:

        @learner.after("updat")
        def show(state: Any) -> None: ...

    assert caught.value.findings[0].kind == "unmatched target"
    assert "show" not in learner.hooks
    learner.fit(batches=1)


def test_swap_takes_effect_and_is_a_row_of_the_log() -> None:
    learner, plain = toy_learner(), toy_learner()
    learner.swap("gradient/loss", Doubled())
    ours, theirs = learner.fit(batches=1), plain.fit(batches=1)
    assert ours["train_loss"][0] == pytest.approx(2 * theirs["train_loss"][0])
    (row,) = learner.log.where(field="tree")
    assert (row.actor, row.after) == ("user", "swap train/epoch/fit/batch/gradient/loss: Doubled for Loss")
    assert row.source.startswith("test_swap_takes_effect_and_is_a_row_of_the_log ")
    assert "test_learner_changes.py:" in str(row)


def test_insert_and_remove_are_rows_of_the_log() -> None:
    learner = toy_learner()

    @stage(writes=("inputs",))
    def scale(inputs: Any) -> Any:
        return inputs * 2

    learner.insert(scale, after="fit/batch/unpack")
    learner.remove("epoch/validate")
    learner.fit(epochs=1)
    told = [change.after for change in learner.log.history("tree")]
    assert told == ["insert scale after train/epoch/fit/batch/unpack", "remove train/epoch/validate: Validate"]
    assert "valid_loss" not in learner.history[-1]
    assert "scale" in repr(learner)


@pytest.mark.parametrize(
    "edit",
    [
        lambda learner: learner.remove("gradient/forward"),
        lambda learner: learner.swap("gradient/forward", Loss()),
        lambda learner: learner.insert(Forward(), before="fit/batch/unpack"),
        lambda learner: learner.swap("gradient/los", Loss()),
        lambda learner: learner.swap("batch", Forward()),
    ],
)
def test_edit_that_cannot_stand_changes_nothing(edit: Callable[[Learner], None]) -> None:
    learner = toy_learner()
    was = repr(learner)
    with pytest.raises(Exception, match="reads?|No place|fits 2 places"):
        edit(learner)
    assert repr(learner) == was
    learner.fit(batches=1)
    assert learner.outcome.ok


def test_swap_of_a_misspelt_slot_offers_the_nearest() -> None:
    with pytest.raises(UnknownSlot, match=r"Did you mean 'gradient'\?") as caught:
        toy_learner().swap("gradiant", Forward())
    assert caught.value.nearest == "gradient"


def test_learner_cannot_be_changed_while_it_runs() -> None:
    learner = toy_learner()

    @learner.after("update")
    def meddle(state: Any) -> None:
        learner.swap("update", Forward())

    with pytest.raises(Misuse, match=r"This Learner is running\. A hook runs no stages and changes no tree"):
        learner.fit(batches=1)
    assert learner.outcome.kind == "failed"


def test_field_whose_scope_has_ended_tells_where_its_values_are() -> None:
    learner = toy_learner()
    learner.fit(epochs=1)
    with pytest.raises(
        FieldNotReady, match=r"ended with its epoch; learner\.history\['train_loss'\] keeps it"
    ) as caught:
        _ = learner.state.train_loss  # type: ignore[attr-defined]
    assert (caught.value.field, caught.value.actor) == ("train_loss", "user")
    with pytest.raises(FieldNotReady, match=r"gradient/loss and .*validate_loss writes? it"):
        _ = learner.state.loss  # type: ignore[attr-defined]


def test_write_by_hand_is_validated_and_logged_as_the_user() -> None:
    learner = toy_learner()
    learner.state.updates = 7
    change = learner.log.blame("updates")
    assert change.actor == "user"
    assert change.source.startswith("test_write_by_hand_is_validated_and_logged_as_the_user ")
    assert "test_learner_changes.py:" in str(change)
    with pytest.raises(ValueError, match="user may not set 'updates' to -1"):
        learner.state.updates = -1
    assert learner.state.updates == 7


def test_runs_of_one_family_are_numbered(tmp_path: Path) -> None:
    learners = [toy_learner(run_dir=tmp_path / "runs" / "toy") for _ in range(2)]
    assert [learner.run_dir and learner.run_dir.name for learner in learners] == ["0001", "0002"]
    learners[1].fit(epochs=1)
    assert ChangeLog.open(tmp_path / "runs" / "toy").blame("updates").after == 8
    assert toy_learner().run_dir is None


@pytest.mark.parametrize("on_disk", [False, True])
def test_closed_learner_runs_no_more_and_its_log_stays_readable(on_disk: bool, tmp_path: Path) -> None:
    learner = toy_learner(run_dir=tmp_path / "runs" if on_disk else None)
    learner.fit(epochs=1)
    rows = len(learner.log)
    learner.close()
    learner.close()
    asked: list[Callable[[], Any]] = [
        lambda: learner.fit(epochs=1),
        learner.validate,
        lambda: learner.predict(batches()),
        lambda: learner.swap("update", Forward()),
        lambda: learner.after("update")(print),
    ]
    for ask in asked:
        with pytest.raises(Misuse, match=r"This Learner was closed\. Make a new one on the same State"):
            ask()
    assert len(learner.log) == rows
    assert learner.log.blame("updates").after == 8
    assert learner.history["epoch"] == [0]


def test_audit_off_keeps_no_log_and_trains_alike() -> None:
    silent, logged = toy_learner(audit="off"), toy_learner()
    silent.fit(epochs=1)
    logged.fit(epochs=1)
    assert len(silent.log) == 0 < len(logged.log)
    assert torch.equal(silent.state.model.weight, logged.state.model.weight)


def test_audit_may_be_given_per_field() -> None:
    learner = toy_learner(audit={"*": "off", "loss": "summary"})
    learner.fit(batches=1)
    assert {change.field for change in learner.log.where(kind="write")} == {"loss"}


def test_learner_shows_what_it_is_made_of() -> None:
    learner = toy_learner()
    assert repr(learner).startswith("train\n  epoch\n")
    assert "update" in learner.explain("update")
    assert {"loss", "model"} <= {row.name for row in learner.fields}
    assert "train/epoch/fit/batch/update" in learner.graph
    assert not [finding for finding in learner.check() if finding.severity == "error"]


def test_callback_brings_a_field_that_the_state_then_has() -> None:
    class Clock(Callback):
        """Counts batches for itself."""

        def fields(self) -> dict[str, Any]:
            return {"ticks": (int, field(default=0, description="batches"))}

        @before("fit/batch", reads=("ticks",), writes=("ticks",))
        def tick(self, ticks: int) -> int:
            return ticks + 1

    learner = toy_learner(callbacks=[Clock()])
    learner.fit(epochs=1)
    assert learner.state.ticks == 8  # type: ignore[attr-defined]


def test_stage_that_is_a_class_brings_its_state() -> None:
    class Wider(TrainState):
        """One field more."""

        norm: Tensor = field(scope="batch")

    class Norm(Stage):
        """The norm of the outputs."""

        reads = ("outputs",)
        writes = ("norm",)

        def run(self, state: Wider) -> None:
            state.norm = state.outputs.norm()

    learner = toy_learner()
    learner.insert(Norm(), after="gradient/forward")
    assert learner.fit_batch(batches()[0]).norm > -1
