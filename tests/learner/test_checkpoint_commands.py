"""The commands about checkpoints: what each answers, in words and in JSON, and the exit code it ends with."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from learner.callbacks import Checkpoint
from learner.checkpoints import FOLDER, find_checkpoints
from learner.cli import main
from learner.testing import toy_learner
from state.digested import DigestedFile

OK, FINDING, USAGE, DAMAGED = range(4)


def ask(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def answer(*words: object, code: int = OK) -> Any:
    done = ask(*words, "--json")
    assert done.exit_code == code, done.output
    assert "next:" not in done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of two runs: the first of one epoch, the second of three with the numbers of the best one."""
    family = tmp_path_factory.mktemp("work") / "runs"
    for epochs, best in ((1, None), (3, "valid_loss")):
        learner = toy_learner(callbacks=[Checkpoint(every="12 batches", keep=None, best=best)], run_dir=family)
        learner.fit(epochs=epochs)
        learner.close()
    toy_learner(run_dir=family).close()  # has not run
    return family


@pytest.fixture
def family(kept: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, to be damaged."""
    yield Path(shutil.copytree(kept, tmp_path / "runs"))


def paths(name: object) -> list[str]:
    return ["/".join(one.path.parts[-3:]) for one in find_checkpoints(str(name))]


def test_a_name_stands_for_a_checkpoint_or_for_all_of_a_run(kept: Path) -> None:
    second = [f"0002/{FOLDER}/000{number}" for number in (1, 2, 3, 4, 5)]
    assert paths(kept) == paths(f"{kept}@2") == paths(kept / "0002") == second
    assert paths(f"{kept}:2") == paths(f"{kept}@2:2") == paths(kept / "0002" / FOLDER / "0002") == second[1:2]
    assert paths(f"{kept}@1:1") == [f"0001/{FOLDER}/0001"]


def test_a_run_without_a_log_has_checkpoints_too(tmp_path: Path) -> None:
    learner = toy_learner(callbacks=[Checkpoint()], run_dir=tmp_path / "runs", audit="off")
    learner.fit(epochs=1)
    learner.close()
    names = (tmp_path / "runs", tmp_path / "runs/0001", f"{tmp_path}/runs@1")
    assert [paths(name) for name in names] == [[f"0001/{FOLDER}/0001"]] * 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("{}x", "There is no run"),
        ("{}@9", "holds runs 1 to 3"),
        ("{}@3", "keeps none. Checkpoint(...) among the callbacks writes them."),
        ("{}:9", "keeps [1, 2, 3, 4, 5]"),
        ("{}@1:9", "keeps [1]"),
    ],
)
@pytest.mark.parametrize("command", ["checkpoints", "verify"])
def test_what_there_is_not_is_refused_with_what_there_is(command: str, name: str, told: str, kept: Path) -> None:
    done = ask(command, name.format(kept))
    assert (done.exit_code, done.stdout) == (USAGE, "")
    assert told in done.stderr


def test_checkpoints_lists_number_position_best_and_size(kept: Path) -> None:
    rows = answer("checkpoints", kept)
    assert [(row["number"], row["at"]) for row in rows] == [
        (1, "after epoch 0, update 8"),
        (2, "epoch 1, fit, batch 3, update 12"),
        (3, "after epoch 1, update 16"),
        (4, "epoch 2, fit, batch 7, update 24"),
        (5, "after epoch 2, update 24"),
    ]
    assert [row["value"] is None for row in rows] == [False, True, False, True, False]
    assert all(row["size"] > 1000 and row["problems"] == [] for row in rows)


def test_checkpoints_shows_a_table_and_what_to_ask_next(kept: Path) -> None:
    done = ask("checkpoints", kept)
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["number", "made", "at", "valid_loss", "size", "files"]
    assert lines[0].startswith("1 ") and lines[0].endswith("complete")
    assert done.stderr == f"This is {kept / '0002'}: 0003 keeps none.\nnext: learner verify {kept}:5\n"
    assert ask("checkpoints", f"{kept}@2").stderr == f"next: learner verify {kept}@2:5\n"


def test_the_list_reads_no_tensors_and_verify_reads_all(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: set[str] = set()
    begin = DigestedFile.__init__

    def note(self: DigestedFile, path: Path) -> None:
        opened.add(path.name)
        begin(self, path)

    monkeypatch.setattr(DigestedFile, "__init__", note)
    assert ask("checkpoints", kept).stdout.count(" complete\n") == 5
    assert opened == {"manifest.json", "run.json"}
    assert ask("checkpoints", kept, "--verify").stdout.count(" whole\n") == 5
    assert opened == {file.name for file in (kept / "0002" / FOLDER / "0001").iterdir()}


def test_a_run_that_ended_before_its_first_checkpoint_is_passed_over(family: Path) -> None:
    (family / "0003" / FOLDER).mkdir()
    assert paths(family) == paths(f"{family}@2")


@pytest.mark.parametrize("file", ["model.safetensors", "run.json", "state.json", "manifest.json"])
def test_a_missing_or_shorter_file_is_damage_that_the_list_shows(file: str, family: Path) -> None:
    (family / "0002" / FOLDER / "0002" / file).unlink()
    content = (family / "0002" / FOLDER / "0003" / file).read_bytes()
    (family / "0002" / FOLDER / "0003" / file).write_bytes(content[:-1])
    rows = answer("checkpoints", family, code=DAMAGED)
    assert [bool(row["problems"]) for row in rows] == [False, True, True, False, False]
    assert all(file in row["problems"][0] for row in rows[1:3])


def test_a_changed_byte_is_found_by_reading(family: Path) -> None:
    file = family / "0002" / FOLDER / "0005" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert not any(row["problems"] for row in answer("checkpoints", family))
    assert answer("checkpoints", family, "--verify", code=DAMAGED)[-1]["problems"]
    for name in (family, f"{family}:5", file.parent):
        done = ask("verify", name)
        assert done.exit_code == DAMAGED
        assert "'model.safetensors': entry 'weight':" in done.stdout
    assert ask("diff", f"{family}:4", f"{family}:5").exit_code == DAMAGED


def test_verify_of_whole_checkpoints_says_so(kept: Path) -> None:
    assert ask("verify", kept).stdout.count(" is whole.\n") == 5
    found = answer("verify", f"{kept}:2")
    assert (found["ok"], [row["problems"] for row in found["checkpoints"]]) == (True, [[]])


def test_diff_names_what_differs_field_by_field(kept: Path) -> None:
    rows = answer("diff", f"{kept}:1", f"{kept}:3", code=FINDING)["differences"]
    found = {(row["field"], row["name"]): row for row in rows}
    weight, updates = found["model", "weight"], found["updates", ""]
    assert (weight["first"], weight["unequal"] > 0, weight["largest"] > 0) == (weight["second"], True, True)
    assert (updates["first"], updates["second"]) == ("8", "16")
    fields = [row["field"] for row in rows]
    assert fields == sorted(fields, key=fields.index)
    assert not {"written", "records"} & {row["name"] for row in rows}


def test_diff_of_some_fields_only(kept: Path) -> None:
    rows = answer("diff", f"{kept}:1", f"{kept}:3", "--only", "model", "--only", "epochs_*", code=FINDING)[
        "differences"
    ]
    assert {row["field"] for row in rows} == {"model", "epochs_done"}
    done = ask("diff", f"{kept}:1", f"{kept}:3", "--only", "modle")
    assert (done.exit_code, "Did you mean 'model'?" in done.stderr) == (USAGE, True)


def test_diff_of_two_runs_that_did_the_same_finds_nothing(kept: Path) -> None:
    assert answer("diff", f"{kept}@1", f"{kept}:1", "--only", "model", "--only", "optimizer")["differences"] == []
    done = ask("diff", f"{kept}:2", f"{kept}:2")
    assert (done.exit_code, done.stdout.startswith("Equal, bit for bit: ")) == (OK, True)


def test_the_next_question_can_be_asked_as_it_is_written(kept: Path) -> None:
    done = ask("checkpoints", f"{kept}@2")
    asked = []
    while done.stderr.startswith("next: learner ") and len(asked) < 6:
        words = done.stderr.removeprefix("next: learner ").split()
        asked.append(words[0])
        done = ask(*words)
        assert done.exit_code in (OK, FINDING), done.output
    assert asked[:2] == ["verify", "checkpoints"]
    assert (
        ask(*ask("diff", f"{kept}:1", f"{kept}:3").stderr.removeprefix("next: learner ").split()).exit_code == FINDING
    )
