"""Answers that are read as they are looked at, against one pass over all records; and a file against the memory."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state import ChangeLog, Changes
from state.answer import Answer, in_one_pass
from state.changes import Change
from state.first import _range
from state.position import ANYWHERE, Asked, is_within
from state.recording import Recording
from state.records import Records
from state.runs import LOG_FILE
from state.sqlite import SqliteStore
from state.stores import MemoryStore, Store

SCOPES = {"r": "run", "e": "epoch", "p": "phase", "b": "batch", "t": "turn"}
NUMBERS = (0.1, 1.0, -2.5, 1e300, float("nan"), float("-inf"), True, 7, None, "text")
MEASURED = ([0, -1.0, 2.0, 0.5, 3.0, None, None], [0, None, None, None, 2.0, "00ff", "a"], [0])
PLACES = [(None, None, None, None), *((e, p, b, 0) for e, p, b in product((0, 1), ("fit", "it's"), (0, 1, 2)))]
ASKED: list[Asked] = [ANYWHERE, (0, None, None), (None, "it's", None), (range(1, 9, 2), "fit", range(2)), (2, None, 1)]

writes = st.tuples(st.sampled_from("repbt"), st.sampled_from([*NUMBERS, *MEASURED]))
marks = st.tuples(st.sampled_from(("open", "close")), st.sampled_from((*SCOPES.values(),)))
rounds = st.lists(st.tuples(st.sampled_from(PLACES), st.lists(writes | marks, min_size=1, max_size=5)), max_size=12)
rolled = st.none() | st.integers(0, 10)


def record(store: Store, told: Sequence[tuple[Any, Sequence[Any]]], back_to: int | None) -> None:
    """Write rounds; perhaps a checkpoint lies before one of them, from which the run goes on after all of them."""
    recording = Recording(store)
    recording.actor("a", "stage", "")
    recording._tables.metas["a tensor"] = 0
    for name, scope in SCOPES.items():
        recording.field(name, scope, "int", "")
    starts = []
    for place, records in told:
        recording.position = place
        starts.append(recording.end())
        for what, value in records:
            is_write = what in SCOPES
            slot = recording.slot(
                "a", "write" if is_write else what, what if is_write else None, "" if is_write else value
            )
            assert slot is not None
            recording.mark(slot, value if is_write else None)
        recording.cut()
    if back_to is not None and back_to < len(starts):
        recording.roll_back("a", starts[back_to])
    recording.flush()


def with_each(ask: Callable[[ChangeLog], None], told: Any, back_to: int | None = None) -> None:
    """Ask a log in memory, and one in a file."""
    with TemporaryDirectory() as folder:
        for store in (MemoryStore(), SqliteStore(Path(folder) / LOG_FILE)):
            record(store, told, back_to)
            ask(ChangeLog(store))
            store.close()


def shown(changes: Sequence[Change]) -> str:
    return repr([(change.seq, change.before, change.after, change.position) for change in changes])


@given(told=rounds, asked=st.sampled_from(ASKED), fields=st.sets(st.sampled_from("repbt")), back_to=rolled)
@settings(max_examples=60, deadline=None)
def test_what_is_looked_at_is_what_one_pass_finds(
    told: Any, asked: Asked, fields: set[str], back_to: int | None
) -> None:
    def ask(log: ChangeLog) -> None:
        records = log._records()
        chosen = records.writes(fields)
        plain = list(in_one_pass(records, chosen, asked))
        assert len(Answer(records, chosen, asked)) == len(plain)
        assert shown([*Answer(records, chosen, asked)]) == shown(plain)
        single = Answer(records, chosen, asked)
        single._end = 10**9  # so that each is read by itself
        assert shown([single[number] for number in range(len(plain))]) == shown(plain)
        for part in (slice(1), slice(-2, None), slice(1, -1), slice(None, None, -1), slice(0, 9, 2), slice(5, 2)):
            assert shown(Answer(records, chosen, asked)[part]) == shown(plain[part])

    with_each(ask, told, back_to)


@given(
    told=rounds,
    asked=st.sampled_from(ASKED),
    bound=st.sampled_from((-3.0, 0.1, 1.0, 2.0, 1e300)),
    is_above=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_file_leaves_out_nothing_that_is_asked_for(told: Any, asked: Asked, bound: float, is_above: bool) -> None:
    def ask(log: ChangeLog) -> None:
        records = log._records()
        every = list(records.read())
        assert repr(list(records.read(asked=asked))) == repr([one for one in every if is_within(one.place, asked)])
        beyond = (bound, None) if is_above else (None, bound)
        found = {one.seq for one in records.read(records.writes(SCOPES), beyond=beyond)}
        for one in every:
            low, high = _range(one)
            if one.slot.kind == "write" and (low if not is_above else high) is not None:
                is_past = high > bound if is_above else low < bound  # type: ignore[operator]
                assert one.seq in found or not is_past

    with_each(ask, told)


def test_an_answer_does_not_grow_with_the_run() -> None:
    store = MemoryStore(rounds=2)
    record(store, [((0, "fit", 0, 0), [("r", 1)]), ((0, "fit", 1, 1), [("r", 2)])], None)
    history = ChangeLog(store).history("r")
    record(store, [((0, "fit", 2, 2), [("r", 3)]), ((0, "fit", 3, 3), [("r", 4)])], None)
    assert [change.after for change in history] == [1, 2]
    assert [change.after for change in ChangeLog(store).history("r")] == [3, 4]


def test_an_answer_of_a_file_is_as_of_the_question_and_outlives_its_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / LOG_FILE)
    record(store, [((0, "fit", 0, 0), [("r", 1)]), ((0, "fit", 1, 1), [("r", 2)])], None)
    history = ChangeLog(store).history("r")
    record(store, [((0, "fit", 2, 2), [("r", 3)])], None)
    store.close()
    assert len(history) == 2
    assert [(change.before, change.after) for change in history[1:]] == [(1, 2)]
    assert [change.after for change in history] == [1, 2]
    assert [change.after for change in ChangeLog(store).history("r")] == [1, 2, 3]


def test_a_question_sees_what_another_connection_wrote(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / LOG_FILE)
    record(store, [((0, "fit", 0, 0), [("r", 1)])], None)
    log = ChangeLog.open(tmp_path / LOG_FILE)
    assert log.blame("r").after == 1
    record(store, [((0, "fit", 1, 1), [("r", 2)])], None)
    assert log.blame("r").after == 2
    store.close()


def test_changes_do_not_follow_the_list_they_were_made_of() -> None:
    given_list: list[Change] = []
    changes = Changes(given_list)
    given_list.append(None)  # type: ignore[arg-type]
    assert len(changes) == 0


@pytest.mark.parametrize("asked", [(10**30, None, None), (range(0, 10**30, 2), None, None), ("0", None, None)])
def test_a_place_that_no_file_has_is_not_there(asked: Any, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / LOG_FILE)
    record(store, [((0, "fit", 1, 0), [("r", 1)])], None)
    assert len(list(Records(store).read(asked=asked))) == isinstance(asked[0], range)
    store.close()
