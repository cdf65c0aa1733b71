"""SIGTERM and Ctrl-C at random moments: the batch in hand ends, a checkpoint is written, the run goes on from there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and POSIX signals")


def signalled(folder: Path, signals: int, epochs: int) -> dict[str, Any]:
    """What tests/integration/resuming/signalling.py reports."""
    command = [sys.executable, "-m", "tests.integration.resuming.signalling", str(folder), str(signals), str(epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.parametrize(
    ("signals", "epochs"),
    [(20, 3), pytest.param(200, 10, marks=pytest.mark.slow)],
    ids=["twenty", "two hundred"],
)
def test_run_that_is_asked_to_end_does_so_after_the_batch_in_hand_and_goes_on_to_the_same_bits(
    signals: int, epochs: int, tmp_path: Path, record_property: Any
) -> None:
    report = signalled(tmp_path, signals, epochs)
    where = f"{report['in_a_save']} inside a save, {report['behind']} of them behind the run"
    where += f", {report['in_validation']} inside validation, {report['unstarted']} before the first batch"
    told = f"{where}, {report['distinct']} distinct batches; {report['runs']} runs to their end"
    record_property("told", f"{signals} signals, {report['interrupts']} Ctrl-C, in {report['seconds']:.1f} s: {told}")
    assert report["kills"] == signals
    few = signals // 20
    assert report["in_a_save"] >= 3 * few and report["distinct"] >= 8 * few**0.5, "else the signals prove little"
    assert min(report["unstarted"], report["in_validation"], report["behind"], report["interrupts"]) >= few
    assert report["hung"] == [] and report["wrong_ends"] == [], "it ends, as a program does that lets the signal be"
    assert report["late"] == [] and report["misplaced"] == [], "the checkpoint is of the batch in which it was asked"
    assert report["left"] == [] and report["unsound"] == [], "every checkpoint is whole, and the log can be read"
    assert report["differing"] == [], "the bits are those of the run that was never asked"
    for twice in report["twice"]:
        assert twice == {"noted": 1, "ended by it": True, "batches": 2}, (
            "the second time it ends inside the third batch"
        )
