"""The page as a reader has it, in a headless Chromium: clicks, keys, filters, colours, and hostile texts."""

import math
import zlib
from pathlib import Path

import pytest
from torch import Tensor

from learner.testing import toy_learner
from state import ChangeLog
from state.page.document import write_page
from state.page.limits import Limits
from state.records import Records
from state.sqlite import SqliteStore
from tests.state.page.browsing import Browser
from tests.state.page.reading import HOSTILE, hostile_log, long_log

pytestmark = pytest.mark.browser

ROWS = "#panel .record[data-seq]"
CHOSEN = "#inspector h2"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 1,200 rounds, of which 24 have one more write and one has a change that nobody declared."""
    folder = tmp_path_factory.mktemp("run")
    long_log(folder / "rank0.log.db", 1_200)
    write_page(Records(SqliteStore.open(folder / "rank0.log.db")), folder / "log.html", Limits(edge=20, alike=5))
    return folder / "log.html"


@pytest.fixture
def page(browser: Browser, run: Path) -> Browser:
    browser.open(run)
    return browser


def tab(page: Browser, name: str) -> None:
    page.js(f"[...document.querySelectorAll('[role=tab]')].find((tab) => tab.innerText.startsWith('{name}')).click()")


def fill(page: Browser, field: str, text: str) -> None:
    page.js(f"document.getElementById('{field}').focus(); document.getElementById('{field}').select()")
    page.type(text)


def focused(page: Browser) -> str:
    return str(page.js("document.activeElement.innerText || document.activeElement.id"))


def test_it_begins_with_what_nobody_declared(page: Browser) -> None:
    assert page.text("[role=tab][aria-selected=true]") == "Violations1"
    assert page.texts(ROWS) == ["2818\n1:fit:200\nexternal\nlr\nnot ready\n700\nundeclared"]


def test_a_run_that_is_only_not_finite_begins_with_that(browser: Browser, tmp_path: Path) -> None:
    learner = toy_learner(valid=None)

    @learner.after("forward", reads=("outputs", "batch_index"), writes=("outputs",))
    def spoil(outputs: Tensor, batch_index: int) -> Tensor:
        return outputs * math.nan if batch_index == 4 else outputs

    learner.fit(epochs=1)
    browser.open(learner.log.to_html(tmp_path / "log.html").path)
    assert browser.text("[role=tab][aria-selected=true]").startswith("Not finite")
    assert "0:fit:4\nloss\nloss\nnot ready\nnan\nwrite" in browser.texts(ROWS)[0]


def test_a_change_is_shown_with_what_it_was_who_did_it_and_where(page: Browser) -> None:
    page.click(ROWS)
    told = page.text("#inspector")
    for text in ("lr", "Before\nnot ready", "After\n700", "actor\nexternal", "source\nexternal mine.py:1"):
        assert text in told
    assert "position\nepoch 1, fit, batch 200, update 700" in told
    assert "nobody had declared it" in told


def test_the_typical_cycle_is_shown_once_and_those_that_deviate_can_be_opened(page: Browser) -> None:
    tab(page, "Cycles")
    assert page.texts("#panel .disclosure b") == ["Typical cycle", "24 rounds", "epoch 1, fit, batch 200, update 700"]
    assert page.text("#panel .stepper .at").startswith("epoch 0, fit, batch 0, update 0 · 1 of 39 in this page, 1,175")
    assert len(page.texts(ROWS)) == 4
    page.click("#panel .disclosure", 1)
    assert len(page.texts("#panel .disclosure b")) == 9
    assert "18 more rounds of this shape" in page.text("#panel")
    page.click("#panel .disclosure", 2)
    assert "0:fit:49\nbatch:after:Count.add\nseen" in page.texts(f"{ROWS}.marked")[0]
    assert len(page.texts(ROWS)) == 9


def test_the_tree_tells_who_touches_what(page: Browser) -> None:
    rows = page.js("[...document.querySelectorAll('[role=treeitem]')].map((row) => row.title)")
    assert "train/epoch/fit/batch/gradient/loss\ntouches model.params, lr" in rows
    labels = page.js("[...document.querySelectorAll('[role=treeitem]')].map((row) => row.getAttribute('aria-label'))")
    assert "loss, 1,200 writes, touches model.params, lr" in labels


def test_the_arrows_step_through_the_regular_rounds(page: Browser) -> None:
    tab(page, "Cycles")
    page.click("#panel .stepper button", 1)
    page.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert "batch 2," in page.text("#panel .stepper .at")
    assert page.texts(ROWS)[1].split("\n")[-2:] == ["0.333333", "write"]


def test_filters_by_actor_field_and_position_leave_what_matches(page: Browser) -> None:
    tab(page, "Changes")
    fill(page, "actor", "*/update")
    fill(page, "field", "updates")
    fill(page, "position", "0:fit:3-5")
    assert [row.split("\n")[1:4] for row in page.texts(ROWS)] == [
        [f"0:fit:{n}", "update", "updates"] for n in (3, 4, 5)
    ]
    assert page.text("#matches") == "3 records in this page"
    page.press("Escape")
    assert len(page.texts(ROWS)) > 3
    page.click("#clear")
    assert page.js("[...document.querySelectorAll('#filters input')].map((field) => field.value).join('')") == "on"


def test_a_position_that_is_none_is_told(page: Browser) -> None:
    fill(page, "position", "first")
    assert page.text("#matches") == "A position is epoch:phase:batch, such as 2, 1-3:fit or 2:fit:5-9."
    assert page.js("document.getElementById('position').getAttribute('aria-invalid')") == "true"


def test_a_stage_of_the_tree_is_a_filter_for_all_below_it(page: Browser) -> None:
    tab(page, "Changes")
    page.click("#tree [title='train/epoch/fit/batch/gradient']")
    assert {row.split("\n")[2] for row in page.texts(ROWS)} == {"loss"}
    assert page.js("document.querySelector('#tree [aria-selected=true]').title") == "train/epoch/fit/batch/gradient"
    page.click("#tree [title='train/epoch/fit/batch/gradient']")
    assert len({row.split("\n")[2] for row in page.texts(ROWS)}) > 1


def test_the_heat_of_the_tree_counts_all_writes_of_the_run(page: Browser) -> None:
    rows = page.js("[...document.querySelectorAll('#tree .row')].map((row) => row.getAttribute('aria-label'))")
    assert {"update, 2,400 writes", "after:Count.add, 24 writes", "external, 1 write"} <= set(rows)
    page.click("#tree .twisty")
    assert page.texts("#tree .row")[0].split("\n")[-1] == "4,824"


def test_a_field_has_its_history_as_a_line_and_as_a_list(page: Browser) -> None:
    page.click("#fields [title=loss]")
    assert page.text(CHOSEN) == "loss"
    assert page.js("document.querySelectorAll('#inspector polyline').length") == 1
    assert page.texts("#inspector .run")[0] == "1\n0:fit:0\nloss\n1"
    page.js("document.querySelector('.chart').focus()")
    page.press("Home")
    assert page.text(".readout").startswith("record 1:")
    page.click("#fields [title='inputs']")
    assert page.js("document.querySelectorAll('#inspector polyline').length") == 0
    assert page.texts("#inspector .run") == ["0\n0:fit:0\nunpack\nlist[2]\n×1,200"]


def test_the_whole_page_can_be_used_by_keyboard(page: Browser) -> None:
    page.press("/")
    assert focused(page) == "actor"
    page.js("document.querySelector('#tree [tabindex=\"0\"]').focus()")
    assert focused(page).split("\n")[-1] == "train"
    page.press("ArrowLeft")
    assert len(page.texts("#tree .row")) == 2
    page.press("ArrowRight", "ArrowRight", "End")
    assert "external" in focused(page)
    page.press("Tab", "End")
    assert focused(page).startswith("updates")
    page.press("Tab")
    assert focused(page).startswith("Violations")
    page.press("ArrowLeft", "Enter")
    assert page.text("[role=tab][aria-selected=true]") == "Changes"
    page.js(f"document.querySelector('{ROWS}').focus()")
    page.press("ArrowDown", "ArrowDown", "Enter")
    assert page.text(CHOSEN) == "model.params"
    page.js("document.querySelector('#inspector .close').focus()")
    page.press("Escape")
    assert page.js(f"document.activeElement === document.querySelectorAll('{ROWS}')[2]")
    assert page.texts(CHOSEN) == []


def test_what_has_the_focus_is_seen(page: Browser) -> None:
    page.press("Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    page.press("Tab", "Tab")
    assert page.js(outline) == "solid"


def test_what_is_left_out_is_said(page: Browser) -> None:
    page.click("#left-out summary")
    assert "regular rounds in the middle of the run: 1,136 of 1,175" in page.text("#left-out")


def test_hostile_texts_stay_texts(browser: Browser, tmp_path: Path) -> None:
    hostile_log(tmp_path / "rank0.log.db")
    browser.open(ChangeLog.open(tmp_path).to_html(tmp_path / "log.html").path)
    tags = "[...new Set([...document.querySelectorAll('*')].map((e) => e.localName))].sort().join()"
    for name in ("Cycles", "Changes", "Violations", "Not finite"):
        tab(browser, name)
        browser.js("document.querySelectorAll('#panel .disclosure').forEach((one) => one.click())")
        shown = "".join(browser.texts("#panel"))
        assert all(text in shown for text in HOSTILE[:6])
    for number in range(len(HOSTILE)):
        tab(browser, "Changes")
        browser.click("#clear")
        browser.js(f"document.querySelectorAll('{ROWS}')[{5 * number}].click()")
        if HOSTILE[number].isprintable():
            assert HOSTILE[number] in browser.text("#inspector .two div:last-child pre")
            assert browser.text(CHOSEN) == f"{HOSTILE[number]}{number}"
            what = f"[...document.querySelectorAll('{ROWS} .what')].map((cell) => cell.innerText)"
            assert f"{HOSTILE[number]}{number} (seen contents)" in browser.js(what)
        browser.js(f"document.querySelectorAll('#fields .row')[{number}].click()")
        fill(browser, "actor", HOSTILE[number].replace("\udc80", ""))
        browser.press("Escape")
    assert browser.js("window.harmed") is None
    assert not {"img", "iframe", "b", "base", "link"} & set(browser.js(tags).split(","))
    assert browser.js("document.scripts.length") == 2


def test_light_and_dark_follow_the_system_and_the_switch(page: Browser, pictures: Path) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    tab(page, "Cycles")
    page.click("#fields [title=loss]")
    light = page.js(back)
    page.screenshot(pictures / "light.png")
    page.prefer("dark")
    dark = page.js(back)
    page.screenshot(pictures / "dark.png")
    assert light != dark
    page.click("#theme")
    assert page.js(back) == light
    page.click("#theme")
    page.prefer("light")
    assert page.js(back) == dark
    for name in ("light.png", "dark.png"):
        assert len(zlib.compress((pictures / name).read_bytes())) > 20_000  # an empty page has less to show


def test_a_narrow_window_shows_one_part_below_the_other(page: Browser) -> None:
    page.resize(420, 900)
    assert page.js("document.documentElement.scrollWidth") <= 420
    assert page.js("document.querySelector('main').getBoundingClientRect().left") < 20
