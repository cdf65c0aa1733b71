"""The author's kit: one stage alone, its contract, and the order of events."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Callback, Cancel, GraphError, Stage, State, TrainState, after, field, stage
from learner.testing import assert_contract, events, run_stage, toy_learner
from stages import Backward, Composite, Repeat, UndeclaredChange, Update
from state import UnknownField


@stage(writes=("outputs",))
def double(inputs: Any) -> Any:
    return inputs * 2


def test_toy_problem_is_learned() -> None:
    learner = toy_learner()
    assert learner.fit(epochs=3)[-1]["valid_loss"] < 0.01
    assert learner.state.model.weight.item() == pytest.approx(3, abs=0.1)


def test_toy_learner_takes_what_a_learner_takes() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(Exception, match="updates no parameter"):
        toy_learner(optimizer=torch.optim.SGD(model.parameters(), lr=1))
    assert list(toy_learner(valid=None).fit(epochs=1)[0]) == ["epoch", "train_loss", "seconds"]


def test_run_stage_gives_all_values_afterwards() -> None:
    frame = run_stage(double, inputs=3)
    assert (frame.inputs, frame.outputs) == (3, 6)


def test_run_stage_uses_the_state_it_is_given() -> None:
    class Small(State):
        """Two fields."""

        inputs: int = field(scope="batch")
        outputs: int = field(scope="batch")

    state = Small()
    run_stage(double, state, inputs=2)
    assert state.outputs == 4


def test_run_stage_adds_the_fields_that_the_stage_brings() -> None:
    class Wider(TrainState):
        """One field more."""

        norm: Tensor = field(scope="batch")

    @stage(state=Wider, reads=("inputs",), writes=("norm",))
    def norm(inputs: Tensor) -> Tensor:
        return inputs.norm()

    assert run_stage(norm, inputs=torch.ones(4)).norm == 2


def test_run_stage_refuses_what_is_missing() -> None:
    with pytest.raises(GraphError, match="double reads 'inputs', which nobody in this tree writes") as caught:
        run_stage(double)
    assert caught.value.findings[0].kind == "missing producer"


def test_run_stage_refuses_a_field_that_there_is_none_of() -> None:
    with pytest.raises(UnknownField, match=r"Did you mean 'inputs'\?") as caught:
        run_stage(double, input=3)
    assert caught.value.field == "input"


def test_run_stage_takes_the_gradients_that_a_model_has() -> None:
    model = nn.Linear(1, 1)
    loss = model(torch.ones(1, 1)).sum()
    run_stage(Backward(), model=model, loss=loss)
    run_stage(Update(), model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1))
    assert model.bias.grad is not None


def test_run_stage_guards_as_a_learner_does() -> None:
    @stage(writes=("outputs",))
    def peeks(state: Any) -> None:
        state.outputs = state.targets

    with pytest.raises(Exception, match="peeks may not read 'targets'"):
        run_stage(peeks, targets=1)


def test_run_stage_lets_errors_and_signals_through() -> None:
    @stage()
    def fails(inputs: Any) -> None:
        raise inputs

    with pytest.raises(ValueError, match="no") as caught:
        run_stage(fails, inputs=ValueError("no"))
    (note,) = caught.value.__notes__
    assert note.startswith("In fails at update 0. Its code: ") and f"fails {__file__}:" in note
    with pytest.raises(Cancel):
        run_stage(fails, inputs=Cancel("run"))


def test_run_stage_runs_composites_and_loops() -> None:
    assert run_stage(Composite(double), inputs=1).outputs == 2


def test_assert_contract_accepts_a_stage_that_keeps_its_word() -> None:
    assert_contract(double, inputs=3)
    assert_contract(Composite(Backward()), model=(model := nn.Linear(1, 1)), loss=model(torch.ones(1, 1)).sum())


def test_assert_contract_takes_values_that_their_field_converts() -> None:
    class Rated(TrainState):
        """A float that may be given as an int."""

        rate: float = field(scope="batch")

    @stage(state=Rated, writes=("outputs",))
    def use(rate: float) -> float:
        return rate

    assert_contract(use, rate=1)


def test_assert_contract_finds_a_write_behind_the_declaration() -> None:
    state = TrainState()

    class Sneaks(Stage):
        """Writes round its view."""

        writes = ("outputs",)

        def run(self, inputs: Any) -> Any:
            state.__dict__["targets"] = inputs
            return inputs

    with pytest.raises(AssertionError, match=r"sneaks changed \['targets'\], which it does not declare in writes"):
        assert_contract(Sneaks(), state, inputs=3)


@stage(writes=("outputs",))
def normalizes(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs)


def test_run_stage_finds_what_changes_in_place() -> None:
    with pytest.raises(UndeclaredChange, match=r"normalizes changed 'model\.buffers' \(running_mean") as caught:
        run_stage(normalizes, model=nn.BatchNorm1d(2), inputs=torch.randn(4, 2))
    assert caught.value.actor == "normalizes"


def test_run_stage_finds_it_in_every_round_of_a_loop() -> None:
    class Counter(nn.Module):
        """Counts its calls."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))
            self.count = 0

    @stage(state=TrainState)
    def draw(model: Any) -> None:
        model.count += 1
        if model.count == 6:
            model.calls.data.add_(1)

    model = Counter()
    with pytest.raises(UndeclaredChange, match=r"'model\.buffers' \(calls"):
        run_stage(Repeat(9, draw), model=model)
    assert model.count == 6


def test_assert_contract_finds_what_changes_in_place() -> None:
    values = {"model": nn.BatchNorm1d(2), "inputs": torch.randn(4, 2)}
    with pytest.raises(AssertionError, match=r"normalizes changed 'model\.buffers' .* to its touches"):
        assert_contract(normalizes, **values)
    assert_contract(stage(writes=("outputs",), touches=("model.buffers",))(normalizes), **values)


def test_events_name_every_before_and_after_in_order() -> None:
    learner = toy_learner(valid=None)
    seen = events(learner)
    learner.fit(epochs=1)
    assert seen[:5] == ["before train", "before epoch", "before fit", "before fetch", "after fetch: ok"]
    assert seen[5:9] == ["before batch", "before unpack", "after unpack: ok", "before clear_gradients"]
    assert seen[-7:] == [
        "before fetch",
        "after fetch: exhausted",
        "after fit: ok",
        "after epoch: ok",
        "before checkpoint",
        "after checkpoint: ok",
        "after train: ok",
    ]
    assert seen.count("after update: ok") == 8


def test_events_show_how_a_cancelled_stage_ended() -> None:
    class Stop(Callback):
        """Cancels the first batch."""

        @after("loss", within="fit", first="1 batch")
        def stop(self, state: Any) -> None:
            raise Cancel("batch", "once")

    learner = toy_learner(callbacks=[Stop()])
    seen = events(learner)
    learner.fit(batches=2)
    assert seen.count("after batch: cancelled") == 1
    assert seen.count("after update: ok") == 1


def test_events_change_nothing() -> None:
    plain, watched = toy_learner(), toy_learner()
    events(watched)
    plain.fit(epochs=1)
    watched.fit(epochs=1)
    assert torch.equal(plain.state.model.weight, watched.state.model.weight)
