"""Golden checkpoints: those that a release wrote load for ever, to the last bit, and runs go on from them."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from state.bundle import verify_bundle
from tests.golden.make import KEPT, held
from tests.golden.programs import EPOCHS, PROGRAMS

pytestmark = pytest.mark.filterwarnings("ignore::learner.ResumeWarning")  # another version of torch, say

GOLDEN = [folder for release in sorted(KEPT.iterdir()) for folder in sorted(release.iterdir()) if folder.is_dir()]


def test_each_release_has_one_of_each_kind() -> None:
    for release in KEPT.iterdir():
        assert {folder.name for folder in GOLDEN if folder.parent == release} == set(PROGRAMS)


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: f"{folder.parent.name} {folder.name}")
def test_golden_checkpoint_is_whole_and_loads_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    assert verify_bundle(folder) == []
    learner = PROGRAMS[folder.name](tmp_path)
    learner.load(folder)
    assert json.loads(json.dumps(held(learner))) == json.loads((folder.parent / f"{folder.name}.json").read_text())
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in learner.state.model.state_dict().items())


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: f"{folder.parent.name} {folder.name}")
def test_run_goes_on_from_a_golden_checkpoint(folder: Path, tmp_path: Path) -> None:
    learner = PROGRAMS[folder.name](tmp_path)
    learner.fit(epochs=EPOCHS, resume=folder)
    assert learner.outcome.ok
    accumulated = folder.name == "inside-a-window"
    before = EPOCHS if folder.name == "at-rest" else 0  # a further fit, not the same one
    assert (learner.state.epochs_done, learner.state.batches_seen) == (EPOCHS + before, 4 * (EPOCHS + before))
    assert learner.state.updates <= (2 if accumulated else 4) * (EPOCHS + before)
