"""A script whose children are killed: `python -m tests.integration.resuming.killing_logs FOLDER KILLS LEVEL`.

Each child trains, with its log on disk at that level, until it is killed by SIGKILL at a random moment: some while they
start, most in their batches. What its log has is compared with the batches that it told of. Prints JSON.
"""

import json
import os
import random
import select
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learner import ChangeLog, Learner
from state.runs import LOG_FILE
from tests.integration.resuming.killing import forked

PAUSE = 0.004
"""Seconds that a batch takes at least, so that half a second has some batches and not thousands."""


def train(run: Path, level: str, pipe: int) -> None:
    """What every child does: train for ever, and tell the number of each batch that begins."""
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters())
    batches = [(torch.randn(4, 8), torch.randn(4, 1)) for _ in range(50)]
    learner = Learner(model, nn.MSELoss(), optimizer, train=batches, run_dir=run, audit=level, device="cpu", seed=0)

    @learner.before("fit/batch")
    def tell(state: Any) -> None:
        os.write(pipe, struct.pack("qd", state.batches_seen, time.monotonic()))
        time.sleep(PAUSE)

    learner.fit(epochs=10_000)


def kill_one(run: Path, level: str, draw: random.Random) -> dict[int, float]:
    """When a child began its batches, until it was killed."""
    reading, writing = os.pipe()
    child = forked(lambda: train(run, level, writing))
    os.close(writing)
    begun: dict[int, float] = {}
    batches = draw.choice((0, 1, 5, 30, 100))
    limit = time.monotonic() + (draw.random() * 0.2 if not batches else 60.0)
    while len(begun) < batches or not batches:
        ready, _, _ = select.select([reading], [], [], max(0.0, limit - time.monotonic()))
        told = os.read(reading, 16) if ready else b""
        if not told:
            break
        number, at = struct.unpack("qd", told)
        begun[number] = at
    time.sleep(draw.random() * 3 * PAUSE)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended before, by itself"
    while told := os.read(reading, 16):
        number, at = struct.unpack("qd", told)
        begun[number] = at
    os.close(reading)
    return begun


def missing(run: Path, begun: dict[int, float]) -> tuple[float, int]:
    """Of the batches that a child ended: seconds from the first whose records are missing to the last, and records."""
    if not begun and not any(run.glob(f"*/{LOG_FILE}")):
        return 0.0, 0
    log = ChangeLog.open(next(run.glob(f"*/{LOG_FILE}")))
    numbers = [change.seq for change in log.changes()]
    assert numbers == list(range(len(numbers))), "records are missing in between"
    ended = sorted(begun)[:-1]
    counted = log.where(field="batches_seen", actor="*/fit")
    lost = [number for number in ended if number >= len(counted)]
    last = counted[-1].position if len(counted) else None
    in_one = log.where(kind=None, epoch=last.epoch, phase=last.phase, batch=last.batch) if last else ()
    return (begun[max(begun)] - begun[lost[0]] if lost else 0.0), len(lost) * len(in_one)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, kills, level = sys.argv[1:]
    draw, report = random.Random(1), {"kills": 0, "batches": 0, "lost": 0, "seconds": 0.0, "unsound": []}
    found: Any = report
    for kill in range(int(kills)):
        run = Path(folder, str(kill))
        begun = kill_one(run, level, draw)
        found["kills"] += 1
        found["batches"] += len(begun)
        try:
            seconds, records = missing(run, begun)
        except Exception as error:
            found["unsound"].append(f"kill {kill}, after {len(begun)} batches: {type(error).__name__}: {error}")
            continue
        found["lost"] += records
        found["seconds"] = max(found["seconds"], seconds)
        if seconds > 0.5 + 2 * PAUSE and records > 1_000:
            found["unsound"].append(f"kill {kill}: {seconds:.2f} s and {records} records are missing")
    print(json.dumps(report))
