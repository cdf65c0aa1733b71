"""The reference follows the code: generated parts are up to date, and the glossary uses its words."""

import re
import runpy
from pathlib import Path
from typing import Any, get_args

import pytest
from torch import nn

import state.fields
import state.recording
from learner.testing import toy_learner
from stages.cancel import OutcomeKind
from state import TrainState
from state.parts import parts_of
from state.watch import EVIDENCE

ROOT = Path(__file__).parents[1]
GENERATE = runpy.run_path(str(ROOT / "docs/generate.py"))
GLOSSARY = (ROOT / "docs/reference/glossary.md").read_text(encoding="utf-8")
WHICH_SLOT = (ROOT / "docs/how-to/which-slot.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", GENERATE["pages"](), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_generated_parts_are_as_the_code_has_them(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == GENERATE["generated"](text), "Run: python docs/generate.py"


def test_every_generator_has_its_place_in_a_page() -> None:
    pages = [page.read_text(encoding="utf-8") for page in GENERATE["pages"]()]
    assert {name for page in pages for _, name, _, _ in GENERATE["PART"].findall(page)} == GENERATE["PARTS"].keys()


def test_what_the_page_calls_ready_is_ready_in_a_run() -> None:
    before, after = GENERATE["readiness"](toy_learner())
    learner = toy_learner()
    absent: list[tuple[str, str, str]] = []

    def look(path: str, side: str, names: list[str]) -> Any:
        def hook(state: Any, outcome: Any) -> None:
            if outcome.kind == "ok":
                absent.extend((side, path, name) for name in names if "." not in name and not state.ready(name))

        return hook

    for path in before:
        learner.before(path)(look(path, "before", before[path]))
        learner.after(path)(look(path, "after", after[path]))
    learner.fit(epochs=2)
    assert not absent


def test_slots_named_in_advice_exist() -> None:
    advice = WHICH_SLOT.partition("<!-- generated")[0]
    targets = set(re.findall(r"`(?:before|after)\(\"([^\"]+)\"", advice))
    learner = toy_learner()
    for target in targets:
        learner.after(target)(lambda state: None)
    assert targets


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("outcome", set(get_args(OutcomeKind))),
        ("level", set(state.levels.LEVELS)),
        ("saved", set(get_args(state.fields.Saved))),
        ("scope", {"run", "update"} | {spec.scope for spec in TrainState.specs.values()}),
        ("part", {f".{part}" for part in parts_of(nn.Module)}),
        ("evidence", {"write", "comparison", "inferred", "undeclared", *EVIDENCE}),
    ],
)
def test_glossary_lists_the_values_of_the_code(word: str, values: set[str]) -> None:
    assert values <= set(re.findall(r"`([^`]+)`", entry(word)))


def test_outcomes_of_the_glossary_are_those_of_the_code() -> None:
    listed = set(re.findall(r"^- `(\w+)`:", entry("outcome"), flags=re.MULTILINE))
    assert listed == set(get_args(OutcomeKind))


def test_reserved_actors_of_the_glossary_appear_in_a_log() -> None:
    learner = toy_learner()
    learner.state.updates = 3
    assert {"setup", "user"} <= {change.actor for change in learner.log.changes()}
    assert {"setup", "user", "external"} <= set(re.findall(r"`(\w+)`", entry("actor")))


def entry(word: str) -> str:
    """The text of one word of the glossary."""
    found = re.search(rf"^### {word}.*?\n(.*?)(?=^### |\Z)", GLOSSARY, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, f"the glossary has no entry {word!r}"
    return found[1]
