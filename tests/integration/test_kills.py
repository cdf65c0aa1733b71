"""SIGKILL at random moments: the run goes on each time, from a checkpoint that is whole, and ends with the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def killed(folder: Path, kills: int, epochs: int) -> dict[str, Any]:
    """What tests/integration/resuming/killing.py reports."""
    command = [sys.executable, "-m", "tests.integration.resuming.killing", str(folder), str(kills), str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.parametrize(
    ("kills", "epochs", "batches"),
    [(20, 6, 8), pytest.param(1_000, 25, 50, marks=pytest.mark.slow)],
    ids=["twenty", "a thousand"],
)
def test_killed_run_goes_on_from_a_whole_checkpoint_and_ends_with_the_same_bits(
    kills: int, epochs: int, batches: int, tmp_path: Path, capsys: Any
) -> None:
    report = killed(tmp_path, kills, epochs)
    distinct = len({tuple(one) for one in report["batches"]})
    with capsys.disabled():
        told = (
            f"{report['in_a_save']} inside a save, {distinct} distinct batches, {report['unstarted']} before the first"
        )
        print(f"\n{report['kills']} kills in {report['seconds']} s: {told}; {report['runs']} runs to their end")
    assert report["kills"] == kills
    assert report["in_a_save"] >= kills / 3 and distinct >= batches, "else the kills prove little"
    assert report["unsound"] == [], "at all times there is a whole checkpoint, and a log that can be read"
    assert report["differing"] == [], "the bits are those of the run that was never killed"
