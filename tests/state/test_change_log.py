"""Questions to the change log: who, when, from what to what."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from state import ABSENT, ChangeLog, Changes, Position
from state.errors import LogDamaged, RunNotFound, StateError, UnknownField
from state.recording import Recording
from state.runs import LOG_FILE, new_run
from state.sqlite import SqliteStore
from state.stores import MemoryStore

Train = Callable[..., Recording]

FIT = "train/epoch/fit"
UPDATE = f"{FIT}/batch/update"


def values(changes: Changes) -> list[tuple[object, object]]:
    return [(change.before, change.after) for change in changes]


def test_blame_names_who_wrote_a_part_last(log: ChangeLog) -> None:
    change = log.blame("model.params")
    assert change.actor == UPDATE
    assert change.position == Position(1, "fit", 2, 5)
    assert str(change) == f"{UPDATE} at epoch 1, batch 2, update 5: model.params (inferred), stages/update.py:12"


def test_a_change_of_value_is_told_in_one_line(log: ChangeLog) -> None:
    assert str(log.blame("updates")).endswith("update 5: updates 5 -> 6 (view), stages/update.py:12")
    assert str(log.history("optimizer.hyper.lr")[0]) == "setup: optimizer.hyper.lr = 0.1 (view)"
    assert str(log.where(kind="exit")[0]).endswith("update 0: exit ok, 1.2 ms, stages/update.py:12")


def test_blame_of_a_tensor_is_answered_by_its_part(log: ChangeLog) -> None:
    assert log.blame("model.params.0.weight").field == "model.params"


def test_blame_of_a_component_finds_the_latest_below_it(log: ChangeLog) -> None:
    assert log.blame("optimizer.hyper").field == "optimizer.hyper.lr"
    assert log.blame("model").field == "model.params"


def test_blame_at_a_round_does_not_look_beyond_it(log: ChangeLog) -> None:
    assert log.blame("updates", at=Position(0, "fit", 1)).after == 2
    assert log.blame("optimizer.hyper.lr", at=Position(epoch=0)).after == 0.05
    assert log.blame("optimizer.hyper.lr", at=Position(0, "fit", 2)).after == 0.1


@pytest.mark.parametrize(("at", "after"), [("0:fit:1", 2), ((0, "fit", 1), 2), ("0:fit", 3), ((0,), 3), ("1", 6)])
def test_blame_takes_a_position_as_text_or_tuple_too(log: ChangeLog, at: Any, after: int) -> None:
    assert log.blame("updates", at=at).after == after


def test_blame_refuses_what_is_no_position(log: ChangeLog) -> None:
    with pytest.raises(StateError, match="^0 is none of epoch, epoch:phase and epoch:phase:batch, such as 19:fit:23"):
        log.blame("updates", at=0)  # type: ignore[arg-type]


def test_blame_of_a_field_never_written_says_who_would(log: ChangeLog) -> None:
    with pytest.raises(StateError, match=r"no write of 'never'\. \['train/epoch/fit/batch/update'\] would write it\."):
        log.blame("never")
    with pytest.raises(StateError, match=r"no write of 'optimizer.hyper.betas'\. No stage or hook writes it\."):
        log.blame("optimizer.hyper.betas")


@pytest.mark.parametrize(("name", "nearest"), [("los", "loss"), ("model.parms", "model.params")])
def test_an_unknown_name_is_answered_with_the_nearest(log: ChangeLog, name: str, nearest: str) -> None:
    for ask in (log.blame, log.history, lambda name: log.where(field=name)):
        with pytest.raises(UnknownField, match=rf"The log has no field '{name}'\. Did you mean '{nearest}'") as caught:
            ask(name)
        assert caught.value.nearest == nearest


def test_before_of_a_run_field_is_its_last_value(log: ChangeLog) -> None:
    assert values(log.history("updates")) == [(ABSENT, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]
    assert values(log.history("optimizer.hyper.lr")) == [(ABSENT, 0.1), (0.1, 0.05), (0.05, 0.1 / 3)]


def test_before_of_a_scoped_field_stays_within_its_scope(log: ChangeLog) -> None:
    assert values(log.history("loss"))[:5] == [(ABSENT, 10.0), (10.0, 9.5), (ABSENT, 9.0), (9.0, 8.5), (ABSENT, 8.0)]
    assert [before for before, _ in values(log.history("hidden"))] == [ABSENT, "h1", "h2", ABSENT, "h4", "h5"]


def test_before_of_a_first_write_is_the_default_if_there_is_one(log: ChangeLog) -> None:
    assert [before for before, _ in values(log.history("train_loss"))] == [0.0, 1.0, 1 / 2, 0.0, 1 / 4, 1 / 5]


def test_looking_back_finds_what_one_pass_finds(log: ChangeLog) -> None:
    assert list(log.tail(1_000)) == list(log.changes())
    assert list(log.tail(5)) == list(log.changes())[-5:]


def test_the_numbers_of_the_records_have_no_gap(log: ChangeLog) -> None:
    assert [change.seq for change in log.changes()] == list(range(len(log)))


def test_where_takes_patterns_and_ranges(log: ChangeLog) -> None:
    assert {change.actor for change in log.where(actor="**/update")} == {UPDATE}
    assert {change.field for change in log.where(field="optimizer.hyper.*")} == {"optimizer.hyper.lr"}
    assert [change.position.batch for change in log.where(field="updates", epoch=1, batch=range(1, 3))] == [1, 2]
    assert [change.after for change in log.where(field="loss", phase="validate")] == [5.0, 4.0]
    assert len(log.where(evidence="inferred")) == 6
    assert len(log.where(kind=None)) == len(log)


def test_where_of_an_actor_that_did_nothing_is_empty(log: ChangeLog) -> None:
    assert repr(log.where(actor="external")) == "no changes"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"phase": "fitt"}, r"no phase 'fitt'\. Did you mean 'fit'\? It has 'fit', 'validate'\.$"),
        ({"phase": "x", "epoch": 0}, r"no phase 'x'\. It has 'fit', 'validate'\.$"),
        (
            {"kind": "writes"},
            r"kind='writes' is none of 'write', 'enter', .*, 'broken', 'gap', 'seen', nor None .*mean 'write'\?$",
        ),
        ({"kind": 3}, r"kind=3 is none of"),
        ({"epoch": 7}, r"The log has no epoch 7\. It holds epochs 0 to 1\.$"),
        ({"epoch": range(7, 10)}, r"no epoch 7 to 9\. It holds epochs 0 to 1\.$"),
        ({"batch": 9}, r"no batch 9\. It holds epochs 0 to 1, fit to batch 2, validate to batch 0\.$"),
        ({"epoch": 1, "phase": "validate", "batch": 2}, r"no epoch 1, validate, batch 2\. .* 1, of this one fit to"),
    ],
)
def test_where_refuses_a_place_or_kind_that_there_is_not(log: ChangeLog, asked: dict[str, Any], told: str) -> None:
    for actor in (None, "external"):
        with pytest.raises(StateError, match=told):
            log.where(actor=actor, **asked)


def test_where_takes_a_range_that_goes_beyond_the_log(log: ChangeLog) -> None:
    assert [change.after for change in log.where(field="updates", epoch=range(1, 100))] == [4, 5, 6]
    assert not log.where(actor="external", epoch=0, phase="fit", batch=1)


def test_where_keeps_before_of_what_others_wrote(log: ChangeLog) -> None:
    assert values(log.where(actor="*Decay*", epoch=0)) == [(0.1, 0.05)]


def test_exits_are_told_in_words(log: ChangeLog) -> None:
    change = log.where(kind="exit")[-1]
    assert (change.actor, change.field, change.before, change.after) == (UPDATE, None, None, "ok, 1.2 ms")


def test_at_a_batch_the_state_has_what_its_scopes_held(log: ChangeLog) -> None:
    held = log.at(epoch=0, batch=1)
    assert held == {
        "hidden": "h2",
        "loss": 8.5,
        "model": "builtins.object",
        "model.params": None,
        "optimizer.hyper.lr": 0.1,
        "train_loss": 0.5,
        "updates": 2,
    }


def test_at_a_round_of_a_phase_or_an_epoch_the_inner_scopes_are_gone(log: ChangeLog) -> None:
    assert log.at(epoch=0, batch=0, phase="validate")["loss"] == 5.0
    assert "hidden" not in log.at(epoch=0, batch=0, phase="validate")
    assert "loss" not in log.at(epoch=1, phase="fit")
    assert log.at(epoch=1, phase="fit")["hidden"] == "h6"
    assert sorted(log.at(epoch=1)) == ["model", "model.params", "optimizer.hyper.lr", "train_loss", "updates"]


def test_a_round_that_is_not_there_names_those_that_are(log: ChangeLog) -> None:
    with pytest.raises(StateError, match=r"The log has no epoch 7\. It holds epochs 0 to 1\."):
        log.at(epoch=7)
    with pytest.raises(StateError, match=r"no epoch 1, fit, batch 9\. .*fit to batch 2, validate to batch 0\."):
        log.blame("loss", at=Position(1, "fit", 9))


def test_a_live_log_includes_the_open_round(train: Train) -> None:
    store = MemoryStore()
    recording = train(store)
    log = ChangeLog(store, recording)
    slot = recording.slot(UPDATE, "write", "updates", "view")
    assert slot is not None
    recording.write(slot, 99)
    assert log.blame("updates").after == 99


def test_a_log_in_memory_says_why_old_rounds_are_gone(train: Train) -> None:
    store = MemoryStore(rounds=2)
    recording = train(store, epochs=5)
    with pytest.raises(StateError, match="give a run_dir to keep them all"):
        ChangeLog(store, recording).blame("model.params", at=Position(epoch=3))

    with pytest.raises(StateError, match=r"no epoch 2, fit\. It holds epochs 3 to 4\. The log in memory keeps the lat"):
        ChangeLog(store, recording).where(epoch=2, phase="fit")


def test_a_log_of_nothing_says_why_it_is_empty() -> None:
    log = ChangeLog(MemoryStore())
    asks: list[Callable[[], object]] = [lambda: log.blame("model.params"), lambda: log.history("loss")]
    asks += [lambda: log.at(epoch=0), lambda: log.where(field="loss"), lambda: log.where(phase="fit")]
    for ask in asks:
        with pytest.raises(StateError, match=r'This log is empty, because nothing was recorded \(audit="off"\)\.'):
            ask()
    assert (len(log), list(log.tail()), list(log.where()), list(log.changes())) == (0, [], [], [])


def test_a_stored_run_is_opened_by_any_of_its_names(train: Train, tmp_path: Path) -> None:
    family = tmp_path / "runs" / "digits"
    for epochs in (1, 2):
        train(SqliteStore(new_run(family) / LOG_FILE), epochs).close()
    assert ChangeLog.open(family).blame("updates").after == 6
    assert ChangeLog.open(f"{family}@1").blame("updates").after == 3
    assert ChangeLog.open(family / "0001" / LOG_FILE).blame("updates").after == 3


def test_a_run_that_has_not_begun_is_passed_over(train: Train, tmp_path: Path) -> None:
    family = tmp_path / "digits"
    train(SqliteStore(new_run(family) / LOG_FILE), 2).close()
    only_set_up = SqliteStore(new_run(family) / LOG_FILE)
    recording = Recording(only_set_up)
    recording.actor("setup", "setup", "")
    recording.field("updates", "run", "int", "")
    recording.write(recording.slot("setup", "write", "updates", "write"), 7)  # type: ignore[arg-type]
    recording.close()
    (new_run(family) / LOG_FILE).touch()  # killed while the file was made
    new_run(family)  # or before
    assert ChangeLog.open(family).blame("updates").after == 6
    assert ChangeLog.open(f"{family}@2").blame("updates").after == 7


def test_a_damaged_log_is_not_passed_over(train: Train, tmp_path: Path) -> None:
    for _ in range(2):
        train(SqliteStore(new_run(tmp_path) / LOG_FILE), 1).close()
    (tmp_path / "0002" / LOG_FILE).write_text("not a log" * 1000)
    with pytest.raises(LogDamaged, match="not a database"):
        ChangeLog.open(tmp_path)


def test_a_run_without_a_readable_log_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path / "digits")
    with pytest.raises(RunNotFound, match=r"rank0\.log\.db"):
        ChangeLog.open(tmp_path / "digits")
    (run / LOG_FILE).write_text("not a log" * 1000)
    with pytest.raises(LogDamaged, match="not a database"):
        ChangeLog.open(tmp_path / "digits")


def test_a_log_tells_its_size_and_end(log: ChangeLog) -> None:
    assert repr(log).endswith(": 48 records, the last at epoch 1, update 6")
    assert repr(ChangeLog(MemoryStore())) == "ChangeLog of 'memory': 0 records"
