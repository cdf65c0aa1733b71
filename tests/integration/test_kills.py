"""SIGKILL at random moments: the run goes on each time, from a whole checkpoint, and ends with the same bits.

Its log opens each time, whatever its level, and lacks at most half a second or a thousand records.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def killed(script: str, folder: Path, kills: int, *rest: object) -> dict[str, Any]:
    """What a script in tests/integration/resuming/ reports."""
    command = [sys.executable, "-m", f"tests.integration.resuming.{script}", str(folder), str(kills), *map(str, rest)]
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
    kills: int, epochs: int, batches: int, tmp_path: Path, record_property: Any
) -> None:
    report = killed("killing", tmp_path, kills, epochs)
    distinct = len({tuple(one) for one in report["batches"]})
    told = f"{report['in_a_save']} inside a save, {distinct} distinct batches, {report['unstarted']} before the first"
    record_property(
        "told", f"{report['kills']} kills in {report['seconds']} s: {told}; {report['runs']} runs to their end"
    )
    assert report["kills"] == kills
    assert report["in_a_save"] >= kills / 10 and distinct >= batches, "else the kills prove little"
    assert report["unsound"] == [], "at all times there is a whole checkpoint, and a log that can be read"
    assert report["differing"] == [], "the bits are those of the run that was never killed"


@pytest.mark.parametrize("level", ["stats", "full"])
@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.slow)], ids=["five", "two hundred"])
def test_log_of_a_killed_run_opens_and_lacks_little(
    level: str, kills: int, tmp_path: Path, record_property: Any
) -> None:
    report = killed("killing_logs", tmp_path, kills, level)
    told = f"{report['lost']} records missing of {report['batches']} batches, {report['seconds']:.2f} s at most"
    record_property("told", f"{report['kills']} kills at {level}: {told}")
    assert report["kills"] == kills and report["batches"] > kills, "else the kills prove little"
    assert report["unsound"] == [], "every log opens, and lacks at most half a second or a thousand records"
