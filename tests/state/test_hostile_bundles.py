"""Hostile bundles, sealed as ours are: each is refused, and nothing is run, written or opened elsewhere."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.state.forged import Evil, build

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, os, pickle, resource, sys
from pathlib import Path
from state.bundle import read_bundle, verify_bundle

seen = None
def hook(event, arguments):
    if seen is not None:
        seen.append([event, *(a if isinstance(a, (str, int)) else str(a)[:300] for a in arguments)])
sys.addaudithook(hook)

def read(path):
    try:
        read_bundle(path)
        return ["accepted", ""]
    except Exception as error:
        return [type(error).__name__, str(error)]

results, mark = {}, Path(sys.argv[3])
for path in sorted(Path(sys.argv[1]).iterdir()):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = []
    outcome = read(path), verify_bundle(path)
    events, seen = seen, None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    told = {"read": outcome[0], "verify": outcome[1]}
    results[path.name] = told | {"events": events, "grown": grown, "ran": mark.exists()}
seen = []
pickle.loads(Path(sys.argv[2]).read_bytes())
events, seen = seen, None
results["control"] = {"events": events, "ran": mark.exists()}
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a process that listens to its own audit events said of each case."""
    folder = tmp_path_factory.mktemp("hostile")
    evil = pickle.dumps(Evil(folder / "ran"))
    (folder / "cases").mkdir()
    (folder / "evil").write_bytes(evil)
    (folder / "cases/outside").write_bytes(b"1\n")
    made = build(folder / "cases", evil)
    (folder / "cases/outside").rename(folder / "outside")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "cases"), str(folder / "evil"), str(folder / "ran")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert found.keys() == {*made, "control"}
    for name, result in found.items():
        result["folder"] = str(folder / "cases" / name)
    return found


def test_the_listener_hears_what_an_unpickled_file_does(results: dict[str, dict[str, Any]]) -> None:
    assert {"open", "pickle.find_class", "os.system"} <= {event for event, *_ in results["control"]["events"]}
    assert results["control"]["ran"]


def test_each_is_refused_with_an_error_of_ours(results: dict[str, dict[str, Any]]) -> None:
    assert len(results) > 200
    for name, result in results.items():
        if name == "control":
            continue
        kind, message = result["read"]
        if name.startswith("accepted: "):
            assert (kind, result["verify"]) == ("accepted", []), name
            continue
        another_format = name in ("format 0", "format 2", "format -1")
        assert kind == ("CheckpointError" if another_format else "CheckpointDamaged"), f"{name}: {message}"
        assert message in result["verify"], name
        assert result["folder"] in message and len(message) < 1000, name
        assert message.isascii() and message.isprintable(), name


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("file name", "no file of a checkpoint has this name"),
        ("document name", "no file of a checkpoint has this name"),
        ("group name", "no file of a checkpoint has this name"),
        ("shape giant", "entry 'model.safetensors': it has 192 bytes, its tensors take"),
        ("document: seventy megabytes", "'manifest.json': entry 'state.json': it has 73400320 bytes; at most"),
        ("pipe for manifest.json", "it is no regular file"),
        ("a shape that no tensor has", "can be made here"),
    ],
)
def test_what_can_be_refused_early_is(case: str, reason: str, results: dict[str, dict[str, Any]]) -> None:
    told = [result["read"][1] for name, result in results.items() if name.startswith(case)]
    assert told and all(reason in message for message in told), told


def test_nothing_is_run_written_or_opened_elsewhere(results: dict[str, dict[str, Any]]) -> None:
    for name, result in results.items():
        if name == "control":
            continue
        assert not result["ran"]
        for event, *arguments in result["events"]:
            assert event in {"open", "os.scandir", "ctypes.cdata"}, f"{name}: {event} {arguments}"
            if event == "open":
                path, _, flags = arguments
                assert os.path.dirname(path) == result["folder"], f"{name}: {path}"
                assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC), f"{name}: {path}"
            elif event == "os.scandir":
                assert arguments == [result["folder"]], name


def test_none_takes_much_memory(results: dict[str, dict[str, Any]]) -> None:
    assert not {name: result["grown"] for name, result in results.items() if result.get("grown", 0) > 64 * 1024}
