"""Hooking: what a hook owes where its stage ended well, and where it did not."""

from typing import Any

import pytest
import torch
from torch import Tensor

from learner import Cancel, Skip, TrainState, after, around, before, field
from learner.testing import toy_learner
from stages import ContractBroken


class Norms(TrainState):
    norm: Tensor = field(scope="batch")
    other: Tensor = field(scope="batch")


def ended(side: Any, *signals: Any, gives: tuple[str, ...] = (), **options: Any) -> Any:
    """The Learner after three batches with a hook that is to write `norm` and `other`, and writes `gives`."""

    def give(state: Any) -> None:
        for name in gives:
            setattr(state, name, torch.tensor(1.0))

    if side is around:

        @around("gradient", state=Norms, writes=("norm", "other"), **options)
        def hook(state: Any) -> Any:
            yield
            give(state)
    else:

        @side("gradient", state=Norms, writes=("norm", "other"), **options)
        def hook(state: Any) -> None:
            give(state)

    learner = toy_learner(callbacks=[*signals, hook])
    learner.debug()
    learner.fit(batches=3)
    return learner


@pytest.mark.parametrize("options", [{}, {"every": "2 batches"}], ids=["always", "thinned"])
@pytest.mark.parametrize("side", [before, around, after])
def test_hook_that_leaves_a_field_of_its_writes_without_a_value_is_told(side: Any, options: Any) -> None:
    with pytest.raises(ContractBroken, match="declares that it writes 'other' and ended without a value") as caught:
        ended(side, gives=("norm",), **options)
    assert caught.value.actor == f"train/epoch/fit/batch/gradient:{side.__name__}:hook"
    assert ended(side, gives=("norm", "other"), **options).outcome.ok


@pytest.mark.parametrize(
    ("target", "signal"),
    [("loss", Cancel("batch", "too hard")), ("gradient", Skip("not now"))],
    ids=["cancelled", "skipped"],
)
@pytest.mark.parametrize("side", [around, after])
def test_hook_owes_nothing_where_its_stage_ended_early(side: Any, target: str, signal: BaseException) -> None:
    @before(target, within="fit")
    def stop(state: Any) -> None:
        raise signal

    assert ended(side, stop).outcome.ok


def test_hook_that_asks_how_its_stage_ended_may_write_nothing_then() -> None:
    @before("loss", within="fit", every="2 batches")
    def stop(state: Any) -> None:
        raise Cancel("batch", "too hard")

    seen: list[str] = []

    @after("gradient", state=Norms, writes=("norm",))
    def hook(state: Any, outcome: Any) -> None:
        seen.append(outcome.kind)
        if outcome.ok:
            state.norm = torch.tensor(1.0)

    learner = toy_learner(callbacks=[stop, hook])
    learner.fit(epochs=1)
    assert learner.outcome.ok and seen == ["ok", "cancelled"] * 4
