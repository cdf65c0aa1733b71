"""The trace: a file of the form that Chrome's tracing has, in which what ran inside something lies inside it."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from learner import Cancel, Invariant, Recorder, TrainState, supervised
from learner.testing import toy_learner
from state import ChangeLog
from state.recording import Recording
from state.stores import MemoryStore

Event = dict[str, Any]


def events(log: ChangeLog, path: Path) -> list[Event]:
    log.to_trace(path / "trace.json")
    return list(json.loads((path / "trace.json").read_text())["traceEvents"])


def nested(found: list[Event], lane: int) -> list[tuple[Event, Event | None]]:
    """Each slice of a lane with the one it lies in. Slices lie inside each other or apart."""
    slices = [event for event in found if event["ph"] == "X" and event["tid"] == lane]
    pairs: list[tuple[Event, Event | None]] = []
    around: list[tuple[float, Event]] = []
    for event in sorted(slices, key=lambda one: (one["ts"], -one["dur"], one["args"].get("actor", ""))):
        begun, end = event["ts"], event["ts"] + event["dur"]
        assert begun >= 0 and event["dur"] >= 0
        while around and around[-1][0] <= begun + 1e-6:
            around.pop()
        assert not around or end <= around[-1][0] + 1e-6, f"{event} is not inside of {around[-1][1]}"
        pairs.append((event, around[-1][1] if around else None))
        around.append((end, event))
    return pairs


def is_inside(actor: str, holder: str) -> bool:
    return actor == "guard" or actor.startswith((f"{holder}/", f"{holder}:"))


def programs() -> dict[str, Any]:
    def plain() -> Any:
        return toy_learner()

    def accumulating() -> Any:
        return toy_learner(stages=supervised(accumulate=3))

    def in_parts() -> Any:
        return toy_learner(stages=supervised(microbatches=2))

    def hooked() -> Any:
        learner = toy_learner()

        @learner.around("fit")
        def round_fit(state: Any) -> Any:
            sum(range(100_000))  # long before the batches, and short after
            yield

        @learner.around("update")
        def round_update(state: Any) -> Any:
            yield

        @learner.before("update", every="3 batches")
        def cancel(state: Any) -> None:
            raise Cancel("batch", "no")

        return learner

    return {made.__name__: made for made in (plain, accumulating, in_parts, hooked)}


@pytest.mark.parametrize("name", programs())
@pytest.mark.parametrize("is_debugging", [False, True], ids=["sampled", "all"])
def test_what_ran_inside_a_stage_lies_inside_it(name: str, is_debugging: bool, tmp_path: Path) -> None:
    learner = programs()[name]()
    learner.debug(is_debugging)
    learner.fit(epochs=2)
    found = events(learner.log, tmp_path)
    pairs = nested(found, 2)
    assert {event["name"] for event, _ in pairs} >= {"train", "epoch", "fit", "batch", "unpack", "update", "guard"}
    for event, holder in pairs:
        if holder is not None and event["dur"] > 0.001:  # shorter than the clock tells
            assert is_inside(event["args"]["actor"], holder["args"]["actor"])
    assert sum(holder is None for _, holder in pairs if _["name"] != "guard") == 1, "all is inside of train"
    assert len(nested(found, 1)) >= 16


def test_slices_are_as_long_as_what_was_timed(tmp_path: Path) -> None:
    learner = toy_learner()
    learner.fit(epochs=1)
    slices = [event for event in events(learner.log, tmp_path) if event.get("cat") == "stage"]
    for row in learner.log.profile():
        if row.sort == "hook":
            here = [event["dur"] / 1000 for event in slices if event["args"]["actor"] == row.actor]
            assert len(here) == row.calls
            assert sum(here) == pytest.approx(row.mean_ms * row.calls, abs=1e-3)


def test_numbers_are_counters_and_what_is_odd_is_a_mark(tmp_path: Path) -> None:
    learner = toy_learner()

    @learner.after("fit/batch/gradient/loss", reads=("loss", "batch_index"), writes=("loss",))
    def spoil(loss: Any, batch_index: int) -> Any:
        return loss * (math.nan if batch_index == 5 else 1.0)

    @learner.before("update", reads=("batch_index",))
    def cancel(batch_index: int) -> None:
        if batch_index >= 5:
            raise Cancel("batch", "bad <b>")

    learner.fit(epochs=1)
    with warnings.catch_warnings(action="ignore"):
        learner.state.optimizer.param_groups[0]["lr"] = 0.2
        learner.fit(batches=1)
    found = events(learner.log, tmp_path)
    losses = [event["args"]["value"] for event in found if event["ph"] == "C" and event["name"] == "loss"]
    written = [change.after for change in learner.log.history("loss")]
    assert losses == [value for value in written if math.isfinite(value)] and len(losses) < len(written)
    marks = [event["name"] for event in found if event["ph"] == "i"]
    assert "loss is nan" in marks and "external changed optimizer.hyper.lr" in marks
    assert any("cancelled by train/epoch/fit/batch/update:before:cancel (batch): bad <b>" in mark for mark in marks)
    assert {"ts", "pid", "tid", "s"} <= next(event for event in found if event["ph"] == "i").keys()


def test_round_of_which_the_log_was_read_meanwhile_is_one_slice(tmp_path: Path) -> None:
    learner = toy_learner()

    @learner.after("update")
    def read(state: Any) -> None:
        len(learner.log)

    learner.fit(epochs=1)
    rounds = [event["name"] for event, _ in nested(events(learner.log, tmp_path), 1)]
    assert rounds == [*(f"fit {number}" for number in range(8)), "validate 0", "validate 1"]
    nested(events(learner.log, tmp_path), 2)


def test_invariant_that_broke_is_a_mark(tmp_path: Path) -> None:
    never = Invariant("the loss is 7", lambda loss: loss == 7, after="loss", then="record")
    learner = toy_learner(invariants=[never])
    learner.fit(batches=1)
    marks = [event["name"] for event in events(learner.log, tmp_path) if event["ph"] == "i"]
    assert any(mark.endswith(": the loss is 7") for mark in marks)


def test_loop_of_ones_own_has_a_trace_too(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = Recorder(TrainState(model=model, optimizer=optimizer, loss_fn=nn.functional.mse_loss))
    for _ in range(3):
        with recorder.stage("batch", opens="batch"):
            with recorder.stage("gradient"):
                sum(range(1000))
            with recorder.stage("update"):
                pass
    pairs = nested(events(recorder.log, tmp_path), 2)
    assert len(pairs) == 9
    assert {event["name"]: None if holder is None else holder["name"] for event, holder in pairs} == {
        "batch": None,
        "gradient": "batch",
        "update": "batch",
    }


def test_stage_that_was_not_left_lies_round_what_was(tmp_path: Path) -> None:
    store = MemoryStore()
    recording = Recording(store)
    recording.field("loss", "batch", "Tensor", "")
    for actor, kind, value in (
        ("a", "enter", None),
        ("a/b", "enter", None),
        ("a/b", "exit", ["ok", 5_000, None]),
    ):
        recording.actor(actor, "stage", "")
        slot = recording.slot(actor, kind, None, "")
        assert slot is not None
        recording.mark(slot, value)
        recording.cut()
    recording.flush()
    (outer, none), (inner, holder) = nested(events(ChangeLog(store), tmp_path), 2)
    assert (outer["name"], outer["args"]["outcome"], none) == ("a", "not left", None)
    assert (inner["name"], holder) == ("b", outer)


def test_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    learner = toy_learner()
    learner.fit(batches=1)
    told = learner.log.to_trace(tmp_path / "trace.json")
    assert told.size == (tmp_path / "trace.json").stat().st_size and told.slices > 5
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    with pytest.raises(OSError):
        learner.log.to_trace(tmp_path / "nowhere" / "trace.json")
