"""Levels: how a text names one, and in which batches it holds."""

import pytest

from state.errors import StateError
from state.levels import LEVELS, Level


@pytest.mark.parametrize("name", LEVELS)
def test_each_level_is_named_by_its_word(name: str) -> None:
    assert Level.of(name) == (name, 1)


@pytest.mark.parametrize(("text", "level"), [("stats/5", ("stats", 5)), ("full/20", ("full", 20))])
def test_what_is_measured_may_be_measured_now_and_then(text: str, level: tuple[str, int]) -> None:
    assert Level.of(text) == level


@pytest.mark.parametrize(
    "wrong", ["", "all", "stats/0", "stats/", "stats/-1", "full/2.5", "summary/20", "off/2", None, 3]
)
def test_what_is_no_level_is_refused_with_those_that_are(wrong: object) -> None:
    with pytest.raises(StateError, match=r"none of off, writes, summary, stats, full, nor 'stats/20'"):
        Level.of(wrong)


def test_a_slip_gets_the_nearest_level() -> None:
    with pytest.raises(StateError, match="Did you mean 'stats'"):
        Level.of("stat")


def test_one_batch_in_so_many_is_due_and_all_that_is_in_no_batch() -> None:
    level = Level.of("full/3")
    assert [batch for batch in (None, *range(7)) if level.is_due(batch)] == [None, 0, 3, 6]
