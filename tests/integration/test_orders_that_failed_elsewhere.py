"""Orders of callbacks that failed in FluxTraining and in Composer: here they hold, or are refused with the reason."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Callback, GraphError, TrainingPhase, TrainState, after, before, field
from learner.testing import toy_learner

# FluxTraining#122: a recorder, a scheduler and one that moves data to a device, each declared right, came to a cycle,
# since access was declared for a callback as a whole.


class CountState(TrainState):
    counted: int = 0


class ToDevice(Callback):
    """Moves the model before a phase, and each batch; it looks at the optimizer, whose state would have to follow."""

    @before(TrainingPhase, reads=("optimizer.hyper.lr",), touches=("model.params",))
    def move_model(self, model: nn.Module) -> None:
        model.to("cpu")

    @after("fetch", within=TrainingPhase, writes=("batch",))
    def move_batch(self, batch: Any) -> Any:
        return tuple(part.to("cpu") for part in batch)


class Count(Callback):
    """Counts batches, so it reads what was moved."""

    @after("batch", state=CountState, within=TrainingPhase, writes=("counted",))
    def count(self, batch: Any, counted: int) -> int:
        return counted + 1


class Decay(Callback):
    """Sets the learning rate by what was counted."""

    @before("update", state=CountState, reads=("counted",), writes=("optimizer.hyper.lr",))
    def decay(self, state: CountState) -> None:
        for group in state.optimizer.param_groups:
            group["lr"] = 0.1 / (1 + state.counted)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_callbacks_of_a_false_cycle_run_in_any_order_of_registration(order: tuple[int, ...]) -> None:
    given = [ToDevice(), Count(), Decay()]
    learner = toy_learner(callbacks=[given[number] for number in order])
    rates: list[float] = []
    learner.after("update")(lambda state: rates.append(state.optimizer.param_groups[0]["lr"]))
    learner.fit(epochs=1)
    assert learner.state.counted == 8
    assert rates == [0.1 / (1 + number) for number in range(8)]
    assert not [finding for finding in learner.check() if finding.kind == "cycle"]


def test_the_same_access_at_one_point_is_a_true_cycle_and_is_refused_with_each_reason() -> None:
    class MoveHere(Callback):
        @after("unpack", reads=("optimizer.hyper.lr",), writes=("inputs",))
        def move(self, state: TrainState) -> None: ...

    class CountHere(Callback):
        @after("unpack", state=CountState, writes=("counted",))
        def count(self, inputs: Tensor) -> int: ...

    class DecayHere(Callback):
        @after("unpack", state=CountState, reads=("counted",), writes=("optimizer.hyper.lr",))
        def decay(self, state: CountState) -> None: ...

    with pytest.raises(GraphError) as caught:
        toy_learner(callbacks=[MoveHere(), CountHere(), DecayHere()])
    cycles = [finding for finding in caught.value.findings if finding.kind == "cycle"]
    assert cycles and all(len(finding.actors) == 3 for finding in cycles)
    for reason in (
        "MoveHere.move writes 'inputs', which the other reads",
        "CountHere.count writes 'counted', which the other reads",
        "DecayHere.decay writes 'optimizer.hyper.lr', which the other reads",
    ):
        assert reason in cycles[0].message


# Composer: one pass puts SelectiveBackprop before all others, the next reverses every after-event, so it runs last.


class ShapeState(TrainState):
    seen_by: tuple[str, ...] = field(default=(), scope="batch", description="who has had the inputs")


@dataclass(frozen=True)
class Pruned(Callback):
    """Drops samples: it should be the first to have the batch, so that the others work on what is left."""

    @after(
        "unpack",
        state=ShapeState,
        within=TrainingPhase,
        writes=("inputs", "targets", "seen_by"),
        runs_before=(Callback,),
    )
    def drop(self, inputs: Tensor, targets: Tensor, seen_by: Any) -> Any:
        return inputs[::2], targets[::2], (*seen_by, f"pruned {len(inputs)}")


class Noise(Callback):
    @after("unpack", state=ShapeState, within=TrainingPhase, reads=("inputs",), writes=("inputs", "seen_by"))
    def add(self, inputs: Tensor, seen_by: Any) -> Any:
        return inputs + 0.1 * torch.ones_like(inputs), (*seen_by, f"noise {len(inputs)}")


class LastOfAll(Callback):
    """As LowPrecisionLayerNorm at `after_load`, which should be the last and was the first."""

    @after("unpack", state=ShapeState, within=TrainingPhase, writes=("inputs", "seen_by"), runs_after=(Callback,))
    def cast(self, inputs: Tensor, seen_by: Any) -> Any:
        return inputs.double().float(), (*seen_by, f"cast {len(inputs)}")


def orders(callbacks: list[Any]) -> set[tuple[str, ...]]:
    learner = toy_learner(callbacks=callbacks)
    found: set[tuple[str, ...]] = set()
    learner.after("unpack", within=TrainingPhase)(lambda state: found.add(state.seen_by))
    learner.fit(epochs=1)
    return found


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_first_and_last_hold_after_a_stage_whatever_the_order_of_registration(turn: int) -> None:
    given: list[Any] = [Noise(), LastOfAll(), Pruned()]
    assert orders([*given[turn:], *given[:turn]]) == {("pruned 8", "noise 4", "cast 4")}


def test_user_who_says_the_contrary_of_the_author_is_refused_with_both_reasons() -> None:
    with pytest.raises(GraphError) as caught:
        toy_learner(callbacks=[(Noise(), Pruned())])
    (finding,) = [finding for finding in caught.value.findings if finding.kind == "cycle"]
    assert "stands first in a tuple of callbacks=" in finding.message
    assert "declares runs_before" in finding.message


def test_two_that_both_want_to_be_first_are_refused() -> None:
    class AlsoFirst(Pruned):
        pass

    with pytest.raises(GraphError, match="Pruned.drop -> AlsoFirst.drop -> Pruned.drop"):
        toy_learner(callbacks=[Pruned(), AlsoFirst()])


def test_reason_of_the_order_can_be_read() -> None:
    told = toy_learner(callbacks=[Noise(), Pruned()]).explain("fit/batch/unpack")
    assert "Pruned.drop" in told and "declares runs_before" in told
    assert told.index("Pruned.drop") < told.index("Noise.add")
