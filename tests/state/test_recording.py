"""What the runner's writes become: summaries, segments and learned templates."""

import gc
import threading
import weakref
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
import torch

from state import recording as module
from state import summaries
from state.recording import Recording
from state.records import Records
from state.sqlite import SqliteStore
from state.stores import MemoryStore, Segment


def recorder(store: MemoryStore | None = None, level: str = "summary", **levels: str) -> Recording:
    recording = Recording(MemoryStore() if store is None else store, level, levels)
    recording.actor("train/fit", "stage", "Fit fit.py:1")
    recording.field("loss", "batch", "Tensor", "scalar")
    return recording


def slot_of(recording: Recording, field: str = "loss") -> int:
    slot = recording.slot("train/fit", "write", field, "view")
    assert slot is not None
    return slot


def summary(value: object, level: str = "summary") -> object:
    """What a reader gets of a written value."""
    store = MemoryStore()
    recording = recorder(store, level)
    recording.write(slot_of(recording), value)
    recording.flush()
    return next(Records(store).read()).value


class Colour(IntEnum):
    RED = 7


class Rude(list[int]):
    def __len__(self) -> int:
        raise RuntimeError("do not look")


@pytest.mark.parametrize("value", [1, 1.5, True, None, "text", float("inf")])
def test_plain_values_are_kept_as_they_are(value: object) -> None:
    assert summary(value) == value
    assert type(summary(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (torch.tensor(2.5), 2.5),
        (torch.tensor(2.5, requires_grad=True) * 2, 5.0),
        (torch.nn.Parameter(torch.tensor(3.0)), 3.0),
        (torch.tensor(True), True),
        (torch.tensor(1j), "1j"),
        (torch.tensor(1.5).as_subclass(type("Mine", (torch.Tensor,), {})), 1.5),
        (torch.zeros(64, 10), "float32[64, 10]"),
        (torch.nn.Parameter(torch.zeros(2)), "float32[2]"),
        (torch.zeros(1), "float32[1]"),
        (torch.zeros((), device="meta"), "float32[] meta"),
        (torch.zeros(3, dtype=torch.int64, device="meta"), "int64[3] meta"),
        ({"input_ids": 1, "mask": 2}, "dict(input_ids, mask)"),
        ({n: n for n in range(20)}, f"dict({'int, ' * 8}...)"),
        ([1, 2], "list[2]"),
        ((1, 2, 3), "tuple[3]"),
        (torch.nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        (Colour.RED, 7),
        ("x" * 500, "x" * 197 + "..."),
        (1j, "1j"),
        (Rude(), f"{__name__}.Rude"),
    ],
)
def test_other_values_are_summarised(value: object, kept: object) -> None:
    assert summary(value) == kept
    assert type(summary(value)) is type(kept)


def test_a_small_int_is_not_taken_for_a_text() -> None:
    store = MemoryStore()
    recording = recorder(store)
    recording.write(slot_of(recording), [5])
    recording.write(slot_of(recording), 0)
    recording.flush()
    assert [record.value for record in Records(store).read()] == ["list[1]", 0]


def test_level_writes_keeps_no_value() -> None:
    assert summary(1.5, level="writes") is None


def test_level_off_gives_no_slot_to_the_field_and_its_parts() -> None:
    recording = recorder(loss="off")
    recording.field("loss.part", "batch", "part", "")
    assert recording.slot("train/fit", "write", "loss", "view") is None
    assert recording.slot("train/fit", "write", "loss.part", "view") is None
    assert recording.slot("train/fit", "enter", None, "runner") is not None


class InterruptedList(list[Segment]):
    """A list in which Ctrl-C comes right after it has grown."""

    def extend(self, segments: Iterable[Segment]) -> None:
        super().extend(segments)
        raise KeyboardInterrupt


@pytest.mark.parametrize("templates", [1_000, 0])
def test_a_signal_in_the_middle_of_a_cut_gives_no_number_twice(templates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEMPLATES", templates)
    store = MemoryStore()
    recording = recorder(store)
    recording.write(slot_of(recording), 1)
    recording._pending = InterruptedList()
    with pytest.raises(KeyboardInterrupt):
        recording.cut()
    recording._pending = list(recording._pending)
    recording.write(slot_of(recording), 2)
    recording.flush()
    assert [(record.seq, record.value) for record in Records(store).read()] == [(0, 1), (1, 2)]


def test_a_signal_after_the_store_has_taken_segments_lets_none_come_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    recording = recorder(store)
    recording.write(slot_of(recording), 1)
    take = store.write

    def interrupted(tables: Any, segments: Any) -> None:
        take(tables, segments)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recording.flush()
    monkeypatch.undo()
    recording.write(slot_of(recording), 2)
    recording.flush()
    assert [(record.seq, record.value) for record in Records(store).read()] == [(0, 1), (1, 2)]
    assert store.dropped == 0


def test_a_field_can_be_recorded_where_all_else_is_off() -> None:
    recording = recorder(level="off", loss="summary")
    assert recording.slot("train/fit", "enter", None, "runner") is None
    assert recording.slot("train/fit", "exit", None, "runner") is None
    assert recording.slot("train/fit", "write", "loss", "view") is not None


def test_slots_are_interned() -> None:
    recording = recorder()
    assert slot_of(recording) == slot_of(recording)


def test_what_a_replaced_actor_wrote_keeps_its_source() -> None:
    store = MemoryStore()
    recording = recorder(store)
    recording.write(slot_of(recording), 1)
    recording.actor("train/fit", "stage", "MyFit mine.py:2")
    recording.write(slot_of(recording), 2)
    recording.flush()
    assert [record.slot.source for record in Records(store).read()] == ["Fit fit.py:1", "MyFit mine.py:2"]


def test_equal_rounds_share_a_template_and_others_learn_their_own() -> None:
    store = MemoryStore()
    recording = recorder(store)
    slot = slot_of(recording)
    for length in (1, 1, 2, 1):
        for _ in range(length):
            recording.write(slot, 0.5)
        recording.cut()
    recording.flush()
    assert [segment[3] for segment in store.segments()] == [0, 0, 1, 0]
    assert [segment[0] for segment in store.segments()] == [0, 1, 2, 4]


def test_cut_of_nothing_is_nothing() -> None:
    store = MemoryStore()
    recording = recorder(store)
    recording.cut()
    recording.flush()
    assert not list(store.segments())


def test_past_the_bound_segments_are_split_into_single_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEMPLATES", 20)
    store = MemoryStore()
    recording = recorder(store)
    slot = slot_of(recording)
    for length in range(1, 40):
        for number in range(length):
            recording.write(slot, number)
        recording.cut()
    recording.flush()
    assert len(store.tables().templates) == 20
    records = list(Records(store).read())
    assert [record.seq for record in records] == list(range(sum(range(40))))
    assert [record.value for record in records] == [number for length in range(1, 40) for number in range(length)]


def test_the_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "MAX_METAS", 5)
    store = MemoryStore()
    recording = recorder(store)
    for length in range(100):
        recording.write(slot_of(recording), [None] * length)
        recording.write(slot_of(recording), torch.zeros(1, length))
    recording.flush()
    assert len(store.tables().metas) == 7
    assert [record.value for record in Records(store).read(backward=True)][:2] == ["float32", "list"]


def test_nothing_written_is_held() -> None:
    recording = recorder()
    objects = [torch.zeros(3, requires_grad=True) * 2, torch.tensor(1.0, requires_grad=True) * 2, torch.nn.ReLU()]
    held = [weakref.ref(each) for each in objects]
    for each in objects:
        recording.write(slot_of(recording), each)
    del each
    objects.clear()
    gc.collect()
    assert [reference() for reference in held] == [None] * 3


def test_device_scalars_are_read_at_the_save() -> None:
    values: list[Any] = [torch.tensor(1.5), 3, torch.tensor(2), torch.tensor(float("nan"))]
    summaries.Summaries({}).fetched([values])
    assert repr(values) == "[1.5, 3, 2, nan]"


@pytest.mark.gpu
def test_a_scalar_on_a_device_is_copied_and_read_later() -> None:
    store = MemoryStore()
    recording = recorder(store)
    loss = torch.tensor(1.5, device="cuda", requires_grad=True) * 2
    recording.write(slot_of(recording), loss)
    loss.detach().add_(1)
    recording.write(slot_of(recording), torch.zeros(2, device="cuda"))
    recording.flush()
    assert [record.value for record in Records(store).read()] == [3.0, "float32[2] cuda:0"]


def test_a_save_happens_every_256_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_NS", 10**18)
    store = MemoryStore()
    recording = recorder(store)
    for _ in range(300):
        recording.write(slot_of(recording), 1)
        recording.cut()
    assert len(list(store.segments())) == 256


def test_a_save_happens_when_enough_time_has_gone_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_NS", 0)
    store = MemoryStore()
    recording = recorder(store)
    recording.write(slot_of(recording), 1)
    recording.cut()
    assert len(list(store.segments())) == 1


def test_a_reader_in_another_thread_loses_no_record() -> None:
    store = MemoryStore()
    recording = recorder(store)
    slot = slot_of(recording)
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            recording.flush()

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(5_000):
        recording.write(slot, number)
        if number % 7 == 0:
            recording.cut()
    is_done.set()
    reader.join()
    recording.flush()
    assert [(record.seq, record.value) for record in Records(store).read()] == [(n, n) for n in range(5_000)]


def test_a_recording_continues_the_store_it_is_given() -> None:
    store = MemoryStore()
    for number in range(2):
        recording = recorder(store)
        recording.write(slot_of(recording), number)
        recording.close()
    assert [(record.seq, record.value) for record in Records(store).read()] == [(0, 0), (1, 1)]
    assert len(store.tables().slots) == 1


def test_text_that_no_file_can_hold_loses_no_record(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "log.db")
    recording = Recording(store)
    recording.actor("lone \udc80", "stage", "\udc80")
    recording.field("a \udc80", "scope \udc80", "type \udc80", "\udc80")
    slot = recording.slot("lone \udc80", "write", "a \udc80", "evidence \udc80")
    assert slot is not None
    recording.write(slot, 1)
    recording.close()
    assert recording.lost == 0 and SqliteStore.open(tmp_path / "log.db").count() == 1
