"""Replay: one batch again, bit for bit, with the stages that ran or with others, and State is left alone."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Learner, TensorBatches, stage
from learner.callbacks import Capture, ClipGradients, Schedule
from stages import GraphError
from state.errors import SnapshotError

NAMES = ("loss", "outputs", "inputs")


def make(*callbacks: Any) -> Learner:
    """A model with dropout and BatchNorm, so that generators and buffers matter."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    data = [(torch.randn(5, 3), torch.randn(5, 1)) for _ in range(4)]
    return Learner(model, nn.MSELoss(), optimizer, train=data, callbacks=callbacks, device="cpu", seed=2)


def contents(learner: Learner) -> dict[str, Tensor]:
    found = {f"model.{name}": value.clone() for name, value in learner.state.model.state_dict().items()}
    for name, parameter in learner.state.model.named_parameters():
        found[f"model.{name}.grad"] = parameter.grad.clone()
        for key, kept in learner.state.optimizer.state[parameter].items():
            found[f"optimizer.model.{name}.{key}"] = kept.clone()
    return found


def run_with_capture(at: str = "batch") -> tuple[Learner, Capture, dict[str, Tensor], dict[str, Tensor]]:
    """A run, its capture, and what the live State and frame were after the captured batch."""
    capture = Capture(epoch=1, batch=2, at=at)
    learner = make(capture, ClipGradients(0.1), Schedule(lambda one: torch.optim.lr_scheduler.StepLR(one, 3)))
    tensors: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}

    @learner.after("batch")
    def note(state: Any) -> None:
        if (state.epoch, state.batch_index) == (1, 2):
            tensors.update(contents(learner))
            values.update({name: getattr(state, name).detach().clone() for name in NAMES})

    learner.fit(epochs=3)
    return learner, capture, tensors, values


def assert_equal(found: Any, wanted: dict[str, Tensor]) -> None:
    assert wanted
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_a_batch_is_replayed_bit_for_bit_any_number_of_times() -> None:
    learner, capture, tensors, values = run_with_capture()
    assert capture.captured is not None
    for _ in range(3):
        replayed = learner.replay(capture.captured)
        assert_equal(replayed.tensors, tensors)
        assert_equal(replayed.frame, values)


@pytest.mark.parametrize(("at", "written"), [("unpack", "inputs"), ("gradient", "loss"), ("forward", "outputs")])
def test_a_stage_within_the_batch_is_replayed_from_where_it_stood(at: str, written: str) -> None:
    learner, capture, _, values = run_with_capture(at)
    assert capture.captured is not None
    assert capture.captured.path.endswith(f"/{at}")
    assert torch.equal(learner.replay(capture.captured).frame[written], values[written])


def test_state_and_generators_are_left_as_they_were() -> None:
    learner, capture, _, _ = run_with_capture()
    assert capture.captured is not None
    before, generator, updates = contents(learner), torch.get_rng_state(), learner.state.updates
    rates = [group["lr"] for group in learner.state.optimizer.param_groups]
    rows, records = len(learner.history), len(learner.log)
    learner.replay(capture.captured)
    assert_equal(contents(learner), before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert (learner.state.updates, len(learner.history), len(learner.log)) == (updates, rows, records)
    assert [group["lr"] for group in learner.state.optimizer.param_groups] == rates


def test_a_run_that_was_replayed_in_between_ends_as_if_it_had_not_been() -> None:
    capture = Capture(epoch=0, batch=1)
    with_replay, without = make(capture), make()
    with_replay.fit(epochs=1)
    assert capture.captured is not None
    with_replay.replay(capture.captured)
    with_replay.fit(epochs=1)
    without.fit(epochs=2)
    assert_equal(contents(with_replay), contents(without))


def test_another_stage_in_a_slot_runs_on_the_same_batch_and_the_same_random_numbers() -> None:
    learner, capture, _, values = run_with_capture()
    assert capture.captured is not None

    @stage(writes=("loss",))
    def mean_distance(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()

    replayed = learner.replay(capture.captured, swap={"loss": mean_distance})
    assert torch.equal(replayed.frame.outputs, values["outputs"])
    assert torch.equal(replayed.frame.loss, (values["outputs"] - replayed.frame.targets).abs().mean())
    assert type(learner.stages.epoch.fit.batch.gradient.loss).__name__ == "Loss"


def test_a_part_of_the_batch_is_replayed_by_its_path() -> None:
    learner, capture, _, values = run_with_capture("gradient")
    assert capture.captured is not None
    replayed = learner.replay(capture.captured, "gradient/forward")
    assert torch.equal(replayed.frame.outputs, values["outputs"])
    assert "loss" not in replayed.frame


def test_a_stage_that_does_not_fit_is_refused_and_nothing_has_changed() -> None:
    learner, capture, _, _ = run_with_capture()
    assert capture.captured is not None
    before = contents(learner)

    @stage(writes=("outputs",))
    def reads_nothing_there_is(nothing: Tensor) -> Tensor:
        return nothing

    with pytest.raises(GraphError, match="nothing"):
        learner.replay(capture.captured, swap={"forward": reads_nothing_there_is})
    assert_equal(contents(learner), before)


def test_an_error_in_a_replay_leaves_state_as_it_was() -> None:
    learner, capture, _, _ = run_with_capture()
    assert capture.captured is not None
    before = contents(learner)

    @stage(writes=("loss",))
    def fails(outputs: Tensor) -> Tensor:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        learner.replay(capture.captured, swap={"loss": fails})
    assert_equal(contents(learner), before)


def test_what_has_a_graph_cannot_be_captured() -> None:
    learner = make(Capture(epoch=0, batch=0, at="backward"))
    with pytest.raises(SnapshotError, match="'(loss|outputs)' cannot be copied"):
        learner.fit(batches=1)


def test_what_state_holds_between_runs_can_be_captured_too() -> None:
    learner = make()
    learner.fit(epochs=1)
    captured = learner.capture()
    found = [learner.replay(captured, "fit") for _ in range(2)]
    assert_equal(found[0].tensors, dict(found[1].tensors))
    learner.fit(epochs=1)
    assert torch.equal(found[0].tensors["model.0.weight"], learner.state.model[0].weight)


def test_a_loader_that_counts_its_passes_is_where_it_was() -> None:
    model, loader = nn.Linear(1, 1), TensorBatches(torch.randn(9, 1), torch.randn(9, 1), batch_size=2, shuffle=True)
    learner = Learner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), train=loader, device="cpu")
    learner.fit(epochs=1)
    before = loader.state_dict()
    learner.replay(learner.capture(), "fit")
    assert loader.state_dict() == before
