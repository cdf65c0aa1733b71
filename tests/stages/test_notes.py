"""Notes: what is told where a loop of the user's own could not be entered."""

from typing import Any

import pytest

from learner import Cancel, Skip, StageError
from learner.testing import toy_learner


@pytest.mark.parametrize("side", ["before", "around"])
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (lambda: Skip("why"), "was not entered: skipped: why"),
        (lambda: Cancel("phase", "why"), r"was not entered: cancelled \(phase\) by train/epoch/fit:.*:end: why"),
        (lambda: Cancel("epoch", "why"), "was not entered: what it stands in was cancelled"),
        (lambda: Cancel("run", "why"), r"was not entered: cancelled \(run\) by train/epoch/fit:.*:end: why"),
    ],
    ids=["skip", "phase", "epoch", "run"],
)
def test_own_loop_cannot_be_left_out(side: str, raised: Any, told: str) -> None:
    learner = toy_learner(valid=None)

    def end(state: Any) -> Any:
        raise raised()
        yield

    def end_before(state: Any) -> None:
        raise raised()

    end_before.__name__ = "end"
    getattr(learner, side)("fit")(end if side == "around" else end_before)
    entered = False
    with pytest.raises(StageError, match=f"^train/epoch/fit {told}. The block of a `with` cannot be left out"):
        with learner.inside("epoch/fit"):
            entered = True
    assert not entered
    learner.hooks.remove("end")
    learner.fit(epochs=1)
    assert learner.outcome.ok and learner.state.updates == 8
