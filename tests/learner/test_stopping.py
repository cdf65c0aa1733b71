"""Signals: noted while a run with a checkpoint lasts, obeyed at its next point, never lost."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from learner import ChangeLog, Learner
from learner.callbacks import Checkpoint
from learner.checkpoints import Checkpoints
from learner.stopping import stoppable
from learner.testing import toy_learner
from state.errors import CheckpointError
from state.recording import Recording

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Heard:
    """Handlers of the program's own, for both signals."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.handler = self._hear  # one object, to be recognised

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.numbers.append(number)

    def is_back(self) -> bool:
        return all(signal.getsignal(one) is self.handler for one in SIGNALS)


@pytest.fixture(name="heard", autouse=True)
def heard_fixture() -> Iterator[Heard]:
    """Handlers that only note, so that the tests go on; afterwards everything is as it was."""
    heard = Heard()
    before = {one: signal.signal(one, heard.handler) for one in SIGNALS}
    yield heard
    for one, handler in before.items():
        signal.signal(one, handler)


def at_update(learner: Learner, number: int, act: Callable[[], object]) -> Learner:
    """Let it do something in a batch."""
    learner.after("update", when=lambda state: state.updates == number)(lambda state: act())
    return learner


def made(run_dir: Path, number: int = 3, act: Callable[[], object] = lambda: None, **settings: Any) -> Learner:
    """A Learner with a checkpoint, that does something in a batch."""
    return at_update(toy_learner(callbacks=[Checkpoint(keep=None, **settings)], run_dir=run_dir), number, act)


def updates_kept(learner: Learner) -> list[int]:
    """The updates done at each checkpoint."""
    assert learner.run_dir is not None
    return [one.run()["position"][3] for one in Checkpoints(learner.run_dir)]


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_batch_in_hand_ends_then_a_checkpoint_is_written_then_the_signal_takes_its_course(
    number: signal.Signals, heard: Heard, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def act() -> None:
        signal.raise_signal(number)
        seen.append((list(heard.numbers), heard.is_back()))

    learner = made(tmp_path, act=act)
    learner.after("train")(lambda state, outcome: seen.append((outcome.kind, list(heard.numbers))))
    learner.fit(epochs=2)
    assert seen == [([], True), ("cancelled", [])], "noted, the handlers given back, and not yet let through"
    assert updates_kept(learner) == [3] and heard.numbers == [number]
    assert learner.outcome.reason == f"{number.name}; a checkpoint was written"


def test_handlers_are_others_only_while_fit_runs(heard: Heard, tmp_path: Path) -> None:
    seen: list[bool] = []
    learner = made(tmp_path, 3, lambda: seen.append(heard.is_back()))
    assert heard.is_back()
    learner.fit(epochs=1)
    assert seen == [False] and heard.is_back()
    learner.validate()
    learner.close()
    assert heard.is_back() and heard.numbers == []


def test_handlers_stay_without_a_checkpoint(heard: Heard) -> None:
    seen: list[bool] = []
    learner = at_update(toy_learner(), 3, lambda: seen.append(heard.is_back()))
    at_update(learner, 4, terminate)
    learner.fit(epochs=1)
    assert seen == [True] and heard.numbers == [signal.SIGTERM] and learner.state.updates == 8


def test_handlers_stay_in_another_thread_than_the_main_one(heard: Heard, tmp_path: Path) -> None:
    seen: list[bool] = []
    learner = made(tmp_path, 3, lambda: seen.append(heard.is_back()))
    thread = threading.Thread(target=lambda: learner.fit(epochs=1))
    thread.start()
    thread.join()
    assert seen == [True] and learner.outcome.ok and updates_kept(learner) == [8]


def test_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    seen: list[Any] = []

    def act() -> None:
        seen.append(signal.getsignal(signal.SIGTERM))
        terminate()

    learner = made(tmp_path, act=act)
    learner.fit(epochs=1)
    assert seen == [signal.SIG_IGN] and learner.outcome.ok and learner.state.updates == 8
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_handler_that_is_set_during_the_run_is_not_overwritten(heard: Heard, tmp_path: Path) -> None:
    other = Heard()
    learner = made(tmp_path, 3, lambda: signal.signal(signal.SIGTERM, other.handler))
    at_update(learner, 4, terminate)
    at_update(learner, 5, press)
    learner.fit(epochs=1)
    assert other.numbers == [signal.SIGTERM], "it has the signal at once"
    assert updates_kept(learner) == [5] and heard.numbers == [signal.SIGINT]
    assert signal.getsignal(signal.SIGTERM) is other.handler and signal.getsignal(signal.SIGINT) is heard.handler


def test_second_signal_takes_its_course_at_once(heard: Heard, tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def act() -> None:
        terminate()
        press()
        seen.append(list(heard.numbers))

    learner = made(tmp_path, act=act)
    learner.fit(epochs=1)
    assert seen == [[signal.SIGINT]], "the second one inside the batch"
    assert heard.numbers == [signal.SIGINT, signal.SIGTERM] and updates_kept(learner) == [3]


def test_signal_that_comes_while_handlers_are_set_is_noted_too(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    real = signal.signal

    def set_and_send(number: int, handler: Any) -> Any:
        before = real(number, handler)
        if number == signal.SIGTERM and handler is not heard.handler:
            terminate()
        return before

    monkeypatch.setattr(signal, "signal", set_and_send)
    with stoppable(True) as request:
        assert request.number == signal.SIGTERM and heard.is_back(), "a second one would end it"
        assert heard.numbers == []
    assert heard.numbers == [signal.SIGTERM]


def test_signal_of_a_block_that_fails_takes_its_course_before_the_error_goes_on(heard: Heard, tmp_path: Path) -> None:
    def act() -> None:
        terminate()
        raise RuntimeError("no more data")

    learner = made(tmp_path, act=act)
    with pytest.raises(RuntimeError, match="no more data"):
        learner.fit(epochs=1)
    assert heard.numbers == [signal.SIGTERM] and heard.is_back()
    assert learner.outcome.kind == "failed" and updates_kept(learner) == []
    learner.fit(batches=1)
    assert learner.outcome.ok and heard.numbers == [signal.SIGTERM], "it was for the run that failed"


@pytest.mark.parametrize("behind", [False, True])
def test_signal_whose_checkpoint_cannot_be_written_takes_its_course_before_the_reason_is_raised(
    behind: bool, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def act() -> None:
        terminate()
        monkeypatch.setattr(os, "fsync", refuse)

    learner = made(tmp_path, act=act, behind=behind)
    with pytest.raises(CheckpointError, match="0001.*[Nn]o space left"):
        learner.fit(epochs=1)
    assert heard.numbers == [signal.SIGTERM] and learner.state.updates == 3


def test_ctrl_c_is_a_keyboard_interrupt_once_the_checkpoint_is_written_and_fit_goes_on(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    learner = made(tmp_path, act=press)
    with pytest.raises(KeyboardInterrupt):
        learner.fit(epochs=2)
    assert updates_kept(learner) == [3] and learner.outcome.reason == "SIGINT; a checkpoint was written"
    learner.close()
    again = made(tmp_path)
    again.fit(epochs=2, resume="auto")
    assert again.outcome.ok and again.state.updates == 16 and updates_kept(again) == [3, 8, 16]


def test_second_ctrl_c_interrupts_the_batch_and_is_raised_once(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    learner = made(tmp_path, act=lambda: (press(), press()))
    with pytest.raises(KeyboardInterrupt) as caught:
        learner.fit(epochs=1)
    assert learner.outcome.kind == "interrupted" and learner.outcome.error is caught.value
    assert updates_kept(learner) == [] and learner.state.updates == 3


def test_ctrl_c_of_a_run_that_fails_tells_both(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def act() -> None:
        press()
        raise RuntimeError("no more data")

    with pytest.raises(KeyboardInterrupt) as caught:
        made(tmp_path, act=act).fit(epochs=1)
    assert isinstance(caught.value.__context__, RuntimeError)


def test_signal_in_the_last_batch_and_after_it_is_not_lost(
    heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = made(tmp_path, 8, terminate)
    learner.fit(epochs=1)
    assert heard.numbers == [signal.SIGTERM] and updates_kept(learner)[-1] == 8
    flush, sent = Recording.flush, iter([press])

    def flush_and_send(recording: Recording) -> None:
        flush(recording)
        if learner.state.updates == 16:
            next(sent, lambda: None)()

    monkeypatch.setattr(Recording, "flush", flush_and_send)
    learner.fit(epochs=1)
    assert learner.outcome.ok and updates_kept(learner)[-1] == 16, "the log was being written, the run was over"
    assert heard.numbers == [signal.SIGTERM, signal.SIGINT]


def test_signal_while_the_log_closes_leaves_a_log_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    learner = made(tmp_path)
    learner.fit(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(Recording, "flush", lambda recording: press())
        with pytest.raises(KeyboardInterrupt):
            learner.close()
    assert learner.run_dir is not None
    last = ChangeLog.open(learner.run_dir).blame("updates")
    assert last is not None and last.after == 8
    again = made(tmp_path)
    again.fit(epochs=2, resume="auto")
    assert again.state.updates == 16, "nor is the run locked"


def nested(folder: Path, act: Callable[[], object]) -> tuple[Learner, Learner]:
    """A Learner in whose second batch another one fits, and in its third batch does something."""
    inner = made(folder / "inner", 3, act)
    outer = made(folder / "outer", 2, lambda: inner.fit(epochs=1))
    return outer, inner


def test_fit_inside_a_hook_of_another_ends_with_it_and_both_have_a_checkpoint(heard: Heard, tmp_path: Path) -> None:
    seen: list[Any] = []
    outer, inner = nested(tmp_path, lambda: (terminate(), seen.append(heard.is_back())))
    inner.after("train")(lambda state: seen.append(list(heard.numbers)))
    at_update(outer, 2, lambda: seen.append(list(heard.numbers)))
    outer.fit(epochs=1)
    assert updates_kept(inner) == [3] and updates_kept(outer) == [2]
    assert seen == [True, [], []] and heard.numbers == [signal.SIGTERM], "once, when the outer one has ended"


def test_second_signal_inside_a_fit_inside_another_takes_its_course_at_once(heard: Heard, tmp_path: Path) -> None:
    seen: list[list[int]] = []
    outer, _ = nested(tmp_path, lambda: (terminate(), terminate(), seen.append(list(heard.numbers))))
    outer.fit(epochs=1)
    assert seen == [[signal.SIGTERM]] and heard.numbers == [signal.SIGTERM] * 2


def test_fit_inside_another_leaves_the_handlers_to_it(heard: Heard, tmp_path: Path) -> None:
    seen: list[bool] = []
    outer, inner = nested(tmp_path, lambda: None)
    at_update(outer, 3, lambda: seen.append(heard.is_back()))
    at_update(outer, 4, terminate)
    outer.fit(epochs=1)
    assert inner.outcome.ok and updates_kept(inner) == [8]
    assert seen == [False] and updates_kept(outer) == [4] and heard.is_back()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_sigterm_ends_a_run_that_fails_after_the_reason_was_told(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import signal, sys
        from learner.callbacks import Checkpoint
        from learner.testing import toy_learner
        learner = toy_learner(callbacks=[Checkpoint()], run_dir=sys.argv[1])

        @learner.after("update", when=lambda state: state.updates == 3)
        def fail(state):
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("no more data")

        learner.fit(epochs=1)
    """)
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert "RuntimeError: no more data\nIn " in done.stderr
