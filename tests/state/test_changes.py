"""How the answers of the change log look, and what becomes of them elsewhere."""

import sys

import pytest

from state import ABSENT, Change, ChangeLog, Changes, Position
from state.errors import MissingExtra, StateError


def test_changes_are_shown_as_an_aligned_table(log: ChangeLog) -> None:
    assert repr(log.history("optimizer.hyper.lr")[1:]).splitlines() == [
        "seq  position           actor                                           field               before"
        "  after      evidence",
        "24   epoch 0, update 3  train/epoch/fit/batch/update:after:Decay.decay  optimizer.hyper.lr  0.1   "
        "  0.05       view",
        "47   epoch 1, update 6  train/epoch/fit/batch/update:after:Decay.decay  optimizer.hyper.lr  0.05  "
        "  0.0333333  view",
    ]


def change(after: object, seq: int = 0, field: str = "loss") -> Change:
    return Change(seq, 0.0, "a", "write", field, ABSENT, after, "view", Position(), "")


def test_no_value_before_is_told_as_not_ready() -> None:
    assert repr(ABSENT) == "not ready"


def test_a_long_table_shows_its_end() -> None:
    lines = repr(Changes(change(seq, seq) for seq in range(100))).splitlines()
    assert len(lines) == 62
    assert lines[-1] == "after 40 earlier ones"


def test_a_value_does_not_break_the_table() -> None:
    assert len(repr(Changes([change("a\nb" * 100)])).splitlines()) == 2
    assert "<script>" not in Changes([change("<script>")])._repr_html_()


def test_nan_is_the_same_as_nan() -> None:
    nan = float("nan")
    assert str(Change(0, 0.0, "a", "write", "loss", nan, nan, "view", Position(), "")) == "a: loss = nan (view)"


def test_changes_become_a_data_frame(log: ChangeLog) -> None:
    pytest.importorskip("pandas")
    frame = log.history("updates").to_pandas()
    assert list(frame["after"]) == [1, 2, 3, 4, 5, 6]
    assert list(frame.columns[:6]) == ["seq", "time", "epoch", "phase", "batch", "update"]
    assert frame["before"].isna().sum() == 1


def test_numbers_are_plotted_a_line_per_field(log: ChangeLog) -> None:
    pytest.importorskip("matplotlib")
    (axes,) = log.where(kind=None).plot().axes
    assert {line.get_label() for line in axes.lines} == {"loss", "train_loss", "updates", "optimizer.hyper.lr"}
    with pytest.raises(StateError, match="None of these changes is a number"):
        log.history("hidden").plot()


@pytest.mark.parametrize(
    ("package", "method", "extra"), [("pandas", "to_pandas", "frames"), ("matplotlib", "plot", "plots")]
)
def test_a_missing_package_names_its_extra(
    package: str, method: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.figure", None)
    with pytest.raises(MissingExtra, match=rf"pip install 'staged-learner\[{extra}\]'") as caught:
        getattr(Changes([change(1.0)]), method)()
    assert caught.value.extra == extra
