"""Precision as an argument of Learner: what it asks of the tree, and that evaluation and predict have it too."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import GraphError, Learner, Stage, supervised
from learner.callbacks import Autocast
from learner.errors import ArgumentError
from learner.precision import check_precision
from learner.testing import toy_learner
from stages import ClearGradients, Epoch, Fetch, Fit, FitBatch, Train, Unpack, Update

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def dtypes(learner: Learner) -> set[tuple[str, torch.dtype]]:
    """The types that outputs have, by phase."""
    seen: set[tuple[str, torch.dtype]] = set()
    learner.after("forward", within="fit")(lambda state: seen.add(("fit", state.outputs.dtype)))
    learner.after("forward", within="validate")(lambda state: seen.add(("validate", state.outputs.dtype)))
    learner.fit(epochs=1)
    return seen


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_evaluation_and_predict_run_in_the_same_precision(precision: Any) -> None:
    learner = toy_learner(precision=precision)
    half = HALF[precision]
    assert dtypes(learner) == {("fit", half), ("validate", half)}
    inputs = torch.randn(4, 1)
    with torch.no_grad(), torch.autocast("cpu", half):
        expected = learner.state.model(inputs)
    predicted = learner.predict([inputs])
    assert predicted.dtype == half and torch.equal(predicted, expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_validation_alone_is_as_after_training(precision: Any) -> None:
    learner = toy_learner(precision=precision)
    learner.fit(epochs=1)
    assert learner.validate() == {"valid_loss": learner.history[-1]["valid_loss"]}


def test_parameters_gradients_and_optimizer_keep_their_own_type() -> None:
    for precision in HALF:
        learner = toy_learner(precision=precision)
        learner.fit(epochs=1)
        assert learner.state.model.weight.dtype == learner.state.model.weight.grad.dtype == torch.float32


def test_autocast_is_off_outside_of_the_stages_that_are_cast() -> None:
    learner = toy_learner(precision="bf16")
    seen: list[bool] = []
    for slot in ("unpack", "backward", "update", "forward"):
        learner.after(slot)(lambda state: seen.append(torch.is_autocast_enabled("cpu")))
    learner.fit(epochs=1)
    assert seen and not any(seen)


@pytest.mark.parametrize(
    ("given", "near"), [("pf16", "fp16"), ("bf61", "bf16"), ("fp23", "fp32"), ("bfloat16", "bf16")]
)
def test_unknown_precision_is_refused_with_the_nearest(given: Any, near: str) -> None:
    with pytest.raises(ArgumentError, match=f"none of .*Did you mean '{near}'") as caught:
        toy_learner(precision=given)
    assert caught.value.argument == "precision"
    assert check_precision(near) == near


@pytest.mark.parametrize("missing", ["backward", "update"])
def test_fp16_on_a_tree_without_a_backward_or_update_to_scale_is_refused(missing: str) -> None:
    class Own(Stage):
        writes = ("model.grads",) if missing == "backward" else ("model.params", "optimizer.state", "updates")

        def run(self, state: Any) -> None: ...

    learner = toy_learner()
    learner.swap(missing, Own())
    with pytest.raises(ArgumentError, match="scales the loss in Backward.*this tree lacks one.*Use 'bf16'"):
        toy_learner(stages=learner._bound.tree, precision="fp16")
    assert toy_learner(stages=learner._bound.tree, precision="bf16")


class OwnGradient(Stage):
    """All in one, without a slot that precision knows."""

    reads = ("model.grads", "*.params")
    writes = ("loss", "model.grads")

    def run(self, model: nn.Module, loss_fn: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = loss_fn(model(inputs), targets)
        loss.backward()
        return loss


def test_precision_is_refused_where_nothing_would_be_cast_and_names_the_way_out() -> None:
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), gradient=OwnGradient(), update=Update()))))
    with pytest.raises(ArgumentError, match="none of them. Name those to cast: callbacks=.Autocast.torch.bfloat16"):
        toy_learner(stages=tree, valid=None, precision="bf16")
    learner = toy_learner(
        stages=tree, valid=None, precision="bf16", callbacks=[Autocast(torch.bfloat16, slots=("gradient",))]
    )
    learner.fit(epochs=1)
    assert learner.outcome.ok


def test_stage_that_takes_the_place_of_forward_is_cast_too() -> None:
    class Doubled(Stage):
        writes = ("outputs",)
        touches = ("model.buffers", "rng")

        def run(self, model: nn.Module, inputs: Tensor) -> Tensor:
            outputs: Tensor = model(inputs) * 2
            return outputs

    learner = toy_learner(precision="bf16")
    learner.swap("gradient/forward", Doubled())
    assert ("fit", torch.bfloat16) in dtypes(learner)


def test_gradient_swapped_for_one_that_does_not_scale_is_refused_in_fp16_only() -> None:
    class Sharp(OwnGradient):
        writes = ("outputs", "loss", "model.grads")
        inline = ("forward", "loss", "backward")

        def run(self, state: Any) -> None:  # type: ignore[override]
            with state.stage("forward"):
                state.outputs = state.model(state.inputs)
            with state.stage("loss"):
                state.loss = state.loss_fn(state.outputs, state.targets)
            with state.stage("backward"):
                state.loss.backward()

        reads = ("model", "model.grads", "*.params", "loss_fn", "inputs", "targets")

    learner = toy_learner(precision="fp16")
    with pytest.raises(GraphError, match="'scaled'"):
        learner.swap("gradient", Sharp())
    learner = toy_learner(precision="bf16")
    learner.swap("gradient", Sharp())
    assert ("fit", torch.bfloat16) in dtypes(learner)


@pytest.mark.parametrize("tree", [{}, {"accumulate": 2}, {"microbatches": 2}, {"accumulate": 2, "microbatches": 2}])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_every_tree_runs_clean_when_everything_is_looked_at(tree: Any, precision: Any) -> None:
    learner = toy_learner(stages=supervised(**tree), precision=precision)
    learner.debug()
    learner.fit(epochs=2)
    assert learner.outcome.ok
    assert not learner.log.where(actor="external")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_scaler_and_the_cast_are_for_the_device_of_the_learner(precision: Any) -> None:
    model = nn.Linear(1, 1)
    data = [(torch.randn(8, 1), torch.randn(8, 1))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(
        model, nn.functional.mse_loss, optimizer, train=data, valid=data, device="cuda", precision=precision
    )
    learner.debug()
    assert dtypes(learner) == {("fit", HALF[precision]), ("validate", HALF[precision])}
    if precision == "fp16":
        assert learner.state.scaler._device == "cuda"
