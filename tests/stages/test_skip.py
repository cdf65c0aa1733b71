"""Skip: ends one stage, here and now, and nothing else."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import Cancel, Composite, Learner, Skip, Stage, TrainState, field, stage, supervised
from learner.testing import events, run_stage, toy_learner
from stages import ContractBroken
from state import FieldNotReady


class Seldom(Stage):
    """Skips itself in every second batch."""

    reads = ("batch_index",)
    writes = ("seen",)

    def run(self, state: "SeenState") -> None:
        if state.batch_index % 2:
            raise Skip("odd")
        state.seen = state.batch_index


class SeenState(TrainState):
    seen: int = field(scope="batch", description="the batch that Seldom saw")


def notes(learner: Learner, *slots: str) -> list[str]:
    """How each of these slots ended, in order."""
    seen: list[str] = []
    for slot in slots:
        learner.after(slot, within="epoch/fit")(noting(seen, slot))
    return seen


def noting(seen: list[str], slot: str) -> Any:
    def end(state: Any, outcome: Any) -> None:
        seen.append(f"{slot} {outcome}")

    return end


@pytest.mark.parametrize("audit", ["off", "summary"])
def test_stage_that_skips_itself_ends_alone(audit: Any) -> None:
    learner = toy_learner(valid=None, audit=audit)
    learner.insert(Seldom(), before="gradient")
    seen = notes(learner, "seldom", "batch")
    ready: list[bool] = []
    learner.after("seldom")(lambda state, outcome: ready.append(state.ready("seen")))
    learner.fit(epochs=1)
    assert seen[:4] == ["seldom ok", "batch ok", "seldom skipped: odd", "batch ok"]
    assert ready == [True, False] * 4, "what it was to write is not written"
    assert (learner.state.updates, learner.state.batches_seen, learner.outcome.kind) == (8, 8, "ok")


@pytest.mark.parametrize("audit", ["off", "summary"])
@pytest.mark.parametrize("hooked", [False, True], ids=["bare", "hooked"])
def test_skip_deep_inside_ends_the_innermost_stage(audit: Any, hooked: bool) -> None:
    @stage()
    def skips(loss: Tensor) -> None:
        raise Skip("why")

    ran: list[str] = []

    @stage()
    def follows(loss: Tensor) -> None:
        ran.append("follows")

    tree = supervised(valid=False).insert(
        Composite(Composite(skips, follows), slot=follows), after="fit/batch/gradient"
    )
    learner = toy_learner(valid=None, stages=tree, audit=audit)
    seen = notes(learner, "skips", "composite/composite", "update") if hooked else []
    learner.fit(batches=5)
    assert ran == ["follows"] * 10
    assert seen == (["skips skipped: why", "composite/composite ok", "update ok"] * 5 if hooked else [])


@pytest.mark.parametrize(
    ("slot", "kinds", "totals"),
    [
        ("update", {"update": "skipped", "batch": "ok", "fit": "ok"}, (0, 8, 1)),
        ("fit/batch", {"batch": "skipped", "fit": "ok"}, (0, 8, 1)),
        ("fit", {"fit": "skipped"}, (0, 0, 1)),
    ],
)
def test_skip_of_a_hook_before_a_stage_ends_that_stage_alone(
    slot: str, kinds: dict[str, str], totals: tuple[int, ...]
) -> None:
    learner = toy_learner()
    learner.before(slot, within="epoch/fit")(skipping)
    seen = notes(learner, "update", "batch", "fit")
    learner.fit(epochs=1)
    ended = {one.split()[0]: one.split()[1].rstrip(":") for one in seen}
    assert {name: ended.get(name, "") for name in kinds} == kinds
    state = learner.state
    assert (state.updates, state.batches_seen, state.epochs_done) == totals
    assert len(learner.history["valid_loss"]) == 1, "the validation runs"


def skipping(state: Any) -> None:
    raise Skip("why")


def test_mean_of_a_skipped_evaluation_is_no_number() -> None:
    learner = toy_learner()
    learner.before("validate")(skipping)
    learner.fit(epochs=2)
    assert learner.state.updates == 16 and all(map(math.isnan, learner.history["valid_loss"]))


def test_hooks_that_come_later_do_not_run_before_a_skipped_stage() -> None:
    learner, seen = toy_learner(valid=None), list[str]()
    learner.before("update")(lambda state: seen.append("first"))
    learner.before("update")(skipping)
    learner.before("update")(lambda state: seen.append("third"))
    learner.after("update")(lambda state: seen.append("observer"))
    learner.after("update")(lambda state, outcome: seen.append(outcome.kind))
    learner.fit(batches=1)
    assert seen == ["first", "observer", "skipped"]


def test_who_reads_what_a_skipped_stage_was_to_write_is_told() -> None:
    learner = toy_learner(valid=None)
    learner.before("loss")(skipping)
    with pytest.raises(FieldNotReady, match="gradient/backward reads 'loss', which has no value now"):
        learner.fit(epochs=1)


def test_skip_is_on_record_with_its_reason() -> None:
    learner = toy_learner(valid=None)
    learner.before("update")(skipping)
    learner.fit(batches=1)
    (left,) = learner.log.where(actor="train/epoch/fit/batch/update", kind="exit")
    assert left.after.startswith("skipped: why")


@pytest.mark.parametrize("slot", ["update", "fit/batch", "epoch", "fit/checkpoint"])
def test_skip_after_its_stage_has_ended_is_an_error(slot: str) -> None:
    learner = toy_learner(valid=None)
    learner.after(slot)(skipping)
    with pytest.raises(ContractBroken, match=f"{slot}:after:skipping raises Skip after its stage has ended. Return"):
        learner.fit(epochs=1)


@pytest.mark.parametrize("other", [Cancel("batch", "other"), ValueError("other")], ids=["cancel", "error"])
def test_skip_does_not_hide_how_its_stage_ended_before(other: BaseException) -> None:
    learner = toy_learner(valid=None)

    @learner.before("update")
    def end(state: Any) -> None:
        raise other

    learner.after("update")(skipping)
    with pytest.raises((ContractBroken, ValueError)) as caught:
        learner.fit(epochs=1)
    assert isinstance(caught.value, ValueError) == isinstance(other, ValueError)
    if isinstance(other, ValueError):
        assert "ContractBroken" in caught.value.__notes__[-1]


class InPieces(Stage):
    """Three inline stages."""

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


@pytest.mark.parametrize("side", ["before", "around"])
def test_skip_of_an_inline_stage_ends_the_stage_that_it_is_part_of(side: str) -> None:
    learner = toy_learner(valid=None)
    learner.swap("gradient", InPieces())
    seen = events(learner)

    def skip_around(state: Any) -> Any:
        raise Skip("why")
        yield

    getattr(learner, side)("gradient/loss")(skipping if side == "before" else skip_around)
    learner.fit(batches=1)
    start = seen.index("before gradient")
    assert seen[start : start + 7] == [
        "before gradient",
        "before forward",
        "after forward: ok",
        "before loss",
        "after loss: skipped",
        "after gradient: skipped",
        "before update",
    ]


def test_skip_inside_an_inline_stage_ends_the_whole_too() -> None:
    class Half(InPieces):
        def run(self, state: TrainState) -> None:
            with state.stage("forward"):
                raise Skip("half")

    learner = toy_learner(valid=None)
    learner.swap("gradient", Half())
    seen = notes(learner, "forward", "gradient", "batch")
    learner.fit(batches=1)
    assert seen == ["forward skipped: half", "gradient skipped: half", "batch ok"]


def test_skip_inside_a_loop_of_ones_own_ends_the_loop() -> None:
    learner = toy_learner(valid=None)
    seen = notes(learner, "fit")
    learner.after("epoch")(noting(seen, "epoch"))
    with learner.inside("epoch/fit"):
        raise Skip("enough")
    assert seen == ["fit skipped: enough", "epoch ok"] and learner.outcome.ok


def test_skip_of_a_single_stage_run_alone_is_no_error() -> None:
    class Never(Stage):
        writes = ("outputs",)

        def run(self, inputs: Tensor) -> Tensor:
            raise Skip("never")

    assert "outputs" not in run_stage(Never(), inputs=torch.ones(2))
