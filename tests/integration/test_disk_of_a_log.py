"""A disk that takes no more of the log: training goes on, and what is missing is told."""

from pathlib import Path
from typing import Any

import pytest
import torch

from learner import ChangeLog, Learner
from learner.testing import toy_learner
from state.errors import LogWarning
from state.sqlite import SqliteStore

LEVELS = ("summary", "stats", "full")


def fill(store: SqliteStore) -> None:
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")


def make_room(store: SqliteStore) -> None:
    store._connection.execute("PRAGMA max_page_count = 1000000")


def lock(store: SqliteStore) -> None:
    store._connection.execute("PRAGMA query_only = ON")


def unlock(store: SqliteStore) -> None:
    store._connection.execute("PRAGMA query_only = OFF")


def trained(level: str, run: Path | None = None, failing: Any = None, mending: Any = None) -> Learner:
    """A learner after three epochs, in the second of which its disk takes nothing."""
    learner = toy_learner(run_dir=run, audit=level)
    store = learner.log._store if run is not None else None

    @learner.after("fit")
    def change_the_disk(state: Any) -> None:
        learner.log._flush()
        if store is not None and state.epoch == 0:
            failing(store)
            learner.log._recording.mark(0, "x" * 100_000)  # type: ignore[union-attr]  # more than a page has room for
        if store is not None and state.epoch == 1:
            mending(store)

    learner.fit(epochs=3)
    return learner


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("failing", "mending", "told"), [(fill, make_room, "full"), (lock, unlock, "readonly")])
def test_training_goes_on_without_its_log_and_the_gap_is_told(
    level: str, failing: Any, mending: Any, told: str, tmp_path: Path
) -> None:
    with pytest.warns(LogWarning, match=rf"{told}.*Training goes on; `lost` counts the segments that are missing"):
        learner = trained(level, tmp_path / "runs", failing, mending)
    undisturbed = trained(level)
    for one, other in zip(learner.state.model.parameters(), undisturbed.state.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert learner.log._recording is not None
    assert learner.log._recording.lost > 0
    learner.close()
    log = ChangeLog.open(tmp_path / "runs")
    numbers = [change.seq for change in log.changes()]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] + 1 > len(numbers) == len(log), "the numbers of the records show the gap"
    assert {change.position.epoch for change in log.where(field="loss", phase="fit")} == {0, 2}
    assert log.diff(log).kind == "none"
