"""The commands that ask a Learner itself: what it is made of, and why something is as it is."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from learner import Learner
from learner.cli import main
from learner.testing import toy_learner

HERE, TOY = __name__, "learner.testing:toy_learner"


def tied() -> Learner:
    """A Learner of two layers with one weight, which wants to keep its run."""
    learner = toy_learner(run_dir="runs/tied")
    learner.state.model.register_parameter("twin", learner.state.model.weight)
    return learner


def broken() -> Learner:
    learner = toy_learner()

    @learner.before("fit/batch/update")
    def fail() -> None:
        raise ZeroDivisionError("of the user's")

    return learner


def ask(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_graph_draws_the_tree_and_mermaid() -> None:
    assert ask("graph", TOY).stdout.splitlines()[:2] == ["train", "  epoch"]
    assert ask("graph", TOY, "--mermaid").stdout.startswith("flowchart TD\n")


def test_graph_in_json_has_nodes_and_edges() -> None:
    found = json.loads(ask("graph", TOY, "--json").stdout)
    assert {"from": "train", "to": "train/epoch", "kind": "contains"} in found["edges"]
    assert "state:loss" in {node["id"] for node in found["nodes"]}


def test_fields_lists_who_writes_and_who_reads() -> None:
    loss = next(line for line in ask("fields", TOY).stdout.splitlines() if line.startswith("loss "))
    assert "validate_loss" in loss
    row = next(row for row in json.loads(ask("fields", TOY, "--json").stdout) if row["name"] == "loss")
    assert (row["scope"], "train/epoch/fit/batch/gradient/loss" in row["written_by"]) == ("batch", True)


def test_check_of_a_sound_tree_says_that_it_can_run() -> None:
    assert "can run: " in ask("check", TOY).stdout
    assert json.loads(ask("check", TOY, "--json").stdout)["ok"] is True


def test_slot_is_explained_with_who_it_reads_from() -> None:
    told = ask("explain", TOY, "gradient")
    assert "reads inputs, written by train/epoch/fit/batch/unpack" in told.stdout
    assert told.stderr == f"next: learner graph {TOY}\n"


def test_parameter_is_explained_as_it_is_or_after_some_batches() -> None:
    assert "no update was made so far" in ask("explain", TOY, "model.bias").stdout
    found = json.loads(ask("explain", TOY, "model.bias", "--batches", "3", "--json").stdout)
    assert found["name"] == "model.bias" and "fit, batch 2, update 2. Nothing keeps" in found["told"]


def test_slip_in_a_name_gets_the_nearest_that_exists() -> None:
    for name, near in (("gradint", "Did you mean 'gradient'?"), ("model.bia", "Did you mean 'model.bias'?")):
        told = ask("explain", TOY, name)
        assert (told.exit_code, near in told.stderr) == (2, True)


def test_shared_memory_is_listed_and_none_is_said() -> None:
    assert "No two tensors" in ask("aliases", TOY).stdout
    assert json.loads(ask("aliases", TOY, "--batches", "1", "--json").stdout) == []
    assert "model.weight, model.twin" in ask("aliases", f"{HERE}:tied").stdout


def test_training_for_an_answer_keeps_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (row,) = json.loads(ask("aliases", f"{HERE}:tied", "--batches", "2", "--json").stdout)
    assert row == {"names": ["model.weight", "model.twin"], "kind": "same"}
    assert [*tmp_path.iterdir()] == []


def test_exception_of_the_users_in_training_ends_the_command_with_a_traceback() -> None:
    told = ask("explain", f"{HERE}:broken", "model.bias", "--batches", "1")
    assert (told.exit_code, "ZeroDivisionError: of the user's" in told.stderr) == (1, True)
