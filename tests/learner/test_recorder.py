"""Recorder: guard and log for a loop that uses no Learner."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner import Cancel, ChangeLog, Recorder, State, StateError, TrainState, field
from stages import Misuse
from state import ABSENT, FieldNotReady, UnknownField


def line_state(lr: float = 0.1) -> TrainState:
    model = nn.Linear(1, 1)
    return TrainState(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=lr), loss_fn=F.mse_loss)


def loop(recorder: Recorder, batches: list[Any]) -> None:
    """Program 5 of the design."""
    for batch in batches:
        with recorder.stage("batch", opens="batch") as state:
            state.inputs, state.targets = batch
            with recorder.stage("gradient"):
                with recorder.stage("forward"):
                    state.outputs = state.model(state.inputs)
                state.loss = state.loss_fn(state.outputs, state.targets)
                state.loss.backward()
            with recorder.stage("update"):
                state.optimizer.step()
                state.optimizer.zero_grad()
                state.updates += 1


def test_own_loop_trains_and_is_on_the_record() -> None:
    recorder = Recorder(line_state())
    loop(recorder, [(torch.ones(2, 1), torch.ones(2, 1))] * 3)
    log = recorder.log
    assert log.blame("loss").actor == "batch/gradient"
    assert log.blame("outputs").actor == "batch/gradient/forward"
    assert [change.after for change in log.history("updates")] == [0, 1, 2, 3]
    assert [change.position.batch for change in log.where(field="loss")] == [0, 1, 2]
    assert recorder.state.updates == 3  # type: ignore[attr-defined]


def test_values_of_a_scope_end_with_its_block() -> None:
    recorder = Recorder(line_state())
    with recorder.stage("batch", opens="batch") as state:
        state.inputs = torch.ones(1)
        assert state.ready("inputs")
    assert not recorder.state.ready("inputs")
    with recorder.stage("batch", opens="batch") as state:
        with pytest.raises(
            FieldNotReady, match=r"batch reads 'inputs', which has no value now\. Write it first"
        ) as caught:
            _ = state.inputs
    assert caught.value.actor == "batch"


def test_value_written_under_a_wider_scope_stays() -> None:
    recorder = Recorder(line_state())
    with recorder.stage("epoch", opens="epoch") as state:
        for _ in range(2):
            with recorder.stage("batch", opens="batch"):
                state.train_loss = 0.5
        assert state.train_loss == 0.5


def test_failed_block_keeps_its_values_for_the_debugger_and_the_next_one_starts_empty() -> None:
    recorder = Recorder(line_state())
    with pytest.raises(ValueError, match="no"), recorder.stage("batch", opens="batch") as state:
        state.inputs = torch.ones(1)
        raise ValueError("no")
    assert recorder.state.ready("inputs")
    with recorder.stage("batch", opens="batch") as state:
        assert not state.ready("inputs")
    (failed, ended) = recorder.log.where(kind="exit")
    assert "failed" in str(failed) and "ok" in str(ended)


def test_cancel_ends_the_block_that_opened_its_scope() -> None:
    recorder = Recorder(line_state())
    reached: list[str] = []
    for _ in range(2):
        with recorder.stage("batch", opens="batch") as state:
            with recorder.stage("gradient"):
                state.loss = torch.tensor(float("nan"))
                raise Cancel("batch", "loss is not finite")
            reached.append("after")
    assert not reached
    assert "cancelled" in str(recorder.log.where(actor="batch", kind="exit")[-1])
    assert not recorder.state.ready("loss")


def test_cancel_of_a_scope_that_no_block_opens_goes_on() -> None:
    recorder = Recorder(line_state())
    with pytest.raises(Cancel) as caught, recorder.stage("batch", opens="batch"):
        raise Cancel("run", "low loss")
    assert (caught.value.scope, caught.value.reason) == ("run", "low loss")


def test_change_of_the_learning_rate_is_seen_without_a_declaration() -> None:
    state = line_state(lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(state.optimizer, 1, gamma=0.5)
    recorder = Recorder(state)
    state.optimizer.step()
    with recorder.stage("schedule"):
        schedule.step()
    change = recorder.log.blame("optimizer.hyper.lr")
    assert (change.actor, change.before, change.after) == ("schedule", 0.1, 0.05)
    assert change.evidence == "comparison"


def test_writes_are_validated_and_the_old_value_stays() -> None:
    recorder = Recorder(line_state())
    with recorder.stage("batch", opens="batch") as state:
        with pytest.raises(ValueError, match=r"batch may not set 'updates' to 'many'"):
            state.updates = "many"
        assert state.updates == 0


def test_unknown_field_offers_the_nearest() -> None:
    recorder = Recorder(line_state())
    with recorder.stage("batch", opens="batch") as state:
        with pytest.raises(UnknownField, match=r"Did you mean 'loss'\?") as caught:
            state.los = 1
        with pytest.raises(UnknownField):
            _ = state.los
    assert isinstance(caught.value, StateError)


def test_view_is_refused_after_its_block() -> None:
    recorder = Recorder(line_state())
    with recorder.stage("batch", opens="batch") as state:
        pass
    for ask in (lambda: state.updates, lambda: setattr(state, "updates", 1), lambda: state.ready("loss")):
        with pytest.raises(Misuse, match="was asked of a view whose block has ended"):
            ask()


def test_underscored_names_of_a_view_are_attribute_errors() -> None:
    with Recorder(line_state()).stage("batch") as state:
        assert not hasattr(state, "__rich__") and not hasattr(state, "_repr_html_")


def test_run_directory_is_numbered_and_its_log_stays_readable(tmp_path: Path) -> None:
    for number in ("0001", "0002"):
        with Recorder(line_state(), run_dir=tmp_path / "mine") as recorder:
            loop(recorder, [(torch.ones(2, 1), torch.ones(2, 1))])
        assert recorder.run_dir is not None and recorder.run_dir.name == number
    assert recorder.log.blame("updates").after == 1
    assert ChangeLog.open(f"{tmp_path / 'mine'}@1").blame("loss").actor == "batch/gradient"


def test_audit_off_records_nothing_and_still_validates() -> None:
    recorder = Recorder(line_state(), audit="off")
    loop(recorder, [(torch.ones(2, 1), torch.ones(2, 1))])
    assert len(recorder.log) == 0
    with recorder.stage("batch") as state, pytest.raises(ValueError, match="may not set"):
        state.updates = "many"


def test_recorder_begins_with_what_it_was_given() -> None:
    recorder = Recorder(line_state(lr=0.3))
    assert recorder.log.blame("optimizer.hyper.lr").actor == "setup"


def test_each_block_is_entered_and_left_at_its_position() -> None:
    recorder = Recorder(line_state())
    loop(recorder, [(torch.ones(2, 1), torch.ones(2, 1))] * 2)
    seen = [(row.position.batch, row.kind, row.actor) for row in recorder.log.tail(100) if row.kind != "write"]
    blocks = [
        ("enter", "batch"),
        ("enter", "batch/gradient"),
        ("enter", "batch/gradient/forward"),
        ("exit", "batch/gradient/forward"),
        ("exit", "batch/gradient"),
        ("enter", "batch/update"),
        ("exit", "batch/update"),
        ("exit", "batch"),
    ]
    assert seen == [(batch, *block) for batch in (0, 1) for block in blocks]


def test_view_prints_every_field_with_its_value() -> None:
    recorder = Recorder(line_state())
    with recorder.stage("batch", opens="batch") as state:
        state.inputs = torch.ones(2, 1)
        with recorder.stage("forward"):
            lines = repr(state).splitlines()
    assert lines[0] == "state of batch/forward:"
    assert [line.split()[0] for line in lines[1:]] == list(recorder.state.specs)
    assert "  inputs               rw  float32[2, 1]" in lines
    assert "  targets              rw  not ready" in lines


def test_view_lists_every_field() -> None:
    recorder = Recorder(line_state())
    with recorder.stage("batch") as state:
        assert dir(state) == sorted(recorder.state.specs)


def test_view_whose_block_has_ended_prints_that() -> None:
    with Recorder(line_state()).stage("batch") as state:
        pass
    assert repr(state) == "state of a block that has ended"
    assert dir(state) == []


def test_block_whose_scope_cannot_open_was_not_entered() -> None:
    class Ratio(State):
        """A value of the turn that is made of another."""

        parts: int = 0
        ratio: float = field(scope="turn", factory=lambda state: 1 / state.parts)

    recorder = Recorder(Ratio())
    with pytest.raises(ZeroDivisionError), recorder.stage("turn", opens="turn"):
        pass
    assert recorder.path == ""
    assert not [change for change in recorder.log.tail() if change.kind == "enter"]
    with recorder.stage("before") as state:
        state.parts = 2
    with recorder.stage("turn", opens="turn") as state:
        assert state.ratio == 0.5


def test_any_state_will_do() -> None:
    class Tiny(State):
        """One field."""

        value: Tensor = field(scope="turn")

    recorder = Recorder(Tiny())
    with recorder.stage("turn", opens="turn") as state:
        state.value = torch.ones(())
        assert recorder.path == "turn"
    assert recorder.log.blame("value").actor == "turn"
    assert recorder.path == ""


class Turns(TrainState):
    """A field for a scope of one's own."""

    tries: int = field(scope="turn", default=0)


def test_value_before_a_write_is_of_the_same_block_where_no_position_tells_them_apart() -> None:
    model = nn.Linear(1, 1)
    recorder = Recorder(Turns(model=model))
    found: list[tuple[str, Any]] = []

    def write(state: Any, name: str) -> None:
        found.append((name, getattr(state, name) if state.ready(name) else ABSENT))
        setattr(state, name, float(len(found)) if name != "tries" else len(found))

    for epoch in (0, 0, 1):
        with recorder.stage("epoch", opens="epoch") as state:
            write(state, "train_loss")
            state.epoch = epoch
            write(state, "train_loss")
            for _ in range(2):
                with recorder.stage("batch", opens="batch"):
                    write(state, "outputs")
                    for _ in range(2):
                        with recorder.stage("turn", opens="turn"):
                            write(state, "tries")
                            write(state, "tries")
                            write(state, "outputs")
                    write(state, "outputs")
                write(state, "train_loss")
    names = {name for name, _ in found}
    changes = [change for change in recorder.log.changes() if change.kind not in ("open", "close")]
    assert [(c.field, c.before) for c in changes if c.field in names and c.actor != "setup"] == found
    assert list(recorder.log.tail(len(recorder.log))) == changes


def test_batches_keep_their_numbers_round_and_after_other_scopes() -> None:
    recorder = Recorder(Turns(model=nn.Linear(1, 1)))
    for _ in range(3):
        with recorder.stage("batch", opens="batch") as state:
            with recorder.stage("turn", opens="turn"):
                state.tries += 1
            state.loss = torch.ones(())
    with recorder.stage("turn", opens="turn") as state:
        for _ in range(2):
            with recorder.stage("batch", opens="batch"):
                state.loss = torch.ones(())
    with recorder.stage("batch", opens="batch") as state:
        state.loss = torch.ones(())
    assert [change.position.batch for change in recorder.log.history("loss")] == [0, 1, 2, 0, 1, 3]
    assert [change.before for change in recorder.log.history("loss")] == [ABSENT] * 6
    assert [change.position.batch for change in recorder.log.history("tries")[1:]] == [0, 1, 2]


def test_plain_loop_has_no_records_of_scopes() -> None:
    recorder = Recorder(line_state())
    loop(recorder, [(torch.ones(2, 1), torch.ones(2, 1))] * 3)
    assert {change.kind for change in recorder.log.changes()} == {"write", "enter", "exit"}
