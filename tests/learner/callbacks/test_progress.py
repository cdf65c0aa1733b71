"""ProgressBar: what stands on a terminal, in a file, and after a failure; what it costs a run: nothing."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from learner import before
from learner.callbacks import Accuracy, Checkpoint, ProgressBar, progress
from learner.errors import ArgumentError
from learner.testing import toy_learner
from stages import Cancel, after

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 100 columns that is redrawn at every batch."""
    monkeypatch.setattr(progress, "REFRESH_S", 0.0)
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None, legacy_windows=False)


def written(console: Console) -> str:
    file: Any = console.file
    text: str = file.getvalue()
    return text


def test_without_a_terminal_each_epoch_is_one_plain_line(make: Any) -> None:
    file = io.StringIO()
    make(Accuracy(), ProgressBar(file=file)).fit(epochs=2)
    lines = file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 0", "epoch 1"]
    assert "\x1b" not in file.getvalue()
    assert all(name in lines[0] for name in ("train_loss ", "valid_loss ", "train_accuracy ", "valid_accuracy "))


def test_line_shows_the_numbers_of_the_history(make: Any) -> None:
    file = io.StringIO()
    history = make(ProgressBar(file=file)).fit(epochs=1)
    assert f"train_loss {history['train_loss'][0]:.4g}  valid_loss {history['valid_loss'][0]:.4g}" in file.getvalue()


def test_by_default_it_writes_to_standard_output(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    make(ProgressBar()).fit(epochs=1)
    assert capsys.readouterr().out.startswith("epoch 0  train_loss ")


def test_terminal_has_a_bar_per_phase_with_batches_and_loss(make: Any, terminal: Console) -> None:
    make(ProgressBar(console=terminal)).fit(epochs=1)
    text = written(terminal)
    assert "epoch 0  train" in text and "3/3" in text
    assert "epoch 0  valid" in text and "2/2" in text
    assert "loss 1." in text or "loss 0." in text


def test_loader_without_a_length_has_a_bar_without_an_end(make: Any, batches: Any, terminal: Console) -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(batches)

    make(ProgressBar(console=terminal), train=Stream()).fit(epochs=1)
    assert "3/?" in written(terminal)


def test_terminal_is_as_it_was_after_a_run(make: Any, terminal: Console) -> None:
    stdout = sys.stdout
    make(ProgressBar(console=terminal)).fit(epochs=2)
    assert written(terminal).count(HIDE_CURSOR) == written(terminal).count(SHOW_CURSOR) > 0
    assert sys.stdout is stdout


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError], ids=["Ctrl-C", "failure"])
def test_terminal_is_as_it_was_after_an_error(make: Any, terminal: Console, error: type[BaseException]) -> None:
    @before("update")
    def fail_in_the_second(state: Any) -> None:
        if state.batch_index == 1:
            raise error("here")

    stdout = sys.stdout
    bar = ProgressBar(console=terminal)
    with pytest.raises(error, match="here"):
        make(bar, fail_in_the_second).fit(epochs=1)
    text = written(terminal)
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR) == 1
    assert ("interrupted" if error is KeyboardInterrupt else "failed: RuntimeError: here") in text
    assert (bar.display.bars, bar.display.live, sys.stdout) == ([], None, stdout)


def test_line_of_a_cancelled_run_says_who_and_why(make: Any) -> None:
    @after("fit")
    def enough(state: Any) -> None:
        raise Cancel("run", "enough")

    file = io.StringIO()
    make(ProgressBar(file=file), enough).fit(epochs=5)
    (line,) = file.getvalue().splitlines()
    assert line.endswith("cancelled (run) by train/epoch/fit:after:enough: enough")


def test_validation_inside_training_has_its_own_bar(terminal: Console) -> None:
    display = ProgressBar(console=terminal).display
    display.start("train", 3)
    display.start("valid", 2)
    assert [bar.word for bar in display.bars] == ["train", "valid"]
    display.end()
    display.end()
    display.end()  # a before-hook that failed may leave one too few
    assert display.bars == []


def test_loss_is_read_only_when_a_bar_is_refreshed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REFRESH_S", 3600.0)
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    drawn: list[object] = []
    monkeypatch.setattr(progress.Display, "draw", lambda self, state: drawn.append(state))
    make(ProgressBar(console=terminal)).fit(epochs=2)
    assert drawn == []
    assert HIDE_CURSOR not in written(terminal)


def test_bar_changes_no_bit_of_the_run(make: Any, terminal: Console) -> None:
    with_it, without = make(ProgressBar(console=terminal)), make()
    with_it.fit(epochs=2)
    without.fit(epochs=2)
    assert torch.equal(with_it.state.model.weight, without.state.model.weight)
    assert list(with_it.history["valid_loss"]) == list(without.history["valid_loss"])


def test_file_and_console_together_are_refused() -> None:
    with pytest.raises(ArgumentError, match="file= or console=, not both") as caught:
        ProgressBar(file=io.StringIO(), console=Console())
    assert caught.value.argument == "console"


def test_notebook_without_widgets_gets_lines_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_jupyter=True)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    assert not progress._is_live(console)
    monkeypatch.setattr(progress, "find_spec", lambda name: object())
    assert progress._is_live(console)


def test_loop_of_the_users_own_and_a_validation_leave_nothing_behind(
    make: Any, batches: Any, terminal: Console
) -> None:
    bar = ProgressBar(console=terminal)
    learner = make(bar)
    with learner.inside("epoch/fit"):
        for batch in batches:
            learner.fit_batch(batch)
    learner.validate()
    assert written(terminal).count(HIDE_CURSOR) == written(terminal).count(SHOW_CURSOR) == 2
    assert (bar.display.bars, bar.display.live) == ([], None)


def test_a_phase_that_goes_on_in_the_middle_has_a_bar_again(terminal: Console, tmp_path: Path) -> None:
    toy_learner(callbacks=[Checkpoint(every="3 batches", keep=None)], run_dir=tmp_path, seed=0).fit(epochs=1)
    learner = toy_learner(callbacks=[ProgressBar(console=terminal)], seed=0)
    learner.fit(epochs=1, resume=tmp_path / "0001/checkpoints/0001")
    assert "epoch 0  from batch 3" in written(terminal)
    assert "epoch 0  train_loss " in written(terminal)
