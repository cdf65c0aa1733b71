"""What cannot work is refused before anything changed, or stopped at once, and the message says how to put it right."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import (
    Callback,
    Composite,
    GraphError,
    Learner,
    Stage,
    StageError,
    TrainState,
    after,
    stage,
    supervised,
)
from learner.callbacks import EarlyStopping
from learner.errors import ArgumentError
from learner.testing import toy_learner
from stages import AmbiguousSlot, Forward, Loss, Misuse, UnknownSlot
from state import AccessDenied, UnknownField

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


# Access


def test_undeclared_read_is_stopped_with_the_declaration_to_add(stopped: Any) -> None:
    class Peek(Stage):
        reads = ("inputs",)

        def run(self, state: TrainState) -> None:
            assert state.targets is not None

    learner = toy_learner()
    learner.insert(Peek(), before="gradient")
    error = stopped(learner, AccessDenied, "may not read 'targets'.*Add 'targets' to its reads", "fit, batch 0")
    assert (error.actor, error.field, error.mode) == ("train/epoch/fit/batch/peek", "targets", "read")
    assert learner.state.updates == 0


def test_undeclared_write_is_stopped_and_nothing_is_written(stopped: Any) -> None:
    class Spoil(Stage):
        reads = ("loss",)

        def run(self, state: TrainState) -> None:
            state.loss = state.loss * 0

    learner = toy_learner()
    learner.insert(Spoil(), after="gradient")
    losses: list[float] = []
    learner.after("loss")(lambda state: losses.append(state.loss.item()))
    error = stopped(learner, AccessDenied, "may not write 'loss'.*writes=\\[\\]", "batch/spoil at epoch 0")
    assert error.mode == "write"
    assert learner.state.loss.item() == losses[-1] > 0, "the value from before stands, for the debugger"


def test_hook_that_returns_what_it_does_not_declare_is_stopped(stopped: Any) -> None:
    learner = toy_learner()
    learner.after("loss")(lambda loss: loss * 2)
    error = stopped(learner, StageError, "returned Tensor, but declares no field that it writes", "loss:after:lambda")
    assert error.actor.endswith("loss:after:lambda")


# Names


def test_misspelt_field_is_refused_with_the_nearest_name(refused: Any) -> None:
    @stage(writes=("inputs",))
    def scale(input: Tensor) -> Tensor:
        return input

    learner = toy_learner()
    error = refused(learner, lambda: learner.insert(scale, before="gradient"), GraphError, "Did you mean 'inputs'")
    assert [finding.kind for finding in error.findings] == ["unknown field"]
    assert error.findings[0].actors == ("train/epoch/fit/batch/scale",)


def test_misspelt_field_in_a_body_is_stopped_with_the_nearest_name(stopped: Any) -> None:
    class Misspelt(Stage):
        reads = ("loss",)

        def run(self, state: Any) -> None:
            assert state.los is not None

    learner = toy_learner()
    learner.insert(Misspelt(), after="gradient")
    error = stopped(learner, UnknownField, "no field 'los'. Did you mean 'loss'", "batch/misspelt")
    assert error.nearest == "loss"


def test_misspelt_field_of_the_state_itself_is_refused_with_the_nearest_name() -> None:
    state = toy_learner().state
    with pytest.raises(UnknownField, match="Did you mean 'updates'") as caught:
        state.update = 3
    assert caught.value.nearest == "updates"
    with pytest.raises(UnknownField, match="Did you mean 'model'"):
        TrainState(modle=nn.Linear(1, 1))


@pytest.mark.parametrize("act", ["swap", "remove", "insert", "run", "inside"])
def test_misspelt_slot_is_refused_with_the_nearest_slot(act: str, refused: Any) -> None:
    learner = toy_learner()
    acts: dict[str, Callable[[], Any]] = {
        "swap": lambda: learner.swap("gradiant", Forward()),
        "remove": lambda: learner.remove("gradiant"),
        "insert": lambda: learner.insert(Forward(), after="gradiant", slot="extra"),
        "run": lambda: learner.run("gradiant"),
        "inside": lambda: learner.inside("gradiant").__enter__(),
    }
    error = refused(learner, acts[act], UnknownSlot, "Did you mean 'gradient'")
    assert error.nearest == "gradient"


def test_misspelt_target_is_refused_with_the_nearest_slot(refused: Any) -> None:
    learner = toy_learner()
    error = refused(learner, lambda: learner.after("updat")(lambda state: None), GraphError, "Did you mean 'update'")
    assert error.findings[0].kind == "unmatched target"


def test_name_that_fits_several_places_is_refused_with_the_places(refused: Any) -> None:
    learner = toy_learner()
    error = refused(learner, lambda: learner.swap("unpack", Forward()), AmbiguousSlot, "fits 2 places")
    assert error.paths == ("train/epoch/fit/batch/unpack", "train/epoch/validate/batch/unpack")


# Structure


def test_two_writers_without_an_order_are_refused_and_named_with_the_ways_out(refused: Any) -> None:
    learner = toy_learner()

    @learner.after("unpack", within="fit", writes=("inputs",))
    def shift(inputs: Tensor) -> Tensor:
        return inputs

    def noise(inputs: Tensor) -> Tensor:
        return inputs

    def act() -> None:
        learner.after("unpack", within="fit", writes=("inputs",))(noise)

    error = refused(learner, act, GraphError, "shift and noise both write 'inputs'.*tuple.*runs_before=")
    assert [finding.kind for finding in error.findings] == ["unordered writers"]


class Stops(Callback):
    @after("epoch", reads=("valid_accuracy",))
    def judge(self, state: Any) -> None:
        raise AssertionError("never runs")


@pytest.mark.parametrize("callback", [EarlyStopping("valid_accuracy"), Stops()], ids=["ours", "own"])
def test_monitored_metric_that_nobody_produces_is_refused(callback: Callback) -> None:
    with pytest.raises(GraphError, match="'valid_accuracy'") as caught:
        toy_learner(callbacks=[callback])
    assert {finding.kind for finding in caught.value.findings} <= {"unknown field", "missing producer"}


def test_validation_metric_without_a_validation_is_refused() -> None:
    with pytest.raises(GraphError, match="reads 'valid_loss', which nobody") as caught:
        toy_learner(callbacks=[EarlyStopping("valid_loss")], valid=None)
    assert caught.value.findings[0].kind == "missing producer"


class Recursive(Composite):
    """Holds itself, as only a subclass that goes round the constructor can."""

    def __init__(self) -> None:
        super().__init__(Forward(), Loss())
        object.__setattr__(self, "stages", MappingProxyType({**self.stages, "again": Composite(inner=self)}))


def test_stage_inside_itself_is_refused_with_the_path_printed(refused: Any) -> None:
    learner = toy_learner()

    def act() -> None:
        learner.insert(Recursive(), before="gradient")

    error = refused(learner, act, GraphError, "batch/recursive holds itself: recursive -> again -> inner. Give the")
    assert "stage inside itself" in [finding.kind for finding in error.findings]
    with pytest.raises(GraphError, match="holds itself"):
        toy_learner(stages=supervised().insert(Recursive(), before="gradient"))


@pytest.mark.parametrize(
    "act",
    [
        lambda learner: learner.fit(epochs=1),
        lambda learner: learner.run("epoch/validate"),
        lambda learner: learner.validate(),
        lambda learner: learner.predict([BATCH]),
        lambda learner: learner.fit_batch(BATCH),
        lambda learner: learner.inside("epoch/fit").__enter__(),
        lambda learner: learner.swap("gradient/loss", Loss()),
        lambda learner: learner.after("update")(lambda state: None),
        lambda learner: learner.hooks.remove("misuse"),
        lambda learner: learner.close(),
    ],
    ids=["fit", "run", "validate", "predict", "fit_batch", "inside", "swap", "after", "remove", "close"],
)
def test_hook_that_runs_stages_or_edits_the_tree_is_stopped(act: Callable[[Learner], Any], stopped: Any) -> None:
    learner = toy_learner()

    @learner.after("update")
    def misuse(state: Any) -> None:
        act(learner)

    stopped(learner, Misuse, "hook runs no stages and changes no tree", "update:after:misuse at epoch 0, fit, batch 0")


def test_hook_that_runs_a_batch_inside_a_loop_of_the_users_is_stopped() -> None:
    learner = toy_learner()
    learner.after("update")(lambda state: learner.fit_batch(BATCH))
    with pytest.raises(Misuse, match="hook runs no stages"), learner.inside("epoch/fit"):
        learner.fit_batch(BATCH)
    assert learner.state.updates == 1


def test_hook_that_calls_a_stage_is_stopped(stopped: Any) -> None:
    learner = toy_learner()
    learner.before("update")(lambda state: Forward()(state))
    stopped(learner, Misuse, "Forward was called with a .*; only a composite runs it", "update:before:lambda")


def test_missing_component_is_refused_with_its_readers() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(GraphError, match="loss.* reads? 'loss_fn'.*Pass loss_fn=") as caught:
        Learner(model, None, torch.optim.SGD(model.parameters(), lr=0.1), train=[BATCH], device="cpu")
    assert {finding.kind for finding in caught.value.findings} == {"missing producer"}
    with pytest.raises(GraphError, match="Pass optimizer="):
        Learner(model, nn.functional.mse_loss, None, train=[BATCH], device="cpu")


def test_all_findings_are_reported_together() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(GraphError, match="3 findings|2 findings|4 findings") as caught:
        Learner(model, None, None, train=[BATCH], callbacks=[EarlyStopping("valid_loss")], device="cpu")
    told = str(caught.value)
    assert all(name in told for name in ("'loss_fn'", "'optimizer'", "'valid_loss'"))


def test_optimizer_that_shares_no_tensor_is_refused() -> None:
    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    with pytest.raises(ArgumentError, match="'optimizer' updates no parameter of .*'model'.*Make it from") as caught:
        Learner(model, nn.functional.mse_loss, torch.optim.SGD(other.parameters(), lr=0.1), train=[BATCH], device="cpu")
    assert caught.value.argument == "optimizer"


def test_refused_state_of_the_users_stays_what_it_was() -> None:
    class Extra(TrainState):
        extra: int = 3

    @stage(state=Extra)
    def more(extra: int) -> None:
        pass

    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    state = TrainState(
        model=model, loss_fn=nn.functional.mse_loss, optimizer=torch.optim.SGD(other.parameters(), lr=0.1)
    )
    tree = supervised(valid=False).insert(more, before="gradient")
    with pytest.raises(ArgumentError, match="updates no parameter"):
        Learner.from_state(state, tree, train=[BATCH])
    assert type(state) is TrainState and not state.ready("train_loader") and not hasattr(tree, "_bound")
