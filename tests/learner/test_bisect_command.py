"""The command `learner bisect`: between which batches two runs part, as their logs and their checkpoints tell."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from learner import Learner, Stage, TrainState, field
from learner.callbacks import Capture, Checkpoint
from learner.cli import main
from learner.testing import toy_learner

OK, FINDING = 0, 1
BATCH = "train/epoch/fit/batch"


def make(factor: float, run_dir: Path, *callbacks: Any, seed: int = 0) -> Learner:
    """A Learner whose outputs are scaled in one batch."""
    keeping = Checkpoint(every="2 batches", keep=None)
    learner = toy_learner(run_dir=run_dir, callbacks=[keeping, *callbacks], seed=seed)

    @learner.after("fit/batch/gradient/forward", reads=("outputs", "batch_index"), writes=("outputs",))
    def scale(outputs: Tensor, batch_index: int) -> Tensor:
        return outputs * (factor if batch_index == 5 else 1)

    return learner


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs: two alike, one with another factor, one with another seed that nothing is drawn from."""
    folder = tmp_path_factory.mktemp("bisect")
    for name, factor, seed in (("good", 1.0, 0), ("same", 1.0, 0), ("other", 1.01, 0), ("seeded", 1.0, 3)):
        learner = make(factor, folder / name, seed=seed)
        learner.fit(epochs=2)
        learner.close()
    return folder


def ask(*words: object) -> Result:
    return CliRunner().invoke(main, ["bisect", *map(str, words)])


def test_runs_part_between_two_checkpoints_and_at_a_record(runs: Path) -> None:
    done = ask(runs / "good", runs / "other")
    assert done.exit_code == FINDING, done.output
    assert done.stdout.startswith(f"first run:  {BATCH}/gradient/loss at epoch 0, batch 5, update 5")
    assert re.search(r"equal, bit for bit: \S+0002 and \S+0002 \(epoch 0, fit, batch 3, update 4\)", done.stdout)
    assert re.search(r"not equal in model, loss_sums: \S+0003 and \S+0003", done.stdout)
    assert done.stderr.startswith("next: learner blame ")


def begun(family: Path, *, weight: float = 0.0, seed: int = 0) -> Path:
    """A run of a model with dropout that begins with these weights and this seed."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1 + weight)
    data = [(torch.ones(2, 4), torch.ones(2, 1))] * 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, nn.MSELoss(), optimizer, train=data, run_dir=family, seed=seed, device="cpu")
    learner.fit(epochs=1)
    learner.close()
    return family


def test_of_another_start_no_stage_is_looked_for(tmp_path: Path) -> None:
    done = ask(begun(tmp_path / "one"), begun(tmp_path / "other", weight=0.5))
    assert done.exit_code == FINDING
    assert "They start from something else: from there on no stage can be told." in done.stdout
    assert "To find the stage" not in done.stdout


def test_of_another_seed_it_is_said_that_the_stages_may_agree(tmp_path: Path) -> None:
    done = ask(begun(tmp_path / "one"), begun(tmp_path / "other", seed=1))
    assert done.exit_code == FINDING
    assert "To find the stage" in done.stdout and "If that finds nothing, their stages agree" in done.stdout


def test_program_that_is_shown_finds_the_hook(runs: Path, tmp_path: Path) -> None:
    shown = ask(runs / "good", runs / "other").stdout.partition("make their Learners:\n")[2]
    captures, fit, found = [line.strip() for line in shown.splitlines()]
    assert captures.endswith("# in its callbacks=")
    names: dict[str, Any] = {"Capture": Capture}
    exec(captures, names)
    names |= {"one": make(1.0, tmp_path / "one", *names["captures"]), "other": make(1.01, tmp_path / "two")}
    exec(fit, names)
    parting = eval(found.removeprefix("print(").removesuffix(")"), names)
    assert parting.actors == (f"{BATCH}/gradient/forward:after:scale",) * 2
    assert parting.position.batch == 5


def test_runs_that_are_equal_end_well(runs: Path) -> None:
    done = ask(runs / "good", runs / "same")
    assert done.exit_code == OK
    assert "wrote the same" in done.stdout and "equal, bit for bit: " in done.stdout


def test_generators_alone_are_told_and_no_parting(runs: Path) -> None:
    done = ask(runs / "good", runs / "seeded")
    assert done.exit_code == OK
    assert "equal, bit for bit, but for the random number generators: " in done.stdout


def test_weights_that_a_log_does_not_tell_apart_are_told_apart_by_checkpoints(tmp_path: Path) -> None:
    def train(name: str, shift: float) -> None:
        keeping = Checkpoint(every="3 batches", keep=None)
        learner = toy_learner(run_dir=tmp_path / name, callbacks=[keeping], audit="writes")

        @learner.after("update", writes=("model.params",))
        def nudge(model: nn.Module, batches_seen: int) -> None:
            if batches_seen == 4:
                model.bias.data += shift

        learner.fit(epochs=1)
        learner.close()

    train("one", 0.0)
    train("two", 1e-3)
    done = ask(tmp_path / "one", tmp_path / "two")
    assert done.exit_code == FINDING, done.output
    assert "not equal in model" in done.stdout and "(epoch 0, fit, batch 5, update 6)" in done.stdout
    assert "captures = [Capture(epoch=0, batch=number) for number in range(3, 6)]" in done.stdout


def test_checkpoint_after_the_first_record_that_differs_is_not_gone_on_from(tmp_path: Path) -> None:
    class Noted(TrainState):
        note: float = field(scope="batch")

    @dataclass(frozen=True)
    class Note(Stage):
        number: float
        writes = ("note",)

        def run(self, state: Noted) -> None:
            state.note = self.number

    for name, number in (("one", 1.0), ("two", 2.0)):
        learner = toy_learner(run_dir=tmp_path / name, callbacks=[Checkpoint(every="4 batches", keep=None)])
        learner.insert(Note(number), after="update")
        learner.fit(epochs=1)
        learner.close()
    shown = ask(tmp_path / "one", tmp_path / "two").stdout
    assert "note = 1 (write)" in shown and "equal, bit for bit" in shown
    assert "one.fit(epochs=1)" in shown and "resume" not in shown


def test_json_has_both_kinds_of_evidence(runs: Path) -> None:
    done = ask(runs / "good", runs / "other", "--json")
    found = json.loads(done.stdout)
    assert found["log"]["kind"] == "value" and found["log"]["ours"]["field"] == "loss"
    assert found["checkpoints"]["pairs"] == 9
    assert found["checkpoints"]["equal"]["at"] == "epoch 0, fit, batch 3, update 4"
    assert found["checkpoints"]["parted"]["fields"] == ["model", "loss_sums"]


def test_runs_without_checkpoints_are_compared_by_their_logs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        learner = toy_learner(run_dir=tmp_path / name)
        learner.fit(batches=2)
        learner.close()
    done = ask(tmp_path / "one", tmp_path / "two")
    assert done.exit_code == OK and "the runs keep none that stand at the same place" in done.stdout
