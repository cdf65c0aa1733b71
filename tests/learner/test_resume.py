"""fit(resume=...): which run is gone on with, up to where, and what is refused or said."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from learner import Learner, PositionError, TensorBatches, supervised
from learner.callbacks import Checkpoint, ClipGradients, Schedule
from learner.checkpoints import Checkpoints
from learner.errors import ArgumentError, ResumeWarning
from learner.testing import toy_learner
from stages.errors import LimitError
from state.errors import CheckpointError, SnapshotError
from state.runs import numbered_runs

INPUTS = torch.linspace(-1, 1, 24)[:, None]


def script(run_dir: Path, *callbacks: Any, every: str = "1 epochs", batch_size: int = 6, **settings: Any) -> Learner:
    """A learner of y = 3x, with a checkpoint after each epoch."""
    settings = {"train": TensorBatches(INPUTS, 3 * INPUTS, batch_size=batch_size, shuffle=True)} | settings
    return toy_learner(callbacks=[*callbacks, Checkpoint(every, keep=None)], run_dir=run_dir, **settings)


def ended(run_dir: Path, *, damaged: int = 0, **limit: Any) -> Path:
    """The checkpoints of a run that was closed; the newest of them damaged."""
    learner = script(run_dir)
    learner.fit(**(limit or {"epochs": 2}))
    learner.close()
    assert learner.run_dir is not None
    kept = list(Checkpoints(learner.run_dir))
    for one in kept[len(kept) - damaged :]:
        (one.path / "model.safetensors").write_bytes(b"")
    return kept[-1].path


def runs(run_dir: Path) -> list[str]:
    return [run.name for run in numbered_runs(run_dir)]


def test_first_run_of_a_family_begins(tmp_path: Path, capsys: Any) -> None:
    learner = script(tmp_path)
    learner.fit(epochs=2, resume="auto")
    assert learner.state.epochs_done == 2 and runs(tmp_path) == ["0001"]
    assert capsys.readouterr().out == ""


def test_same_script_again_goes_on_in_the_same_run_and_says_so_in_one_line(tmp_path: Path, capsys: Any) -> None:
    ended(tmp_path)
    learner = script(tmp_path)
    learner.fit(epochs=3, resume="auto")
    assert (learner.state.epochs_done, runs(tmp_path)) == (3, ["0001"])
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Resuming .*0001 from checkpoint 0002: after epoch 1, update 8.*", line)
    assert len(learner.history) == 3


def test_script_that_had_ended_ends_again_and_changes_nothing(tmp_path: Path) -> None:
    ended(tmp_path)
    first = script(tmp_path)
    first.fit(epochs=2, resume="auto")
    weight = first.state.model.weight.clone()
    assert first.outcome.ok and first.state.batches_seen == 8 and len(first.history) == 2
    first.close()
    second = script(tmp_path)
    second.fit(epochs=2, resume="auto")
    assert torch.equal(second.state.model.weight, weight)


def test_run_that_never_wrote_one_is_passed_by(tmp_path: Path) -> None:
    learner = script(tmp_path, every="9 epochs")

    @learner.after("batch")
    def fail(state: Any) -> None:
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError):
        learner.fit(epochs=1)
    learner.close()
    again = script(tmp_path)
    again.fit(epochs=1, resume="auto")
    assert again.state.epochs_done == 1 and runs(tmp_path) == ["0001", "0002"]


def test_run_that_was_only_looked_at_is_passed_by(tmp_path: Path) -> None:
    ended(tmp_path)
    script(tmp_path).close()
    learner = script(tmp_path)
    learner.fit(epochs=3, resume="auto")
    assert learner.run_dir == tmp_path / "0001" and learner.state.batches_seen == 12


def test_run_that_was_refused_is_passed_by(tmp_path: Path) -> None:
    ended(tmp_path)
    other = script(tmp_path)
    with pytest.raises(LimitError):
        other.fit(batches=9, resume="auto")
    other.close()
    learner = script(tmp_path)
    learner.fit(epochs=3, resume="auto")
    assert learner.run_dir == tmp_path / "0001" and learner.state.epochs_done == 3


def test_newest_that_is_damaged_is_passed_by_and_told(tmp_path: Path, capsys: Any) -> None:
    ended(tmp_path, damaged=1)
    learner = script(tmp_path)
    learner.fit(epochs=2, resume="auto")
    shown = capsys.readouterr().out
    assert "from checkpoint 0001: after epoch 0, update 4" in shown and "model.safetensors" in shown
    assert learner.state.epochs_done == 2
    assert [one.number for one in Checkpoints(tmp_path / "0001")] == [1, 2, 3], "nothing is written over"


def refused(learner: Learner, error: type[Exception], told: str, **options: Any) -> None:
    """A refusal that changes nothing: the Learner still begins a run of its own."""
    before = {name: value.clone() for name, value in learner.state.model.state_dict().items()}
    generators = torch.get_rng_state()
    with pytest.raises(error, match=told):
        learner.fit(**options)
    assert all(torch.equal(value, before[name]) for name, value in learner.state.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generators)
    assert (learner.state.updates, len(learner.history)) == (0, 0)
    learner.fit(epochs=1)
    assert learner.outcome.ok and learner.state.updates > 0


def test_run_all_of_whose_checkpoints_are_damaged_is_not_begun_anew(tmp_path: Path) -> None:
    ended(tmp_path, damaged=2)
    refused(script(tmp_path), CheckpointError, "holds no whole one", epochs=2, resume="auto")


def test_damaged_checkpoint_is_refused_when_it_is_named(tmp_path: Path) -> None:
    path = ended(tmp_path, damaged=1)
    refused(script(tmp_path), CheckpointError, "model.safetensors", epochs=2, resume=path)


def test_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(script(tmp_path), CheckpointError, "there is no such directory", epochs=2, resume=tmp_path / "0009")


def test_second_live_learner_is_refused(tmp_path: Path) -> None:
    learner = script(tmp_path)
    learner.fit(epochs=1)
    refused(script(tmp_path), ArgumentError, "is being run, by another process", epochs=2, resume="auto")
    learner.close()


def test_lock_of_a_refused_run_is_free_again(tmp_path: Path) -> None:
    ended(tmp_path)
    other = toy_learner(callbacks=[Checkpoint()], run_dir=tmp_path, train=[(INPUTS, 3 * INPUTS)] * 4)
    with pytest.raises(PositionError):
        other.fit(epochs=3, resume="auto")
    learner = script(tmp_path)
    learner.fit(epochs=3, resume="auto")
    assert learner.state.epochs_done == 3


def test_auto_without_a_directory_is_refused() -> None:
    with pytest.raises(ArgumentError, match="Give the Learner run_dir="):
        toy_learner().fit(epochs=1, resume="auto")


def test_auto_after_this_learner_has_run_is_refused(tmp_path: Path) -> None:
    learner = script(tmp_path)
    learner.fit(epochs=1)
    with pytest.raises(ArgumentError, match="this Learner has run already"):
        learner.fit(epochs=1, resume="auto")


@pytest.mark.parametrize(("epochs", "done"), [(2, 2), (5, 5), (1, 2)])
def test_limit_counts_from_where_the_run_began(epochs: int, done: int, tmp_path: Path) -> None:
    """The same, a longer one; a shorter one than what is done ends at once."""
    ended(tmp_path)
    learner = script(tmp_path)
    learner.fit(epochs=epochs, resume="auto")
    assert learner.state.epochs_done == done and learner.outcome.ok


@pytest.mark.parametrize(("batches", "seen"), [(6, 6), (9, 9), (2, 3)])
def test_limit_within_an_epoch_counts_from_where_the_run_began(batches: int, seen: int, tmp_path: Path) -> None:
    first = script(tmp_path, every="3 batches")
    first.fit(batches=6)
    first.close()
    learner = script(tmp_path, every="3 batches")
    learner.fit(batches=batches, resume=tmp_path / "0001/checkpoints/0001")
    assert learner.state.batches_seen == seen and learner.outcome.ok


def test_limit_in_another_unit_is_refused(tmp_path: Path) -> None:
    path = ended(tmp_path)
    refused(script(tmp_path), LimitError, r"was begun by fit\(epochs=2\)", batches=9, resume=path)
    learner = script(tmp_path)
    learner.load(path)
    with pytest.raises(LimitError, match=r"was begun by fit\(epochs=2\)"):
        learner.fit(batches=9)
    learner.fit(epochs=3)
    assert learner.state.epochs_done == 3, "what was loaded still waits to be gone on with"


def test_limit_of_what_was_saved_at_rest_counts_from_there(tmp_path: Path) -> None:
    first = script(tmp_path)
    first.fit(epochs=3)
    first.save(tmp_path / "kept")
    learner = script(tmp_path)
    learner.fit(epochs=2, resume=tmp_path / "kept")
    assert learner.state.epochs_done == 5


def test_limit_in_time_has_what_was_left(tmp_path: Path) -> None:
    path = ended(tmp_path, minutes=0.0001)
    learner = script(tmp_path)
    learner.fit(minutes=0.0001, resume=path)
    assert learner.outcome.ok and learner.state.batches_seen < 1000


def test_other_batch_size_is_refused(tmp_path: Path) -> None:
    path = ended(tmp_path)
    refused(
        script(tmp_path, batch_size=8), PositionError, "batch_size=6 when the state was saved", epochs=3, resume=path
    )


def test_other_model_is_refused(tmp_path: Path) -> None:
    path = ended(tmp_path)
    learner = script(tmp_path)
    learner.state.model.add_module("more", nn.Linear(1, 1))
    refused(learner, SnapshotError, "model.more.weight is missing in it", epochs=3, resume=path)


def told_by(learner: Learner, **options: Any) -> str:
    with pytest.warns(ResumeWarning, match="not the program") as caught:
        learner.fit(**options)
    (one,) = [str(each.message) for each in caught if issubclass(each.category, ResumeWarning)]
    return one


def test_changed_tree_is_told_with_the_first_lines_that_differ(tmp_path: Path) -> None:
    path = ended(tmp_path)
    told = told_by(script(tmp_path, ClipGradients(0.5)), epochs=3, resume=path)
    assert "the tree:\n" in told and "+ train/epoch/fit/batch/update before ClipGradients.clip" in told


def test_tree_without_the_loop_is_refused(tmp_path: Path) -> None:
    first = script(tmp_path, every="2 batches", stages=supervised(accumulate=2))
    first.fit(epochs=1)
    path = list(Checkpoints(tmp_path / "0001"))[0].path
    tree = supervised()
    other = tree.holding({"turn": tree.stages["epoch"]})
    refused(script(tmp_path, stages=other), SnapshotError, "which this tree does not have", epochs=1, resume=path)


def test_changed_settings_are_told(tmp_path: Path) -> None:
    first = script(tmp_path, ClipGradients(0.5))
    first.fit(epochs=1)
    assert first.run_dir is not None
    path = list(Checkpoints(first.run_dir))[-1].path
    told = told_by(script(tmp_path, ClipGradients(1.0)), epochs=2, resume=path)
    assert "ClipGradients.clip.max_norm=0.5 then, 1.0 now" in told


def test_changed_seed_is_told(tmp_path: Path) -> None:
    first = script(tmp_path, seed=1)
    first.fit(epochs=1)
    path = list(Checkpoints(tmp_path / "0001"))[-1].path
    assert "seed=1 then, 2 now, which seeds nothing any more" in told_by(
        script(tmp_path, seed=2), epochs=2, resume=path
    )


def test_changed_seed_is_told_each_time_and_the_order_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    whole = script(tmp_path / "whole", seed=1)
    whole.fit(epochs=3)
    script(tmp_path, seed=1).fit(epochs=1)
    for epochs in (2, 3):
        learner = script(tmp_path, seed=2)
        path = list(Checkpoints(tmp_path / f"{epochs - 1:04d}"))[-1].path
        assert "seed=1 then, 2 now" in told_by(learner, epochs=epochs, resume=path)
    assert torch.equal(learner.state.model.weight, whole.state.model.weight)


def test_refused_checkpoint_leaves_the_order_of_the_own_seed(tmp_path: Path) -> None:
    script(tmp_path, seed=1).fit(epochs=1)
    learner = script(tmp_path, seed=2)
    with pytest.raises(LimitError):
        learner.fit(batches=3, resume=list(Checkpoints(tmp_path / "0001"))[-1].path)
    assert learner.state.train_loader.seed == 2


def test_changed_horizon_of_a_schedule_is_told(tmp_path: Path) -> None:
    def schedule(total: int) -> Schedule:
        return Schedule(lambda optimizer: OneCycleLR(optimizer, max_lr=0.1, total_steps=total))

    script(tmp_path, schedule(20)).fit(epochs=1)
    path = list(Checkpoints(tmp_path / "0001"))[-1].path
    learner = script(tmp_path, schedule(40))
    assert "schedule: its settings are those of the checkpoint" in told_by(learner, epochs=2, resume=path)
    assert learner.state.schedule.total_steps == 20


def test_what_only_looks_may_be_another(tmp_path: Path) -> None:
    path = ended(tmp_path)
    learner = script(tmp_path, every="2 epochs")
    learner.after("batch")(lambda state: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.fit(epochs=3, resume=path)


def test_saved_at_rest_and_loaded_trains_on_alike(tmp_path: Path) -> None:
    one, other = script(tmp_path / "a"), script(tmp_path / "b")
    one.fit(epochs=1)
    one.save(tmp_path / "kept")
    one.fit(epochs=1)
    other.load(tmp_path / "kept")
    assert (other.state.epochs_done, len(other.history)) == (1, 1)
    other.fit(epochs=1)
    assert torch.equal(other.state.model.weight, one.state.model.weight)
    with pytest.raises(CheckpointError, match="exists"):
        one.save(tmp_path / "kept")


def test_model_of_a_checkpoint_loads_with_the_safetensors_library_alone(tmp_path: Path) -> None:
    path = ended(tmp_path)
    found = pytest.importorskip("safetensors.torch").load_file(path / "model.safetensors")
    assert found.keys() == {"weight", "bias"}


def test_partial_takes_the_weights_alone(tmp_path: Path) -> None:
    path = ended(tmp_path)
    learner = script(tmp_path)
    learner.load(path, partial=["optimizer", "updates"])
    assert learner.state.updates == 0 and learner.state.epochs_done == 2
