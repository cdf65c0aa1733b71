"""Memory: whether a long run grows, once the log in memory is full."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from figures import Figure
from null_tree import LOG_ROUNDS

PROGRAM = """
import sys
from figures import resident_mb
from null_tree import null_learner

until_full, afterwards = int(sys.argv[1]), int(sys.argv[2])
learner = null_learner(until_full + afterwards)
learner.fit(batches=until_full)
before = resident_mb()
learner.fit(batches=afterwards)
print(resident_mb() - before)
"""


def measure(quick: bool) -> Iterator[Figure]:
    """In a process of its own, where nothing else comes and goes."""
    last = 100_000 if quick else 1_000_000
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    program = f"import sys; sys.path[:0] = {folders!r}\n{PROGRAM}"
    until_full = LOG_ROUNDS + 1_000  # the log is handed over in segments, so the last of them come a little later
    command = [sys.executable, "-c", program, str(until_full), str(last - until_full)]
    growth = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    yield Figure(f"growth from a full log to {last:,} batches", (growth,), "MB", 1.0)
