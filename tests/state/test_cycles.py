"""The history of a field, in whose table rounds that write the same are one row."""

import math
from collections.abc import Iterable

import pytest

from learner.testing import toy_learner
from state import ABSENT, Change, Position, cycles
from state.cycles import FieldHistory
from state.statistics import Summary


def change(value: object, position: Position, actor: str = "a", field: str = "loss") -> Change:
    return Change(0, 0.0, actor, "write", field, ABSENT, value, "write", position, "")


def batches(epoch: int, values: Iterable[object], phase: str = "fit") -> list[Change]:
    """One write per batch."""
    return [change(value, Position(epoch, phase, batch), phase) for batch, value in enumerate(values)]


def told(history: FieldHistory) -> list[tuple[int, str, str]]:
    return [(cycle.times, cycle.place, cycle.after) for cycle in history.cycles()]


def test_batches_that_write_the_same_are_one_cycle() -> None:
    assert told(FieldHistory(batches(0, [2.5, 0.1, 1.0]))) == [(3, "epoch 0, fit, batch 0 to 2", "0.1 to 2.5, last 1")]


def test_epochs_that_consist_of_the_same_cycles_are_one() -> None:
    history = [one for epoch in range(4) for one in batches(epoch, [1.0, 2.0]) + batches(epoch, [3.0], "validate")]
    assert told(FieldHistory(history)) == [
        (8, "epoch 0 to 3, fit, batch 0 to 1", "1 to 2, last 2"),
        (4, "epoch 0 to 3, validate, batch 0", "3"),
    ]


def test_round_in_which_somebody_else_writes_too_stands_apart() -> None:
    history = batches(0, [1.0] * 5)
    history.insert(3, change(9.0, Position(0, "fit", 2), "hook"))
    assert [(cycle.times, cycle.first.actor, cycle.place) for cycle in FieldHistory(history).cycles()] == [
        (2, "fit", "epoch 0, fit, batch 0 to 1"),
        (1, "fit", "epoch 0, fit, batch 2"),
        (1, "hook", "epoch 0, fit, batch 2"),
        (2, "fit", "epoch 0, fit, batch 3 to 4"),
    ]


def test_several_writes_of_a_round_are_a_row_each() -> None:
    history = [
        change(value, Position(0, "fit", batch), field=field)
        for batch in range(3)
        for field, value in (("grads", None), ("params", None))
    ]
    assert [(cycle.times, cycle.first.field) for cycle in FieldHistory(history).cycles()] == [
        (3, "grads"),
        (3, "params"),
    ]


def test_shorter_epoch_stands_apart() -> None:
    history = batches(0, [1.0] * 3) + batches(1, [1.0] * 3) + batches(2, [1.0] * 2)
    assert [cycle.times for cycle in FieldHistory(history).cycles()] == [6, 2]


def test_values_of_a_cycle_are_told_by_their_sort() -> None:
    def after(*values: object) -> str:
        (cycle,) = FieldHistory(batches(0, values)).cycles()
        return cycle.after

    assert after(1, 1, 1) == "1"
    assert after("float32[8]", "float32[8]") == "float32[8]"
    assert after("a", "b", "a") == "2 different ones, last a"
    assert after(1.0, math.nan) == "2 different ones, last nan", "a value that is not finite is never lost in a range"
    assert after(None, None) == ""
    assert after(True, False) == "2 different ones, last False"
    norms = [Summary("float32[2]", 0.0, 1.0, 0.5, norm) for norm in (1.5, 0.5)]
    assert after(*norms) == "float32[2], norm 0.5 to 1.5, last 0.5"


def test_long_history_is_shown_by_cycles_and_a_short_one_write_by_write() -> None:
    assert len(repr(FieldHistory(batches(0, [1.0] * 20))).splitlines()) == 21
    long = FieldHistory(batches(0, [1.0, 2.0] * 15))
    assert repr(long).splitlines()[1].split()[3:6] == ["x", "30", "epoch"]
    assert len(long) == 30 and len(long.to_pandas()) == 30, "for code it is whole"
    assert isinstance(long[:3], FieldHistory)


def test_table_of_many_cycles_shows_the_last_and_counts_the_writes_before() -> None:
    history = FieldHistory([change(1.0, Position(0, "fit", n // 2), actor=f"a{n % 3}") for n in range(400)])
    assert len(repr(history).splitlines()) == 62
    _, rows, earlier = history.table()
    assert earlier == 400 - sum(int(row[1].removeprefix("x ") or 1) for row in rows)


def test_no_name_or_value_becomes_markup() -> None:
    history = FieldHistory(batches(0, ["<script>"] * 30, "<b>"))
    assert "<script>" not in history._repr_html_() and "<b>" not in history._repr_html_()


def test_table_of_a_long_history_is_that_of_its_last_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = toy_learner()
    learner.fit(epochs=6)
    history = learner.log.history("loss")
    whole = list(history)
    monkeypatch.setattr(cycles, "LONG", 25)
    assert history.table().rows == FieldHistory(whole[-25:]).table().rows, "also what the first of each replaced"
    assert history.table().earlier == len(whole) - 25 and f"after {len(whole) - 25} earlier ones" in repr(history)
    assert len(history.cycles()) == len(FieldHistory(whole).cycles())
