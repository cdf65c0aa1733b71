"""Ctrl-C: the after-hooks run, the log is flushed and readable, the state too, and then it is raised."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from learner import Callback, ChangeLog, Learner, Outcome, after
from learner.testing import toy_learner

ROOT = Path(__file__).parents[2]

Made = TypeVar("Made")


def noting(seen: list[str], slot: str) -> Callable[[Any, Outcome], None]:
    def note(state: Any, outcome: Outcome) -> None:
        if not outcome.ok:
            seen.append(f"{slot}: {outcome.kind}")

    return note


def interrupted_learner(where: str, side: str = "after", **settings: Any) -> tuple[Learner, list[str]]:
    """A Learner whose third batch is interrupted at a hook, and what its after-hooks saw of that."""
    learner, seen = toy_learner(**settings), []

    for slot in ("gradient", "batch", "fit", "epoch", "train"):
        learner.after(slot, within="train/epoch/fit" if slot in ("gradient", "batch") else None)(noting(seen, slot))

    @getattr(learner, side)(where, within="fit")
    def press(state: Any) -> None:
        if state.batch_index == 2:
            raise KeyboardInterrupt

    return learner, seen


@pytest.mark.parametrize("audit", ["off", "summary"])
@pytest.mark.parametrize(("where", "side"), [("forward", "before"), ("loss", "after")])
def test_interrupt_runs_every_after_hook_once_and_is_raised(where: str, side: str, audit: Any) -> None:
    learner, seen = interrupted_learner(where, side, audit=audit)
    with pytest.raises(KeyboardInterrupt) as caught:
        learner.fit(epochs=2)
    assert seen == [f"{slot}: interrupted" for slot in ("gradient", "batch", "fit", "epoch", "train")]
    assert learner.outcome.kind == "interrupted" and learner.outcome.error is caught.value
    assert len([note for note in caught.value.__notes__ if note.startswith("In ")]) == 1


def test_interrupted_state_is_readable_and_complete_up_to_the_last_batch() -> None:
    learner, _ = interrupted_learner("loss")
    with pytest.raises(KeyboardInterrupt):
        learner.fit(epochs=2)
    state = learner.state
    assert (state.updates, state.batches_seen, state.epochs_done) == (2, 2, 0)
    assert state.loss.dim() == 0 and state.batch_index == 2, "values of the batch stay, to look at"
    last = learner.log.blame("updates")
    assert last is not None and last.after == 2


def test_after_an_interrupt_fit_goes_on() -> None:
    learner, _ = interrupted_learner("loss")
    with pytest.raises(KeyboardInterrupt):
        learner.fit(epochs=1)
    learner.hooks.remove("press")
    learner.fit(epochs=1)
    assert learner.outcome.ok and learner.state.updates == 2 + 8
    assert learner.state.model.training and not learner.state.ready("loss")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_signal_from_outside_leaves_a_whole_log_on_disk(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import signal, sys
        from learner.testing import toy_learner
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what runs behind it
        learner = toy_learner(run_dir=sys.argv[1])
        ended = []
        learner.after("train")(lambda state, outcome: ended.append(outcome.kind))
        learner.after("update")(lambda state: print("ready", flush=True) if state.updates == 50 else None)
        try:
            learner.fit(epochs=1_000_000)
        except KeyboardInterrupt:
            state = learner.state
            print(learner.outcome.kind, *ended, state.updates, float(state.model.weight) > 2.9, flush=True)
            raise
    """)
    command = [sys.executable, "-c", program, str(tmp_path / "runs")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    kind, ended, updates, learned = told.splitlines()[-1].split()  # "ready" again, if update 51 was interrupted
    assert (kind, ended, learned) == ("interrupted", "interrupted", "True"), errors
    assert "KeyboardInterrupt" in errors and process.returncode != 0
    log = ChangeLog.open(tmp_path / "runs")
    last = log.blame("updates")
    assert last is not None and last.after == int(updates)
    exits = [change for change in log.tail(20) if str(change.actor) == "train" and "interrupted" in str(change.after)]
    assert len(exits) == 1


def interrupted_at_line(number: int) -> Learner | None:
    """A Learner whose fit is interrupted at this line of `stages`, counted from the start; None if it ends before."""
    learner, started, left = toy_learner(), [], number
    learner.before("train")(lambda state: started.append(True))
    outer = sys.gettrace()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(str(ROOT / "stages")):
            return None
        left -= bool(started) and event == "line"
        if started and event == "line" and left == 0:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        learner.fit(batches=2)
    except KeyboardInterrupt:
        return learner
    finally:
        sys.settrace(outer)
    return None


OURS = {"round.py": ("count",), "state.py": ("write",), "recording.py": ("cut", "mark"), "summaries.py": ("short",)}
"""Where values and records are written: by file, the functions."""


def at_call(number: int, act: Callable[[Learner], None]) -> tuple[Learner, bool]:
    """A Learner that meets `act` where a signal may arrive: as a function of ours begins, or one in C has ended. And
    whether there was such a place."""

    class Score(Callback):
        def fields(self) -> dict[str, Any]:
            return {"score": (int, 0)}

        @after("update", writes=("score",))
        def add(self, score: int) -> int:
            return score + 1

    learner, started, left = toy_learner(callbacks=[Score()]), [], number
    learner.before("train")(lambda state: started.append(True))

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        names = OURS.get(Path(frame.f_code.co_filename).name, ())
        if started and event in ("call", "c_return") and frame.f_code.co_name in names:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                act(learner)

    sys.setprofile(profile)
    try:
        learner.fit(batches=2)
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return learner, left <= 0


def interrupt(learner: Learner) -> None:
    raise KeyboardInterrupt


def read(learner: Learner) -> None:
    assert learner.log.tail(1)


def in_a_thread(call: Callable[[], Made]) -> Made:
    """`call` in a thread of its own: an interrupt that a trace raises may leave an exception behind in its thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_interrupt_at_any_line_of_ours_is_raised_as_it_is_and_leaves_a_learner_that_fits() -> None:
    number = 1
    while (learner := in_a_thread(partial(interrupted_at_line, number))) is not None:
        assert learner.outcome.kind == "interrupted"
        learner.fit(batches=1)
        assert learner.outcome.ok and learner.state.model.training
        number += 151
    assert number > 500, "there were lines to interrupt"


def test_signal_does_not_part_a_value_from_its_record() -> None:
    number, is_there = 1, True
    while is_there:
        learner, is_there = in_a_thread(partial(at_call, number, interrupt))
        for name in ("updates", "batches_seen", "samples_seen", "score"):
            told = [change.after for change in learner.log.where(field=name)]
            assert (told[-1] if told else 0) == getattr(learner.state, name), (number, name)
        assert learner.state.samples_seen == 8 * learner.state.batches_seen
        number += 19
    assert number > 100, "there were calls to interrupt"


def test_signal_handler_that_reads_the_log_leaves_each_record_there_once() -> None:
    whole, _ = in_a_thread(partial(at_call, -1, interrupt))
    expected = [(change.actor, change.field) for change in whole.log.where()]
    number, is_there = 1, True
    while is_there:
        learner, is_there = in_a_thread(partial(at_call, number, read))
        found = learner.log.where()
        assert [(change.actor, change.field) for change in found] == expected, number
        assert [change.seq for change in found] == sorted({change.seq for change in found})
        number += 37
    assert number > 100, "there were calls to interrupt"
