"""A script that is killed: `python -m tests.integration.resuming.killing FOLDER KILLS EPOCHS`, which prints JSON.

The parent imports everything once and makes the undisturbed run. Then it forks children that all run the same script,
`fit(..., resume="auto")`, and kills each by SIGKILL at a random moment. When so many kills are done, or whenever a run
comes to its end before, a child is left alone until it has finished, and what it came to is compared.
"""

import json
import os
import pickle
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from learner import ChangeLog, Learner
from learner.checkpoints import FOLDER, Checkpoints
from tests.integration.resuming.programs import Program
from tests.integration.resuming.stopping import differences, log_differences, result_of, writes_of

PROGRAM = Program("SampleBatches", every="1 batches", keep=3)


@dataclass
class Report:
    """What came of the kills.

    Attributes:
        kills: children that died by the signal. in_a_save: of these, with a checkpoint half written.
        batches: (number of the run, number of the batch in it) in which they died.
        unstarted: kills before the first batch of a child.
        runs: runs that came to their end. differing: what was not as in the undisturbed one.
        unsound: kills after which there was no whole checkpoint, or no readable log.
    """

    kills: int = 0
    in_a_save: int = 0
    unstarted: int = 0
    batches: list[tuple[int, int]] = field(default_factory=list)
    runs: int = 0
    differing: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    seconds: float = 0.0


def forked(work: Callable[[], None]) -> int:
    """The process id of a child that does `work`, and nothing else."""
    child = os.fork()
    if child:
        return child
    try:
        sys.stdout = open(os.devnull, "w")
        work()
        os._exit(0)
    except BaseException as error:
        print(f"a child failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


class Killer:
    """Kills the children of one program, and notes what they leave."""

    def __init__(self, program: Program, folder: Path, epochs: int, seed: int = 1) -> None:
        self.program, self.folder, self.epochs = program, folder, epochs
        self.draw, self.report = random.Random(seed), Report()
        self.starting, self.round = 0.2, 0.05  # seconds that a child took to its first batch, and for each
        whole = self.script(folder / "undisturbed")
        self.want, self.writes = result_of(whole), writes_of(whole)
        whole.close()

    def script(self, family: Path, pipe: int | None = None) -> Learner:
        """What every child runs."""
        learner = self.program.make(family)
        self.watch(learner, pipe)
        learner.fit(epochs=self.epochs, resume="auto")
        return learner

    def watch(self, learner: Learner, pipe: int | None) -> None:
        """Let it write the number of each batch that begins to a pipe, if there is one."""

        @learner.before("fit/batch")
        def tell(state: Any) -> None:
            if pipe is not None:
                os.write(pipe, state.batches_seen.to_bytes(4))

    def kill_until(self, kills: int) -> None:
        """Go on from kill to kill, run after run."""
        begun, family, has_checkpoint = time.monotonic(), self.folder / "0", False
        while self.report.kills < kills:
            is_finished = not self.kill_one(family)
            has_checkpoint = self.look(family, has_checkpoint)
            if is_finished:
                self.compare(family)
                family, has_checkpoint = self.folder / str(self.report.runs), False
        self.compare(family)
        self.report.seconds = round(time.monotonic() - begun, 1)

    def kill_one(self, family: Path) -> bool:
        """Let a child run until a random moment; whether it was killed then, and had not finished before."""
        reading, writing = os.pipe()
        before = half_written(family)
        child = forked(lambda: self.script(family, writing).close())
        os.close(writing)
        begun, rounds, last = time.monotonic(), self.draw.choice((0, 1, 1, 2, 2, 3)), None
        limit = self.starting * self.draw.random() if not rounds else 60.0
        times: list[float] = []
        while len(times) < rounds or not rounds:
            ready, _, _ = select.select([reading], [], [], max(0.0, limit - (time.monotonic() - begun)))
            told = os.read(reading, 4) if ready else b""
            if not told:
                break
            last = int.from_bytes(told)
            times.append(time.monotonic())
        if times:
            self.starting = times[0] - begun
            self.round = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else self.round
            if self.draw.random() < 0.7:  # aimed at a save, where the protocol has its turns
                until = time.monotonic() + 2 * self.round
                while not half_written(family) - before and time.monotonic() < until:
                    time.sleep(0.0005)
                time.sleep(0.15 * self.round * self.draw.random())
            else:
                time.sleep(1.2 * self.round * self.draw.random())
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        while told := os.read(reading, 4):
            last = int.from_bytes(told)
        os.close(reading)
        if not os.WIFSIGNALED(status):
            if status:
                self.report.differing.append(f"a child ended with the status {status}")
            return False
        self.report.kills += 1
        self.report.in_a_save += bool(half_written(family) - before)
        if last is None:
            self.report.unstarted += 1
        else:
            self.report.batches.append((self.report.runs, last))
        return True

    def look(self, family: Path, had_checkpoint: bool) -> bool:
        """Whether there is a whole checkpoint; after the first there is one at any time, and a log that opens."""
        for run in sorted(family.glob("[0-9]*")):
            try:
                newest = Checkpoints(run).newest()
                if newest is not None:
                    ChangeLog.open(run).tail(1)
                    return True
            except Exception as error:
                self.report.unsound.append(f"{type(error).__name__}: {error}")
        if had_checkpoint:
            self.report.unsound.append("there is no checkpoint any more")
        return False

    def compare(self, family: Path) -> None:
        """Let a child finish the run, and compare what it comes to."""
        answer = self.folder / "answer"

        def finish() -> None:
            learner = self.script(family)
            answer.write_bytes(pickle.dumps((result_of(learner), writes_of(learner))))

        _, status = os.waitpid(forked(finish), 0)
        self.report.runs += 1
        if status:
            self.report.differing.append(f"the last child ended with the status {status}")
            return
        result, writes = pickle.loads(answer.read_bytes())
        self.report.differing += differences(result, self.want)
        self.report.differing += log_differences(writes, self.writes)


def half_written(family: Path) -> set[Path]:
    """The checkpoints that are not whole yet."""
    return set(family.glob(f"[0-9]*/{FOLDER}/.tmp-*"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, kills, epochs = sys.argv[1:]
    killer = Killer(PROGRAM, Path(folder), int(epochs))
    killer.kill_until(int(kills))
    print(json.dumps(asdict(killer.report)))
