"""Gaps: what a disk that is full costs the log, and how the log tells of it."""

import warnings
from collections.abc import Sequence

import pytest

from state.change_log import ChangeLog
from state.errors import LogWarning
from state.recording import Recording
from state.records import Records
from state.stores import MemoryStore, Segment, Tables


class FullStore(MemoryStore):
    """A store whose disk is full until there is room."""

    name = "full.db"
    has_room = False

    def write(self, tables: Tables, segments: Sequence[Segment]) -> None:
        if not self.has_room:
            raise OSError("database or disk is full")
        super().write(tables, segments)


def recorder(store: MemoryStore) -> tuple[Recording, int]:
    """A recording, and the slot of a loss."""
    recording = Recording(store)
    recording.actor("train/fit", "stage", "Fit fit.py:1")
    recording.field("loss", "batch", "Tensor", "scalar")
    slot = recording.slot("train/fit", "write", "loss", "view")
    assert slot is not None
    return recording, slot


def test_a_full_disk_warns_once_and_training_goes_on() -> None:
    store = FullStore()
    recording, slot = recorder(store)
    with pytest.warns(LogWarning, match=r"'full.db' could not be written: database or disk is full\. Training goes on"):
        recording.write(slot, 1)
        recording.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recording.write(slot, 2)
        recording.flush()
    store.has_room = True
    recording.write(slot, 3)
    recording.close()
    assert recording.lost == 2
    told = "2 records are missing: database or disk is full"
    assert [(record.seq, record.value) for record in Records(store).read()] == [(2, 3), (3, told)]


def test_a_gap_is_told_once_there_is_room_for_that_too() -> None:
    class Narrow(FullStore):
        """A store with room for a given number of writes."""

        left = 0

        def write(self, tables: Tables, segments: Sequence[Segment]) -> None:
            self.has_room = self.left > 0
            self.left -= 1
            super().write(tables, segments)

    store = Narrow()
    recording, slot = recorder(store)
    with pytest.warns(LogWarning, match="is full"):
        recording.write(slot, 1)
        recording.flush()
    store.left = 1
    recording.write(slot, 2)
    recording.flush()
    store.left = 10
    recording.flush()
    log = ChangeLog(store, recording)
    (gap,) = log.where(kind="gap")
    assert (gap.actor, gap.after) == ("log", "1 record is missing: database or disk is full")
    assert repr(log).endswith("; 1 record is missing: database or disk is full")
    recording.close()
    assert len(log.where(kind="gap")) == 1
