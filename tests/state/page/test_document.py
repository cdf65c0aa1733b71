"""The page: what its file holds, by a parser and by its data, compared with the log."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

from state import ChangeLog
from state.changes import ABSENT
from state.page.document import MAX_BYTES, SCRIPTS, write_page
from state.page.limits import Limits
from state.recording import Recording
from state.records import FORGETS, Records
from state.sqlite import SqliteStore
from state.stores import MemoryStore
from tests.state.page.reading import HOSTILE, Parts, data_of, hostile_log, long_log, shown

PAGE = Path(__file__).parents[3] / "state/page"
FEW = Limits(edge=30, alike=10, points=100, runs=20)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    hostile_log(folder / "rank0.log.db")
    ChangeLog.open(folder).to_html(folder / "log.html")
    return folder / "log.html"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that shows a small part of its log, which is beside it."""
    folder = tmp_path_factory.mktemp("long")
    long_log(folder / "rank0.log.db", 2_000)
    write_page(Records(SqliteStore.open(folder / "rank0.log.db")), folder / "log.html", FEW)
    return folder / "log.html"


def test_the_page_of_a_small_run_has_every_record_as_the_log_has_it(log: ChangeLog, tmp_path: Path) -> None:
    page = log.to_html(tmp_path / "log.html")
    records = shown(data_of(page.path))
    assert page.left_out == ()
    assert list(records) == [change.seq for change in log.changes()]
    for change in log.changes():
        record, place = records[change.seq], change.position
        assert record["place"] == (place.epoch, place.phase, place.batch, place.update)
        for name in ("actor", "kind", "field", "after", "evidence", "source"):
            assert record[name] == getattr(change, name)
        assert record["before"] == (["absent"] if change.before is ABSENT else change.before)


def test_what_an_actor_may_change_on_the_way_is_there_without_a_record(long: Path) -> None:
    data = data_of(long)
    touches = [data["slots"][slot] for slot in data["touches"]]
    told = [(data["actors"][actor][0], kind, data["fields"][field][0]) for actor, kind, field, _ in touches]
    loss = "train/epoch/fit/batch/gradient/loss"
    assert told == [(loss, "touch", "model.params"), (loss, "touch", "lr")]
    assert not {slot for slot, _ in data["heat"]} & {*data["touches"]}


def test_what_a_shown_change_replaced_is_right_where_rounds_before_it_are_left_out(long: Path) -> None:
    records = shown(data_of(long))
    changes = {change.seq: change for change in ChangeLog.open(long.parent).changes()}
    assert len(records) < len(changes) / 8
    for seq, record in records.items():
        before = changes[seq].before
        assert (record["field"], record["before"]) == (changes[seq].field, ["absent"] if before is ABSENT else before)


def test_a_page_of_100_000_changes_is_small_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    long_log(tmp_path / "rank0.log.db", 25_000)
    page = ChangeLog.open(tmp_path).to_html(tmp_path / "log.html")
    data = data_of(page.path)
    assert page.facts["records"] == data["records"] > 100_000
    assert page.size == page.path.stat().st_size < MAX_BYTES / 4
    assert list(page.left_out) == data["left_out"]
    assert re.match("regular rounds in the middle of the run: [0-9,]+ of 24,499$", page.left_out[0])
    places = [place for _, place, *_ in data["rounds"]]
    assert (places[0][:3], places[-1][:3]) == ([0, "fit", 0], [49, "fit", 499])


def test_the_counts_and_findings_of_a_long_run_are_those_of_all_its_records(long: Path) -> None:
    log, data = ChangeLog.open(long.parent), data_of(long)
    slots = [(data["actors"][actor][0], data["fields"][field][0]) for actor, _, field, _ in data["slots"]]
    heat = {slots[slot]: sum(counts) for slot, counts in data["heat"]}
    for (actor, field), count in heat.items():
        assert count == len(log.where(actor=actor, field=field))
    count, found = data["findings"]["violation"]
    (external,) = log.where(actor="external")
    assert (count, [seq + index for seq, index in found]) == (1, [external.seq])
    assert external.seq in shown(data)
    assert sum(count for *_, count, _, _, _ in data["shapes"]) == 2_000


def test_a_history_is_thinned_out_between_the_first_and_the_last_values(long: Path) -> None:
    data = data_of(long)
    names = [None if field is None else data["fields"][field][0] for _, _, field, _ in data["slots"]]
    (loss,) = [line for line in data["lines"] if names[line["slot"]] == "loss"]
    assert loss["count"] == 2_000
    assert len(loss["points"]) == FEW.points
    assert (loss["points"][0][2], loss["points"][-1][1]) == (1.0, 1 / 2_000)
    assert (loss["runs"][0][3], loss["runs"][-1][3]) == (1.0, 1 / 2_000)


def test_a_page_that_would_be_too_large_leaves_out_more(
    long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = long.stat().st_size - 1
    monkeypatch.setattr("state.page.document.MAX_BYTES", most)
    records = Records(SqliteStore.open(long.parent / "rank0.log.db"))
    page = write_page(records, tmp_path / "small.html", FEW)
    assert page.size == page.path.stat().st_size <= most
    assert page.facts["rounds_shown"] < len(data_of(long)["rounds"])


def test_the_page_needs_nothing_from_elsewhere(hostile: Path) -> None:
    parts = Parts(hostile.read_text(encoding="utf-8"))
    fetching = {"src", "href", "srcset", "action", "data", "poster", "style"}
    asked = [
        (tag, name, value) for tag, attributes in parts.tags for name, value in attributes.items() if name in fetching
    ]
    assert asked == [("a", "href", "#main")]
    assert {tag for tag, _ in parts.tags}.isdisjoint({"link", "img", "iframe", "object", "embed", "base"})
    assert not [name for _, attributes in parts.tags for name in attributes if name.startswith("on")]
    for text in parts.texts["style"] + parts.texts["script"][1:]:
        assert not re.search(r"url\(|@import|\bfetch\(|\bimport\(|XMLHttpRequest|WebSocket", text)


def test_the_policy_allows_this_script_and_this_style_sheet_only(hostile: Path) -> None:
    parts = Parts(hostile.read_text(encoding="utf-8"))
    (policy,) = [a["content"] for tag, a in parts.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    (style,), (_, script) = parts.texts["style"], parts.texts["script"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    assert policy.split("; ") == [
        *("default-src 'none'", "base-uri 'none'", "form-action 'none'"),
        *(f"{name}-src 'sha256-{each}'" for name, each in zip(("script", "style"), hashes, strict=True)),
    ]


def test_nothing_of_a_log_is_in_the_page_but_base64(hostile: Path) -> None:
    parts = Parts(hostile.read_text(encoding="utf-8"))
    assert [attributes.get("type") for tag, attributes in parts.tags if tag == "script"] == [
        "application/json",
        "module",
    ]
    assert re.fullmatch(r'\{"packing": "gzip\+base64", "data": "[A-Za-z0-9+/=]+"\}', parts.texts["script"][0])


def test_hostile_texts_are_in_the_data_as_they_are(hostile: Path) -> None:
    data = data_of(hostile)
    texts = {record["after"] for record in shown(data).values() if isinstance(record["after"], str)}
    fields = {name for name, _ in data["fields"]}
    for number, text in enumerate(HOSTILE):
        if text.isprintable():
            assert text in texts
            assert f"{text}{number}" in fields
    assert all(text.isprintable() for text in texts | fields)
    assert any(r"turned \u202ekcab\u202c and \x00\x1b[31m\u2028 lines" in text for text in texts)


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_parses_text_as_markup_or_as_code(name: str) -> None:
    text = (PAGE / name).read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\(", text)
    assert not re.search(r"createContextualFragment|srcdoc|\.src\b|\.href\b", text)


def test_every_script_of_the_directory_is_in_the_page_and_short_enough_to_read() -> None:
    assert {path.name for path in PAGE.glob("*.js")} == set(SCRIPTS)
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 350 for path in PAGE.iterdir() if path.is_file())


def test_a_log_without_a_record_has_a_page(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "rank0.log.db").close()
    page = ChangeLog.open(tmp_path).to_html(tmp_path / "log.html")
    assert page.facts["records"] == 0
    assert shown(data_of(page.path)) == {}


def test_the_page_says_where_to_look_first(long: Path, log: ChangeLog, tmp_path: Path) -> None:
    page = ChangeLog.open(long.parent).to_html(tmp_path / "log.html")
    assert (page.field, str(page.position)) == ("lr", "epoch 1, fit, batch 200, update 700")
    assert log.to_html(tmp_path / "log.html").field is None


def test_records_that_were_rolled_back_are_left_out_and_counted(tmp_path: Path) -> None:
    recording = Recording(SqliteStore(tmp_path / "rank0.log.db"))
    recording.actor("user", "reserved", "")
    recording.field("loss", "run", "float", "")
    slot = recording.slot("user", "write", "loss", "write")
    assert slot is not None
    for value in (1.0, float("nan"), 2.0):
        recording.position = (0, "fit", int(recording.end() / 2), None)
        recording.write(slot, value)
        if value != value:
            recording.roll_back("user", 1)
    recording.close()
    page = ChangeLog.open(tmp_path).to_html(tmp_path / "log.html")
    written = [record for record in shown(data_of(page.path)).values() if record["kind"] == "write"]
    assert [(record["before"], record["after"]) for record in written] == [(["absent"], 1.0), (1.0, 2.0)]
    assert page.facts["not_finite"] == 0
    assert page.left_out[0].startswith("records that were rolled back")


def test_what_the_log_in_memory_has_let_go_of_is_told(tmp_path: Path) -> None:
    store = MemoryStore(rounds=5)
    recording = Recording(store)
    recording.actor("user", "reserved", "")
    recording.field("loss", "batch", "float", "")
    slot = recording.slot("user", "write", "loss", "write")
    assert slot is not None
    for batch in range(8):
        recording.position = (0, "fit", batch, None)
        recording.write(slot, 0.5)
        recording.cut()
    page = ChangeLog(store, recording).to_html(tmp_path / "log.html")
    assert page.left_out == (f"segments that were let go of: 3. {FORGETS}",)


@pytest.mark.slow
def test_a_page_of_a_million_changes_is_below_five_megabytes(tmp_path: Path) -> None:
    long_log(tmp_path / "rank0.log.db", 250_000, per_epoch=5_000)
    page = ChangeLog.open(tmp_path).to_html(tmp_path / "log.html")
    assert page.facts["records"] > 1_000_000
    assert page.size < 5_000_000
