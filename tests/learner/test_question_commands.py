"""The commands that ask the log of a whole run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from torch import Tensor

from learner import Learner, UndeclaredChange
from learner.cli import main
from learner.testing import toy_learner

OK, FINDING, USAGE = range(3)
FORWARD = "train/epoch/fit/batch/gradient/forward"


def ask(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def answer(*words: object, code: int = OK) -> Any:
    done = ask(*words, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: a plain one, one whose outputs are spoilt in a batch, and another plain one."""
    family = tmp_path_factory.mktemp("commands") / "runs"
    for factor in (1.0, math.nan, 1.0):
        learner = spoilt(factor, family)
        learner.fit(batches=5)
        learner.close()
    return family


def spoilt(factor: float, family: Path) -> Learner:
    learner = toy_learner(run_dir=family, audit="full")

    @learner.after("fit/batch/gradient/forward", reads=("outputs", "batch_index"), writes=("outputs",))
    def spoil(outputs: Tensor, batch_index: int) -> Tensor:
        return outputs * (factor if batch_index == 3 else 1.0)

    return learner


def test_first_names_the_culprit_and_goes_on_to_what_it_was_made_of(runs: Path) -> None:
    done = ask("first", f"{runs}@2")
    assert done.exit_code == FINDING
    assert done.stdout.startswith(f"{FORWARD}:after:spoil at epoch 0, batch 3, update 3: outputs ")
    assert done.stderr == f"next: learner blame {runs}@2 outputs --at 0:fit:3\n"
    found = answer("first", f"{runs}@2", code=FINDING)
    assert (found["change"]["actor"], found["change"]["after"]["norm"]) == (f"{FORWARD}:after:spoil", "nan")
    assert found["upstream"][0]["actor"] == FORWARD
    assert answer("first", f"{runs}@1") is None


def test_first_past_a_bound_needs_a_field(runs: Path) -> None:
    assert ask("first", f"{runs}@1", "--above", "5").exit_code == USAGE
    assert answer("first", f"{runs}@1", "loss", "--above", "5", code=FINDING)["change"]["field"] == "loss"


def test_diff_of_two_runs_tells_where_they_part(runs: Path) -> None:
    done = ask("diff", f"{runs}@1", f"{runs}@2")
    assert done.exit_code == FINDING
    assert done.stdout.startswith(f"first run:  {FORWARD}:after:spoil at epoch 0, batch 3, update 3")
    assert "its input outputs agrees by fingerprint" in done.stdout
    assert answer("diff", f"{runs}@1", f"{runs}@2", code=FINDING)["kind"] == "value"
    same = ask("diff", f"{runs}@1", f"{runs}@3")
    assert same.exit_code == OK and "wrote the same" in same.stdout


def test_rates_writers_and_violations_are_tables(runs: Path) -> None:
    rates = {row["field"]: row for row in answer("rates", runs)}
    assert (rates["model.params"]["writes"], rates["model.params"]["per_update"]) == (5, 1.0)
    uses = {row["field"]: row for row in answer("writers", runs)}
    writers = {FORWARD, f"{FORWARD}:after:spoil", "train/epoch/validate/batch/forward"}
    assert set(uses["outputs"]["declared"]) == writers
    assert answer("violations", runs) == []
    for command in ("rates", "writers", "violations"):
        assert ask(command, runs).exit_code == OK


def test_profile_has_rows_for_stages_hooks_and_what_is_ours(runs: Path) -> None:
    rows = answer("profile", runs)
    assert {row["sort"] for row in rows} == {"stage", "hook", "guard", "tree"}
    assert f"{FORWARD}:after:spoil" in {row["actor"] for row in rows if row["sort"] == "hook"}
    assert ask("profile", runs).stderr == f"next: learner rates {runs}\n"


def test_at_shows_the_state_of_one_position_and_what_differs_between_two(runs: Path) -> None:
    done = ask("at", f"{runs}@1", "0:fit:3")
    assert done.exit_code == OK and done.stdout.startswith("field ")
    assert answer("at", f"{runs}@1", "0:fit:3")["updates"] == 4
    found = {row["field"]: row for row in answer("at", f"{runs}@1", "0:fit:3", "0:fit:4")}
    assert (found["updates"]["there"], found["updates"]["here"], found["updates"]["known"]) == (4, 5, "by value")
    assert found["updates"]["position"]["batch"] == 4
    _, *words = ask("at", f"{runs}@1", "0:fit:3", "0:fit:4").stderr.removeprefix("next: ").split()
    assert words[0] == "blame" and ask(*words).exit_code == OK


def test_at_of_the_same_position_twice_says_that_nothing_differs(runs: Path) -> None:
    done = ask("at", f"{runs}@1", "0:fit:3", "0:fit:3")
    assert done.stdout == "Nothing that is on record differs.\n"
    assert answer("at", f"{runs}@1", "0:fit:3", "0:fit:3") == []


@pytest.mark.parametrize(("place", "told"), [("9", "no epoch 9"), ("no", "such as 19:fit:23"), ("0:fitt", "'fit'")])
def test_at_refuses_what_is_no_position(place: str, told: str, runs: Path) -> None:
    for words in ((place,), ("0", place), (place, "0")):
        done = ask("at", runs, *words)
        assert (done.exit_code, done.stdout) == (USAGE, "") and told in done.stderr


def test_export_writes_a_trace_beside_the_log_or_where_it_is_told_to(runs: Path, tmp_path: Path) -> None:
    done = ask("export", f"{runs}@1")
    written = runs / "0001" / "trace.json"
    assert done.exit_code == OK and done.stdout.startswith(f"{written}\n")
    assert json.loads(written.read_text())["traceEvents"]
    told = answer("export", f"{runs}@1", "--trace", tmp_path / "here.json")
    assert told["size"] == (tmp_path / "here.json").stat().st_size and told["rounds"] >= 5
    assert done.stderr == f"next: learner profile {runs}@1\n"


def test_long_history_is_shown_by_cycles_and_in_json_write_by_write(tmp_path: Path) -> None:
    learner = toy_learner(run_dir=tmp_path / "runs")
    learner.fit(epochs=5)
    learner.close()
    done = ask("history", tmp_path / "runs", "loss")
    assert [line.split()[3:5] for line in done.stdout.splitlines()[1:3]] == [["x", "40"], ["x", "10"]]
    assert done.stdout.endswith("50 writes; -n 50 shows each\n")
    assert len(ask("history", tmp_path / "runs", "loss", "-n", "50").stdout.splitlines()) == 51
    assert len(answer("history", tmp_path / "runs", "loss")) == 50


def test_violations_end_with_code_1_and_ask_for_the_first(tmp_path: Path) -> None:
    learner = toy_learner(run_dir=tmp_path / "runs")

    @learner.after("update")
    def meddle(state: Any) -> None:
        state.model.weight.data.mul_(0.5)

    with pytest.raises(UndeclaredChange):
        learner.fit(batches=1)
    learner.close()
    assert learner.log.looked() == (1, 1)
    done = ask("violations", tmp_path / "runs")
    assert done.exit_code == FINDING and "update:after:meddle" in done.stdout
    assert done.stderr == f"next: learner blame {tmp_path / 'runs'} model.params --at 0:fit:0\n"


def test_violations_say_in_how_many_batches_tensors_were_looked_at(tmp_path: Path) -> None:
    learner = toy_learner(run_dir=tmp_path / "runs", valid=None)
    learner.fit(epochs=4)
    learner.close()
    looked, batches = learner.log.looked()
    assert 3 <= looked < batches == len(learner.log.history("loss"))
    assert f"Tensors were looked at in {looked} of {batches} batches" in ask("violations", tmp_path / "runs").stdout
    unguarded = toy_learner(guard="off", valid=None)
    unguarded.fit(epochs=1)
    assert unguarded.log.looked()[0] == 0


def test_log_that_is_followed_goes_on_with_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = toy_learner(run_dir=tmp_path / "runs")
    learner.fit(batches=1)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        """The run goes on in the meantime; then the reader has seen enough."""
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt
        learner.fit(batches=1)

    monkeypatch.setattr("learner.question_commands.sleep", wait)
    done = ask("log", tmp_path / "runs", "--follow", "-n", "3")
    assert done.exit_code == OK
    numbers = [int(line.split()[0]) for line in done.stdout.splitlines() if line.split()[0].isdigit()]
    assert numbers == sorted(set(numbers)) and len(numbers) > 20
    assert numbers[-1] == len(learner.log) - 1, "to the last record of what came"
    learner.close()


def test_followed_log_takes_no_filters(runs: Path) -> None:
    assert ask("log", f"{runs}@1", "--follow", "--field", "loss").exit_code == USAGE


def test_digest_is_one_line_and_the_same_for_runs_that_wrote_the_same(runs: Path) -> None:
    one, other, third = (ask("log", f"{runs}@{number}", "--digest").stdout.strip() for number in (1, 2, 3))
    assert one == third != other and len(one) == 64
