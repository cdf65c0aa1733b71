"""Weights from elsewhere: taken by name, or refused with what is in the file; nothing in it is ever run."""

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from learner.cli import main

OK, FINDING, USAGE, DAMAGED = range(4)


class Gadget:
    """What a pickle can do: run a command when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()


def taken(folder: Path, held: Any, *options: str) -> Result:
    torch.save(held, folder / "given.pt")
    words = ["import", str(folder / "given.pt"), str(folder / "out.safetensors"), *options]
    return CliRunner().invoke(main, words)


def test_a_state_dict_becomes_a_file_that_the_safetensors_library_reads(tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    done = taken(tmp_path, weights())
    assert (done.exit_code, "Weights only were taken" in done.stdout) == (OK, True)
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == weights().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights().items())
    nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).load_state_dict(found)


@pytest.mark.parametrize(("key", "held"), [("state_dict", {"state_dict": weights()}), ("a.b", {"a": {"b": weights()}})])
def test_nested_weights_are_taken_by_their_key_alone(key: str, held: dict[str, Any], tmp_path: Path) -> None:
    held = {**held, "epoch": 3, "optimizer": {"state": {}}}
    done = taken(tmp_path, held)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert f"Say --key {key}." in done.stderr
    assert "  epoch: 3\n" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()
    answer = json.loads(taken(tmp_path, held, "--key", key, "--json").stdout)
    assert (answer["tensors"], answer["left_out"]) == (list(weights()), ["epoch", "optimizer"])


def test_a_key_that_there_is_not_is_refused_with_the_nearest(tmp_path: Path) -> None:
    done = taken(tmp_path, {"state_dict": weights()}, "--key", "state_dic")
    assert (done.exit_code, "Did you mean 'state_dict'?" in done.stderr) == (USAGE, True)


def test_a_prefix_that_all_names_have_is_told_and_taken_off(tmp_path: Path) -> None:
    held = {f"module.{name}": tensor for name, tensor in weights().items()}
    assert "--strip module." in taken(tmp_path, held).stdout
    (tmp_path / "out.safetensors").unlink()
    assert json.loads(taken(tmp_path, held, "--strip", "module.", "--json").stdout)["tensors"] == list(weights())
    assert "such as '0.weight'" in taken(tmp_path, weights(), "--strip", "module.").stderr


@pytest.mark.parametrize("where", ["torch.save", "pickle"])
def test_a_pickle_that_would_run_a_command_is_refused_unread(where: str, tmp_path: Path) -> None:
    held = {"state_dict": weights(), "more": Gadget(f"touch {tmp_path / 'ran'}")}
    seen: list[str] = []
    sys.addaudithook(lambda event, arguments: seen.append(event) if event == "os.system" else None)
    if where == "pickle":
        (tmp_path / "given.pt").write_bytes(pickle.dumps(held))
        done = CliRunner().invoke(main, ["import", f"{tmp_path}/given.pt", f"{tmp_path}/out.safetensors"])
    else:
        done = taken(tmp_path, held)
        assert f"calls for {os.system.__module__}.system: reading that would run code" in done.stderr
    assert (done.exit_code, done.stdout, seen) == (DAMAGED, "", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.pt"]
    pickle.loads(pickle.dumps(Gadget("true")))  # the hook does see what a plain reader would run
    assert seen == ["os.system"]


def test_a_whole_module_is_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    done = taken(tmp_path, nn.Linear(2, 2))
    assert (done.exit_code, "save model.state_dict() alone" in done.stderr) == (DAMAGED, True)


@pytest.mark.parametrize("content", [b"", b"words, no weights" * 99, b"PK\3\4 and then nothing", b"\x80\x02}q\0."])
def test_other_files_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "given.pt").write_bytes(content)
    done = CliRunner().invoke(main, ["import", f"{tmp_path}/given.pt", f"{tmp_path}/out.safetensors"])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (DAMAGED, "", 1)
    assert "cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ([1, torch.ones(2)], "stand in no mapping by name"),
        ({"epoch": 3}, "stand in no mapping by name"),
        ({"w": torch.ones(2, dtype=torch.complex128)}, "'w' cannot be written: safetensors has no torch.complex128"),
        ({"w": torch.ones(2).to_sparse()}, "'w' cannot be written: "),
    ],
)
def test_what_is_no_weights_is_refused_with_what_it_is(held: Any, told: str, tmp_path: Path) -> None:
    done = taken(tmp_path, held)
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert told in done.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out.safetensors").write_text("mine")
    done = taken(tmp_path, weights())
    assert (done.exit_code, "nothing is written over it" in done.stderr) == (USAGE, True)
    assert (tmp_path / "out.safetensors").read_text() == "mine"
    torch.save(weights(), tmp_path / "given.pt")
    wrong = CliRunner().invoke(main, ["import", f"{tmp_path}/given.pt", f"{tmp_path}/out.pt"])
    assert (wrong.exit_code, "does not end in .safetensors" in wrong.stderr) == (USAGE, True)
