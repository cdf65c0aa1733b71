"""The check: what its walk through a tree takes for ready, beyond the smallest faults of test_findings."""

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.recipes import supervised
from learner.testing import toy_learner
from stages import (
    Assembly,
    Backward,
    ClearGradients,
    Composite,
    Epoch,
    Fetch,
    Finding,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    GraphError,
    Loss,
    Repeat,
    Stage,
    Train,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
    When,
    after,
    assemble,
    before,
    stage,
)
from stages.callbacks import hooks_of
from state import State, field
from state.train_state import TrainState


class MetricState(TrainState):
    valid_accuracy: float = field(scope="epoch", description="share of right answers")
    norm: Tensor = field(scope="batch", description="norm of the gradients")
    carried: Any = field(scope="phase", description="handed from batch to batch")
    teacher: nn.Module = field(description="a second model")


def tree() -> Train:
    return Train(
        Epoch(
            Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), Gradient(Forward(), Loss(), Backward()), Update())),
            Validate(Fetch(), ValidateBatch(Unpack(), Forward(), ValidateLoss())),
        )
    )


def build(root: Stage, *callbacks: Any, **values: Any) -> Assembly:
    model = nn.Linear(2, 2)
    state = MetricState(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=F.mse_loss,
        train_loader=[],
        valid_loader=[],
        **values,
    )
    return assemble(root, hooks_of(callbacks), MetricState, state)


def faults(root: Stage, *callbacks: Any, **values: Any) -> list[Finding]:
    return [finding for finding in build(root, *callbacks, **values).findings if finding.severity == "error"]


def fault(root: Stage, *callbacks: Any, **values: Any) -> Finding:
    (finding,) = faults(root, *callbacks, **values)
    return finding


def test_default_tree_has_no_fault() -> None:
    assert faults(tree()) == []


def test_composite_may_read_what_its_stages_write() -> None:
    class Reporting(FitBatch):
        reads: ClassVar[tuple[str, ...]] = ("loss",)

    def with_batch(batch: Stage) -> Train:
        return Train(Epoch(Fit(Fetch(), batch)))

    stages = (Unpack(), Forward(), Loss())
    assert faults(with_batch(Reporting(*stages))) == []
    assert fault(with_batch(Reporting(*stages[:2]))).kind == "missing producer"


def test_composite_may_not_read_what_only_its_own_hooks_write() -> None:
    class Reporting(FitBatch):
        reads: ClassVar[tuple[str, ...]] = ("norm",)

    @after("batch", writes=("norm",))
    def measure(loss: Tensor) -> Tensor: ...

    found = fault(Train(Epoch(Fit(Fetch(), Reporting(Unpack(), Forward(), Loss())))), measure)
    assert found.kind == "read before write"
    assert found.actors == ("train/epoch/fit/batch", "train/epoch/fit/batch:after:measure")


def test_composite_that_opens_rounds_provides_what_it_writes_in_them_and_no_longer() -> None:
    class Windows(Composite):
        each = "window"
        runs = "1+"
        writes: ClassVar[tuple[str, ...]] = ("part",)

        def run(self, state: Any) -> None: ...

    class Parts(State):
        part: int = field(scope="window")

    @stage()
    def use(part: int) -> None: ...

    assert assemble(Windows(use), [], Parts).findings == ()
    (late,) = assemble(Repeat(2, Windows(use), late=use, each="window"), [], Parts).findings
    assert (late.kind, late.actors[0]) == ("stale read", "repeat/late")


def test_stale_read_of_the_value_of_another_round() -> None:
    root = tree().insert(read_loss, after="validate/fetch")
    assert fault(root).kind == "read before write"
    root = tree().insert(read_norm, after="validate/fetch").insert(write_norm, after="gradient")
    found = fault(root)
    assert found.kind == "stale read"
    assert found.actors == ("train/epoch/validate/read_norm", "train/epoch/fit/batch/write_norm")


def test_field_of_a_wider_scope_is_not_stale() -> None:
    @after("validate", writes=("valid_accuracy",))
    def measure(valid_loader: Any) -> float: ...

    @after("epoch")
    def use(valid_accuracy: float) -> None: ...

    assert faults(tree(), measure, use) == []


def test_checkpoint_point_sees_nothing_of_the_batch() -> None:
    @before("fit/checkpoint")
    def save(loss: Tensor) -> None: ...

    assert fault(tree(), save).kind == "stale read"


def test_removed_stage_starves_its_readers_in_one_finding_for_each_field() -> None:
    found = faults(tree().remove("fit/batch/unpack").remove("validate/batch/unpack"))
    assert [finding.kind for finding in found] == ["missing producer"] * 2
    assert "forward" in found[0].actors[0] and "forward" in found[0].actors[1]
    assert "reads 'inputs'" not in found[0].message and "read 'inputs'" in found[0].message


def test_gradients_that_nobody_makes() -> None:
    found = fault(tree().remove("clear_gradients").remove("backward"))
    assert found.kind == "missing producer"
    assert "'model.grads'" in found.message


def test_field_of_a_thinned_hook_may_be_read_as_optional() -> None:
    @after("gradient", every="2 batches", writes=("norm",))
    def measure(model: nn.Module) -> Tensor: ...

    @stage()
    def use(norm: Tensor | None = None) -> None: ...

    assert faults(tree().insert(use, after="gradient"), measure) == []


def test_thinned_hook_after_a_sure_writer_does_not_make_it_unsure() -> None:
    @after("write_norm", every="2 batches", reads=("norm",), writes=("norm",))
    def smooth(state: Any) -> None: ...

    assert faults(tree().insert(write_norm, after="gradient").insert(read_norm, after="write_norm"), smooth) == []


@stage(writes=("norm",))
def write_norm(loss: Tensor) -> Tensor: ...


@stage()
def read_norm(norm: Tensor) -> None: ...


@stage()
def read_loss(loss: Tensor) -> None: ...


def test_condition_of_a_when_is_not_met_by_what_its_own_stages_write() -> None:
    class Flagged(TrainState):
        flag: bool = field(scope="batch")

    @stage(state=Flagged, writes=("flag",))
    def raise_flag() -> bool:
        return True

    tree = supervised(valid=False).insert(When(lambda flag: flag, raise_flag), before="gradient")
    with pytest.raises(GraphError, match=r"when reads 'flag', which .*raise_flag writes only afterwards"):
        toy_learner(stages=tree, valid=None)
