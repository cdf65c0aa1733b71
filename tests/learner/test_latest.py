"""What is said when a run is resumed: from where, what was passed over, and how the tree is another one."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from learner import after, before
from learner.callbacks import Checkpoint, ClipGradients
from learner.checkpoints import Checkpoints
from learner.errors import ResumeWarning
from learner.testing import toy_learner


def kept(folder: Path, *callbacks: Any, epochs: int = 2) -> Any:
    learner = toy_learner(callbacks=[Checkpoint(), *callbacks], run_dir=folder)
    learner.fit(epochs=epochs, resume="auto")
    learner.close()
    return learner


def test_the_first_run_resumes_nothing_and_the_next_says_from_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = kept(tmp_path)
    assert capsys.readouterr().out == ""
    assert kept(tmp_path, epochs=3).run_dir == first.run_dir
    assert capsys.readouterr().out == f"Resuming {first.run_dir} from checkpoint 0002: after epoch 1, update 16.\n"


def test_a_damaged_checkpoint_is_passed_over_by_name_of_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = kept(tmp_path).run_dir
    *_, newest = Checkpoints(run)
    (newest.path / "state.json").unlink()
    kept(tmp_path)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"Resuming {run} from checkpoint 0001: after epoch 0, update 8."
    assert second.startswith(f"Passed over: Checkpoint '{newest.path}' is damaged: 'state.json'")


def test_a_tree_that_is_another_one_is_named_and_observers_do_not_count(tmp_path: Path) -> None:
    @after("update", every="2 batches")
    def look(state: Any) -> None: ...

    @before("update", reads=("loss",), writes=("loss",))
    def double(loss: Tensor) -> Tensor:
        return loss * 2

    kept(tmp_path, look, double)
    with pytest.warns(ResumeWarning, match="not the program that the checkpoint was taken of") as told:
        kept(tmp_path, ClipGradients(1.0), epochs=3)
    assert [line.strip() for line in str(told[0].message).splitlines() if " before " in line] == [
        "- train/epoch/fit/batch/update before double",
        "+ train/epoch/fit/batch/update before ClipGradients.clip",
    ]
