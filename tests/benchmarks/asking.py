"""Questions to the log of a long run: what the answers take, and how large the file is.

The log is that of W2 (see training.py), recorded for a few epochs as by default; its last epoch is written again and
again, with other numbers, until there are a million changes. Each question is asked of the log as it was opened, the
first time included. An answer counts with its table, which shows the last sixty changes.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import torch
from figures import Figure
from torch.nn import functional as F
from training import digits_batches, digits_mlp

from learner import ChangeLog, Learner
from state.runs import LOG_FILE
from state.sqlite import SqliteStore
from state.stores import Segment

MOST = {"blame": 1.0, "answer": 200.0, "aggregate": 2_000.0}
"""Milliseconds that a question may take."""
BYTES = 25.0
"""Bytes that a change may take in the file, where all rounds fit their templates."""


def long_log(folder: Path, changes: int) -> Path:
    """The file of a log of so many changes, or a few more."""
    batches = digits_batches()
    model, optimizer = digits_mlp()
    made = {"train": batches, "valid": batches[:3], "device": "cpu"}
    learner = Learner(model, F.cross_entropy, optimizer, run_dir=folder / "short", **made)  # type: ignore[arg-type]
    learner.fit(epochs=4)
    learner.close()
    short = SqliteStore.open(next((folder / "short").rglob(LOG_FILE)))
    segments, tables = list(short.segments()), short.tables()
    short.close()
    epoch = max(place[0] or 0 for _, _, place, _, _ in segments)
    again = [segment for segment in segments if segment[2][0] == epoch]
    begin, path = again[0][0], folder / LOG_FILE
    store = SqliteStore(path)
    store.write(tables, [segment for segment in segments if segment[0] < begin])
    while begin < changes:
        rows: list[Segment] = []
        for _, t_ns, place, template, values in again:
            rows.append((begin, t_ns + epoch * 10**9, (epoch, *place[1:]), template, values))
            begin += len(values)
        store.write(tables, rows)
        epoch += 1
    store.close()
    return path


def questions(log: ChangeLog, other: Path, middle: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each with the kind of its limit in front."""
    yield "blame: model.params", lambda: log.blame("model.params")
    yield "blame: loss", lambda: log.blame("loss")
    yield "answer: blame at a round", lambda: log.blame("model.params", at=(middle, "fit", 7))
    yield "answer: history of loss", lambda: repr(log.history("loss"))
    yield "answer: history of the lr", lambda: repr(log.history("optimizer.hyper.lr"))
    yield "answer: where, by actor", lambda: repr(log.where(actor="*/update"))
    yield "answer: where, by place", lambda: repr(log.where(epoch=middle, kind=None))
    yield "answer: at a round", lambda: log.at(epoch=middle, batch=7)
    yield "answer: first_nonfinite", log.first_nonfinite
    yield "answer: first beyond a bound", lambda: log.first("loss", above=100.0)
    yield "answer: violations", lambda: repr(log.violations())
    yield "answer: diff, equal to the end", lambda: log.diff(ChangeLog.open(other))
    yield "aggregate: rates", log.rates
    yield "aggregate: writers", log.writers
    yield "aggregate: digest", log.digest
    yield "aggregate: profile", log.profile


def measure(quick: bool) -> Iterator[Figure]:
    torch.manual_seed(0)
    changes = 100_000 if quick else 1_000_000
    with TemporaryDirectory() as folder:
        path = long_log(Path(folder), changes)
        yield Figure(f"{changes:,} changes, each on disk", (path.stat().st_size / changes,), "B", BYTES)
        other = Path(folder, "other.db")
        copyfile(path, other)
        log = ChangeLog.open(path)
        for name, ask in questions(log, other, middle=changes // 700):
            times = []
            for _ in range(3 if quick else 7):
                started = time.process_time()
                ask()
                times.append((time.process_time() - started) * 1e3)
            kind, _, what = name.partition(": ")
            yield Figure(f"{changes:,} changes, {what if kind == 'answer' else name}", tuple(times), "ms", MOST[kind])
