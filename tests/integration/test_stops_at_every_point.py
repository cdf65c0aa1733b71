"""Every point: a run that is stopped at any of its checkpoints goes on, in a Learner made anew, to the same bits.

Weights, optimizer, schedule, averaged weights, metrics, all generators, history and fields are those of the run that
was never stopped, every sample is used exactly once per epoch, and the log tells of the same writes.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from learner import Learner, TrainingPhase, supervised
from learner.checkpoints import Kept
from learner.recipes import validate
from stages import Cancel, Every
from tests.integration.resuming.programs import LOADERS, SAMPLES, Program
from tests.integration.resuming.stopping import Undisturbed

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's own


def evaluated_inside() -> Any:
    """A tree that evaluates within the epoch, after every third batch, and at its end."""
    return supervised().insert(Every("3 batches", validate()), after="fit/batch")


PROGRAMS: dict[str, Program] = {
    **{loader: Program(loader) for loader in LOADERS},
    **{f"{loader}, windows": Program(loader, accumulate=3) for loader in LOADERS},
    "weights that are nobody's": Program(lends=False),
    "stopped early": Program("TensorBatches", patience=2, epochs=5),
    "microbatches": Program(microbatches=2),
    "fp16": Program("TensorBatches", precision="fp16"),
    "fp16, windows": Program(precision="fp16", accumulate=3),
    "microbatches, windows": Program("TensorBatches", microbatches=2, accumulate=3),
    "evaluated inside": Program(tree=evaluated_inside),
}

SOME = {"DataLoader": 4, "SampleBatches, windows": 5, "stopped early": 6}
"""What `make test` runs: every so many points of a few programs."""


def undisturbed(name: str, folder: Path) -> Undisturbed:
    program = PROGRAMS[name]
    return Undisturbed(program.make, folder, epochs=program.epochs)


def assert_goes_on_from(whole: Undisturbed, points: list[Kept]) -> None:
    for point in points:
        assert whole.differences(point) == [], f"stopped at checkpoint {point.number}, {point.run()['standing']}"


@pytest.mark.parametrize("name", SOME)
def test_run_stopped_at_some_points_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = undisturbed(name, tmp_path)
    assert_goes_on_from(whole, whole.points[:: SOME[name]])


@pytest.mark.parametrize("scope", ["batch", "update", "run"])
def test_window_that_was_being_left_is_left_again(scope: str, tmp_path: Path) -> None:
    def make(run_dir: Path) -> Learner:
        learner = Program("TensorBatches", accumulate=3, lends=False).make(run_dir)

        def leave(state: Any) -> None:
            if state.batch_index == 1 and state.epoch == 0:
                raise Cancel(scope, "enough")

        # Of these only a batch that is cancelled by itself counts in `batches_seen`, by which the samples are compared.
        slot = learner.after("loss") if scope == "batch" else learner.before("batch", within=TrainingPhase)
        slot(leave)

        return learner

    whole = Undisturbed(make, tmp_path, epochs=1)
    assert "train/epoch/fit/window" in {point.run()["standing"][0] for point in whole.points}
    assert_goes_on_from(whole, whole.points)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_run_stopped_at_any_point_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = undisturbed(name, tmp_path)
    rounds = 4 + 2 if PROGRAMS[name].accumulate else 4
    assert len(whole.points) == 3 * (rounds + 1), "after each batch, each update of a window, and each epoch"
    for epoch in range(3):
        seen = Counter(index for number, indices in whole.seen if number == epoch for index in indices)
        assert seen == Counter(range(SAMPLES)), "every sample once per epoch"
    assert_goes_on_from(whole, whole.points)
