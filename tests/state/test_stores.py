"""The two stores: what goes in comes out, from memory and from a file that others read, break or fill."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.errors import LogDamaged, LogWarning, RunNotFound
from state.recording import Recording
from state.records import Records
from state.sqlite import SqliteStore
from state.stores import MemoryStore, Store, from_json, to_json

ROOT = Path(__file__).parents[2]
VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=20)
ROUNDS = st.lists(
    st.tuples(st.none() | st.integers(0, 3), st.lists(st.tuples(st.integers(0, 3), VALUES | st.just([1, 2])))),
    max_size=20,
)


def record(store: Store, rounds: list[tuple[int | None, list[tuple[int, Any]]]]) -> Recording:
    """Write rounds of (batch, [(field number, value)]) to a store, the same way each time."""
    recording = Recording(store)
    recording._clock_ns = 0
    recording.actor("train/fit", "stage", "Fit fit.py:1")
    for number in range(4):
        recording.field(f"f{number}", "batch", "Any", "any value", default=math.inf)
    for batch, writes in rounds:
        recording.position = (0, "fit", batch, None)
        for number, value in writes:
            slot = recording.slot("train/fit", "write", f"f{number}", "view")
            assert slot is not None
            recording.write(slot, value)
        recording.cut()
    recording.flush()
    return recording


def without_time(store: Store, **chosen: Any) -> str:
    """The segments as text: NaN is unequal to itself, its text is not."""
    return repr([(seq, *rest) for seq, _, *rest in store.segments(**chosen)])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A closed log of 400 batches, several pages long."""
    path = tmp_path / "rank0.log.db"
    record(SqliteStore(path), [(batch, [(batch % 4, "x" * 100)]) for batch in range(400)]).close()
    return path


@settings(max_examples=50, deadline=None)
@given(rounds=ROUNDS)
def test_memory_and_file_hold_the_same(rounds: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("law") / "log.db"
    memory, file = MemoryStore(), SqliteStore(path)
    record(memory, rounds)
    record(file, rounds).close()
    reader = SqliteStore.open(path)
    assert reader.tables() == memory.tables()
    assert reader.count() == memory.count()
    asked: list[dict[str, Any]] = [{}, {"backward": True}, {"before": 5}, {"since": 3}, {"nonfinite": True}]
    for chosen in [*asked, {"wanted": {0: [0], 2: [0]}}, {"wanted": {0: [0, 0], 1: [0, 0, 0, 0, 0]}}]:
        assert without_time(reader, **chosen) == without_time(memory, **chosen)
    reader.close()


@settings(max_examples=50, deadline=None)
@given(rounds=ROUNDS)
def test_the_view_unfolds_as_the_reader_does(rounds: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("view") / "log.db"
    record(SqliteStore(path), rounds).close()
    reader = SqliteStore.open(path)
    query = "SELECT seq, t_ns, epoch, phase, batch, upd, actor, kind, field, evidence FROM change ORDER BY seq"
    rows = [tuple(row) for row in reader._connection.execute(query)]
    records = list(Records(reader).read())
    assert rows == [
        (r.seq, r.t_ns, *r.place, r.slot.actor, r.slot.kind, r.slot.field, r.slot.evidence) for r in records
    ]
    values = [value for (value,) in reader._connection.execute("SELECT value FROM change ORDER BY seq")]
    for shown, each in zip(values, records, strict=True):
        is_cut = isinstance(each.value, str) and "\0" in each.value  # SQLite's json_each ends a text there
        expected = str(each.value) if isinstance(each.value, float) and not math.isfinite(each.value) else each.value
        assert is_cut or shown == expected
    reader.close()


def test_the_stage_view_shows_how_stages_ended(tmp_path: Path) -> None:
    recording = Recording(SqliteStore(tmp_path / "log.db"))
    recording.actor("train/fit", "stage", "Fit fit.py:1")
    slot = recording.slot("train/fit", "exit", None, "runner")
    assert slot is not None
    reason = "train/epoch:after:EarlyStopping.look (run): no progress"
    recording.mark(slot, ["cancelled", 1_500_000, reason])
    recording.close()
    reader = SqliteStore.open(tmp_path / "log.db")
    rows = list(reader._connection.execute("SELECT actor, outcome, duration_ns, reason FROM stage"))
    assert rows == [("train/fit", "cancelled", 1_500_000, reason)]
    assert next(Records(reader).read()).value == f"cancelled by {reason}, 1.5 ms"
    reader.close()


@pytest.mark.parametrize("value", [[1, "a", None], [math.nan, 1.0], math.inf, -math.inf, [[-math.inf], 2], "\ud800"])
def test_json_gives_back_every_value(value: object) -> None:
    assert repr(from_json(to_json(value))) == repr(value)


def test_memory_keeps_the_latest_batches_and_apart_from_them_the_rest() -> None:
    store = MemoryStore(rounds=10)
    record(store, [(None, [(0, "set-up")]), *[(batch, [(1, batch)]) for batch in range(1_000)]])
    assert [record.value for record in Records(store).read()] == ["set-up", *range(990, 1_000)]
    assert store.dropped == 990


def test_a_second_reader_sees_what_is_flushed_while_the_run_lives(tmp_path: Path) -> None:
    recording = record(SqliteStore(tmp_path / "log.db"), [(0, [(0, 1)])])
    reader = SqliteStore.open(tmp_path / "log.db")
    half_read = reader.segments()
    next(half_read)
    for value in (2, 3):
        recording.write(0, value)
        recording.flush()
    assert recording.lost == 0
    assert [each.value for each in Records(reader).read()] == [1, 2, 3]
    del half_read
    recording.close()
    assert reader.count() == 3
    reader.close()


def test_a_killed_run_leaves_a_readable_log(tmp_path: Path) -> None:
    program = (
        "import sys, time; from state.recording import Recording; from state.sqlite import SqliteStore\n"
        "recording = Recording(SqliteStore(sys.argv[1])); recording.actor('a', 'stage', '')\n"
        "recording.field('loss', 'run', 'float', ''); slot = recording.slot('a', 'write', 'loss', 'view')\n"
        "for n in range(1000): recording.write(slot, n); recording.cut()\n"
        "recording.flush(); recording.write(slot, -1); recording.cut(); print('ready', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "log.db"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
    reader = SqliteStore.open(path)
    assert [each.value for each in Records(reader).read()] == list(range(1000))
    reader.close()


def test_a_closed_log_stands_alone(log: Path) -> None:
    assert [path.name for path in log.parent.iterdir()] == [log.name]
    connection = sqlite3.connect(f"{log.as_uri()}?mode=ro&immutable=1", uri=True)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_a_disk_that_fills_up_costs_the_log_but_not_the_run(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "log.db")
    recording = record(store, [(0, [(0, "first")])])
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    recording.mark(0, "x" * 100_000)
    with pytest.warns(LogWarning, match="disk is full"):
        recording.flush()
    store._connection.execute("PRAGMA max_page_count = 100000")
    recording.write(0, "last")
    recording.close()
    reader = SqliteStore.open(tmp_path / "log.db")
    told = "1 record is missing: database or disk is full"
    assert [(each.seq, each.value) for each in Records(reader).read()] == [(0, "first"), (2, "last"), (3, told)]
    reader.close()


def test_rows_that_come_again_are_not_doubled(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "log.db")
    recording = record(store, [(0, [(0, 1)])])
    store.write(recording._tables, list(store.segments()))
    assert store.count() == 1
    recording.close()
    recording.close()


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_text(path: Path) -> None:
    path.write_text("seq,actor\n1,train\n" * 100)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE actor (id)")
    connection.close()


def damage_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE segment")
    connection.close()


def damage_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncate, "malformed"),
        (damage_text, "file is not a database"),
        (damage_empty, "it is empty, or the database of another program"),
        (damage_foreign, "it is empty, or the database of another program"),
        (damage_table, "no such table: .*segment"),
        (damage_version, "its format is 99, and this version knows 1"),
    ],
)
def test_a_file_that_is_no_log_is_refused_with_its_name_and_why(log: Path, damage: Any, reason: str) -> None:
    damage(log)
    with pytest.raises(LogDamaged, match=reason) as caught:
        SqliteStore.open(log)
    assert caught.value.path == str(log)


def test_another_programs_database_is_not_written_to(log: Path) -> None:
    damage_foreign(log)
    before = log.read_bytes()
    with pytest.raises(LogDamaged, match="another program"):
        SqliteStore(log)
    assert log.read_bytes() == before


def test_a_missing_file_names_the_nearest(log: Path) -> None:
    with pytest.raises(RunNotFound, match=r"Did you mean '.*rank0\.log\.db'\?"):
        SqliteStore.open(log.with_name("rank1.log.db"))
