"""Scripts that are asked to end: `python -m tests.integration.resuming.signalling FOLDER SIGNALS EPOCHS` prints JSON.

As in `killing`, but each child of several programs gets SIGTERM or SIGINT: it ends the batch in hand, writes a
checkpoint, and ends by that signal.
"""

import json
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from learner import Learner, Outcome, TrainingPhase
from learner.checkpoints import Checkpoints
from tests.integration.resuming.killing import Killer, Report, forked, half_written
from tests.integration.resuming.programs import Program

LIMIT = 60.0
"""Seconds after which a child that was asked to end is said to hang."""

INTERRUPTED = 130
"""The status by which a child ends after a KeyboardInterrupt, as a shell has it."""

PROGRAMS = {
    "each batch": Program("SampleBatches", every="1 batches", keep=3),
    "each epoch": Program("SampleBatches, 2 workers", every="1 epochs", keep=2),
    "accumulation": Program("TensorBatches", every="1 epochs", keep=2, accumulate=3, lends=False),
    "behind": Program("DataLoader", every="2 batches", keep=3, behind=True, lends=False),
}
KINDS = ("start", "save", "validation", "batch", "save", "batch")
"""The moments at which a child is asked, one after another."""

RECORD = struct.Struct("!cIQ")
ALIVE, BATCH, VALIDATE, VALIDATED, NOTED, ENDED = b"a", b"b", b"v", b"w", b"n", b"e"


class Event(NamedTuple):
    """What a child tells: what begins or ends, the batches it had seen by then, and the time in nanoseconds."""

    what: bytes
    batches: int
    time: int


@dataclass
class Signals(Report):
    """What came of the signals.

    Attributes:
        interrupts: of the kills, those by SIGINT. in_validation: those inside it. behind: inside a save that a thread
            wrote. after: when `fit` had ended.
        hung: children that went on for a minute. wrong_ends: those that ended by something else than the signal.
        late: those that began more batches than the one in hand. misplaced: checkpoints that stand somewhere else than
            after that batch. left: half a checkpoint on the disk.
    """

    interrupts: int = 0
    in_validation: int = 0
    behind: int = 0
    after: int = 0
    hung: list[str] = field(default_factory=list)
    wrong_ends: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def add(self, other: "Signals") -> None:
        """Take the numbers of another one in."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


class Child:
    """A child that runs the script, and tells what it does."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self._reading, writing = os.pipe()
        self.events: list[Event] = []
        self.is_over = False
        self.process = forked(lambda: work(writing))
        os.close(writing)

    def read_until(self, is_enough: Callable[[], bool], seconds: float = LIMIT) -> bool:
        """Read what it tells until that is enough, it has ended, or so many seconds are over: whether it is enough."""
        until = time.monotonic() + seconds
        while not (enough := is_enough()) and not self.is_over and (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self._reading], [], [], min(left, 0.001))
            record = os.read(self._reading, RECORD.size) if ready else None
            if record:
                self.events.append(Event(*RECORD.unpack(record)))
            self.is_over = record == b""
        return enough

    def count(self, what: bytes) -> int:
        """How often it has told that."""
        return sum(event.what == what for event in self.events)

    def end(self) -> int | None:
        """Wait for its end: the status; None if it goes on and on, and had to be killed."""
        self.read_until(lambda: False)
        if not self.is_over:
            os.kill(self.process, signal.SIGKILL)
        _, status = os.waitpid(self.process, 0)
        os.close(self._reading)
        return status if self.is_over else None


class Sender(Killer):
    """Asks the children of one program to end."""

    def __init__(self, program: Program, folder: Path, epochs: int, seed: int) -> None:
        super().__init__(program, folder, epochs, seed)
        self.report: Signals = Signals()

    def kill_one(self, family: Path) -> bool:
        """Let a child run until a random moment; whether it was asked to end then, and had not finished before."""
        before = seen_at(family)
        child = Child(lambda pipe: obeying(lambda: self.script(family, pipe), pipe))
        number = self.draw.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGINT))
        self._wait(child, family)
        halves, begun = half_written(family), time.monotonic_ns()
        os.kill(child.process, number)
        sent, halves = time.monotonic_ns(), halves & half_written(family)
        status = child.end()
        told = f"{number.name} to a child of {family}, {[(one.what, one.time - sent) for one in child.events[-8:]]}"
        if status == 0 and child.count(ENDED):
            return False
        self.report.kills += 1
        if status is None:
            self.report.hung.append(told)
        elif not ended_by(number, status):
            self.report.wrong_ends.append(f"{told}: status {status}")
        self._count(child.events, begun, sent, halves)
        self.report.interrupts += number == signal.SIGINT
        batches = [event for event in child.events if event.what == BATCH]
        if sum(event.time > sent for event in batches) > 1:
            self.report.late.append(told)
        expected = batches[-1].batches + 1 if batches else before
        if (found := seen_at(family)) != expected:
            self.report.misplaced.append(f"{told}: {found} instead of {expected}")
        self.report.left += map(str, half_written(family))
        return True

    def watch(self, learner: Learner, pipe: int | None) -> None:
        """Let it tell what it does."""

        def tell(what: bytes, state: Any) -> None:
            if pipe is not None:
                os.write(pipe, RECORD.pack(what, state.batches_seen, time.monotonic_ns()))

        @learner.before("batch", within=TrainingPhase)
        def begin_batch(state: Any) -> None:
            tell(BATCH, state)

        @learner.before("validate")
        def begin(state: Any) -> None:
            tell(VALIDATE, state)

        @learner.after("validate")
        def end(state: Any, outcome: Outcome) -> None:
            tell(VALIDATED, state)

    def _wait(self, child: Child, family: Path) -> None:
        """Wait for a random moment, of one kind after another."""
        begun, batches = time.monotonic(), self.draw.choice((1, 1, 2, 3))
        child.read_until(lambda: bool(child.count(ALIVE)))
        kind = KINDS[self.report.kills % len(KINDS)]
        if kind == "start":
            time.sleep(self.starting * self.draw.random())
            return
        child.read_until(lambda: child.count(BATCH) >= batches)
        if first := [event.time for event in child.events if event.what == BATCH]:
            self.starting = first[0] / 1e9 - begun
            self.round = (first[-1] - first[0]) / 1e9 / (len(first) - 1) if len(first) > 1 else self.round
        if kind == "save":
            child.read_until(lambda: bool(half_written(family)))
            time.sleep(0.1 * self.round * self.draw.random())
        elif kind == "validation":
            child.read_until(lambda: child.count(VALIDATE) > child.count(VALIDATED))
            time.sleep(0.3 * self.round * self.draw.random())
        else:
            time.sleep(1.2 * self.round * self.draw.random())

    def _count(self, events: list[Event], begun: int, sent: int, halves: set[Path]) -> None:
        """Note where the run was when the signal came."""
        report, earlier = self.report, [event for event in events if event.time <= begun]
        batches = [event.batches for event in earlier if event.what == BATCH]
        next_one = next((event for event in events if event.time > begun), None)
        report.after += any(event.what == ENDED for event in earlier)
        report.in_a_save += bool(halves)
        report.behind += bool(halves) and self.program.behind
        if earlier and earlier[-1].what == VALIDATE and next_one and next_one.time > sent:
            report.in_validation += next_one.what == VALIDATED
        if batches:
            report.batches.append((report.runs, batches[-1]))
        else:
            report.unstarted += 1


def obeying(fit: Callable[[], Learner], pipe: int) -> None:
    """Fit, in a child, which a KeyboardInterrupt ends as a shell has it."""
    try:
        os.write(pipe, RECORD.pack(ALIVE, 0, time.monotonic_ns()))
        learner = fit()
        os.write(pipe, RECORD.pack(ENDED, learner.state.batches_seen, time.monotonic_ns()))
        learner.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


def ended_by(number: signal.Signals, status: int) -> bool:
    """Whether a child ended as a program does that does nothing about this signal."""
    if number == signal.SIGINT:
        return os.WIFEXITED(status) and os.WEXITSTATUS(status) == INTERRUPTED
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == number


def seen_at(family: Path) -> int | None:
    """The batches that had been seen at the newest checkpoint of a family, which must be whole; None without any."""
    for run in sorted(family.glob("[0-9]*"), reverse=True):
        if (newest := Checkpoints(run).newest()) is not None:
            _, bundle, problems = newest
            assert not problems, problems
            return int(bundle.documents["state"]["fields"]["batches_seen"]["value"])
    return None


class Twice(Sender):
    """Asks a child whose third batch takes for ever to end, and asks it again."""

    number = signal.SIGTERM

    def watch(self, learner: Learner, pipe: int | None) -> None:
        super().watch(learner, pipe)
        handler = signal.getsignal(self.number)

        @learner.after("update", when=lambda state: state.updates == 3)
        def wait(state: Any) -> None:
            if pipe is not None:
                while signal.getsignal(self.number) != handler:
                    time.sleep(0.001)
                os.write(pipe, RECORD.pack(NOTED, state.batches_seen, time.monotonic_ns()))
                time.sleep(10 * LIMIT)

    def ask(self, number: signal.Signals) -> dict[str, Any]:
        """What comes of it."""
        self.number, family = number, self.folder / number.name
        child = Child(lambda pipe: obeying(lambda: self.script(family, pipe), pipe))
        child.read_until(lambda: child.count(BATCH) == 3)
        os.kill(child.process, number)
        child.read_until(lambda: bool(child.count(NOTED)))
        os.kill(child.process, number)
        status = child.end()
        is_right = status is not None and ended_by(number, status)
        return {"noted": child.count(NOTED), "ended by it": is_right, "batches": seen_at(family)}


def main(folder: Path, signals: int, epochs: int) -> dict[str, Any]:
    """All programs, one after another, and what came of them together."""
    whole, distinct = Signals(), 0
    for seed, (name, program) in enumerate(PROGRAMS.items()):
        sender = Sender(program, folder / name, epochs, seed)
        sender.kill_until(signals // len(PROGRAMS))
        whole.add(sender.report)
        distinct += len(set(sender.report.batches))
    twice = Twice(PROGRAMS["each batch"], folder / "twice", 2, 0)
    ends = [twice.ask(signal.SIGTERM), twice.ask(signal.SIGINT)]
    return {**asdict(whole), "distinct": distinct, "twice": ends}


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in what runs behind it
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
