"""A small run on record, for the questions to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from state import ChangeLog
from state.recording import Recording
from state.runs import LOG_FILE
from state.sqlite import SqliteStore
from state.stores import MemoryStore, Store

FIT = "train/epoch/fit"
UPDATE = f"{FIT}/batch/update"


def train(store: Store, epochs: int = 2, batches: int = 3) -> Recording:
    """The records of a small run: set-up, fit and validation of each epoch, one lr change by a hook."""
    recording = Recording(store)
    actors = [("setup", "reserved", ""), (UPDATE, "stage", "Update stages/update.py:12")]
    for name in ("gradient", "update:after:Decay.decay"):
        actors.append((f"{FIT}/batch/{name}", "stage", f"{name} mine.py:3"))
    for actor in [*actors, ("train/epoch/validate/batch/validate_loss", "stage", "validate_loss stages/validate.py:9")]:
        recording.actor(*actor)
    recording.field("loss", "batch", "Tensor", "scalar")
    recording.field("train_loss", "epoch", "float", "mean", default=0.0)
    recording.field("hidden", "phase", "Tensor", "carried over")
    for part in ("model", "model.params", "optimizer.hyper.lr", "optimizer.hyper.betas", "updates", "never"):
        recording.field(part, "run", "part", "")
    recording.slot(UPDATE, "write", "never", "view")

    def write(actor: str, field: str, value: object, evidence: str = "view") -> None:
        slot = recording.slot(actor, "write", field, evidence)
        assert slot is not None
        recording.write(slot, value)

    def leave(actor: str) -> None:
        slot = recording.slot(actor, "exit", None, "runner")
        assert slot is not None
        recording.mark(slot, ["ok", 1_200_000, None])

    write("setup", "model", object())
    write("setup", "optimizer.hyper.lr", 0.1)
    update = 0
    for epoch in range(epochs):
        for batch in range(batches):
            recording.cut()
            recording.position = (epoch, "fit", batch, update)
            write(f"{FIT}/batch/gradient", "loss", 10.0 - update)
            write(f"{FIT}/batch/gradient", "loss", 9.5 - update)
            write(UPDATE, "model.params", None, "inferred")
            update += 1
            write(UPDATE, "updates", update)
            write(UPDATE, "train_loss", 1.0 / update)
            write(UPDATE, "hidden", f"h{update}")
            leave(UPDATE)
        recording.cut()
        recording.position = (epoch, "validate", 0, update)
        write("train/epoch/validate/batch/validate_loss", "loss", 5.0 - epoch)
        recording.cut()
        recording.position = (epoch, None, None, update)
        write(f"{FIT}/batch/update:after:Decay.decay", "optimizer.hyper.lr", 0.1 / (epoch + 2))
    return recording


@pytest.fixture(params=["memory", "file"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    store: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / LOG_FILE)
    recording = train(store)
    yield ChangeLog(store, recording)
    recording.close()


@pytest.fixture(name="train")
def train_fixture() -> Callable[..., Recording]:
    """The function that records a small run."""
    return train
