"""Spoiling: what a stage leaves of no use, who may change that, and two models that share a scaler or do not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from learner import Callback, GraphError, Learner, TrainState, after, before, field, stage, supervised
from learner.testing import toy_learner
from stages import (
    AverageGradients,
    Backward,
    Chain,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Loss,
    ScaledBackward,
    ScaledUpdate,
    Stage,
    Train,
    Unpack,
    Unscale,
    Update,
    Window,
)

SCALED = (ScaledBackward(), Unscale(), ScaledUpdate())


def fit_with(*stages: Stage, **named: Stage) -> Train:
    return Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), Forward(), Loss(), *stages, **named))))


class Writes(Callback):
    """Changes gradients, or says so, at one point."""

    def __init__(self, point: Any, *reads: str) -> None:
        self.point, self.reads = point, reads

    def hooks(self) -> Any:
        return [("change", self.point(reads=self.reads, writes=("model.grads",))(Writes.change))]

    def change(self, model: nn.Module) -> None: ...


# Who changes what was spoilt


@pytest.mark.parametrize("thinned", [{}, {"every": "2 batches"}], ids=["always", "sometimes"])
@pytest.mark.parametrize("target", ["backward", "gradient"])
def test_writer_between_that_does_not_know_of_the_scale_is_refused(target: str, thinned: Any) -> None:
    def point(**given: Any) -> Any:
        return after(target, **given, **thinned)

    with pytest.raises(GraphError) as caught:
        toy_learner(precision="fp16", callbacks=[Writes(point)])
    (finding,) = caught.value.findings
    batch = "train/epoch/fit/batch"
    hook = next(actor for actor in finding.actors if actor.endswith(f"{target}:after:Writes.change"))
    assert finding.kind == "read before write" and f"{batch}/unscale" in finding.actors
    told = f"{batch}/unscale and {batch}/update read 'scaled', which is of no use after {hook} wrote 'model.grads' "
    told += f"as {batch}/gradient/backward left it, until somebody writes it anew. "
    assert finding.message.startswith(f"{told}Put {hook} after {batch}/unscale. Its code: Writes.change {__file__}:")


@pytest.mark.parametrize(
    "writer",
    [
        Writes(lambda **given: after("backward", **given), "scaled"),
        Writes(lambda **given: before("backward", **given)),
        Writes(lambda **given: after("unscale", **given)),
        Writes(lambda **given: before("update", **given)),
    ],
    ids=["knows of it", "before", "after", "before the update"],
)
def test_writer_that_knows_of_the_scale_or_stands_elsewhere_is_accepted(writer: Callback) -> None:
    learner = toy_learner(precision="fp16", callbacks=[writer])
    learner.debug()
    learner.fit(epochs=1)
    assert learner.outcome.ok


def test_writer_there_is_accepted_where_nothing_is_scaled() -> None:
    assert not toy_learner(callbacks=[Writes(lambda **given: after("backward", **given))]).check()


def test_writer_in_a_window_is_refused_too() -> None:
    writer = Writes(lambda **given: after("window", **given))
    with pytest.raises(GraphError, match=r"Put .*/window:after:Writes.change after train/epoch/fit/unscale\. Its code"):
        toy_learner(precision="fp16", stages=supervised(accumulate=2), callbacks=[writer])


def test_gradients_that_are_cleared_and_made_again_may_be_unscaled() -> None:
    first = Chain(ScaledBackward(), ClearGradients())
    again = Chain(Forward(), Loss(), ScaledBackward())
    learner = toy_learner(valid=None, stages=fit_with(first, again=again, unscale=Unscale(), update=ScaledUpdate()))
    learner.debug()
    learner.fit(epochs=1)
    assert learner.outcome.ok
    with pytest.raises(GraphError, match="read 'scaled', .*clear_gradients wrote 'model.grads' as .* left it"):
        toy_learner(valid=None, stages=fit_with(first, unscale=Unscale(), update=ScaledUpdate()))


# A scale that nobody adapts


@pytest.mark.parametrize(
    "tree",
    [
        fit_with(ScaledBackward(), Unscale(), Update()),
        Train(
            Epoch(
                Fit(
                    ClearGradients(),
                    Window(2, Fetch(), FitBatch(Unpack(), Forward(), Loss(), ScaledBackward())),
                    Unscale(),
                    AverageGradients(),
                    Update(),
                    each="update",
                )
            )
        ),
    ],
    ids=["of each batch", "of a window"],
)
def test_unscaled_gradients_are_not_for_a_plain_update(tree: Train) -> None:
    with pytest.raises(GraphError) as caught:
        toy_learner(valid=None, stages=tree)
    (finding,) = caught.value.findings
    assert "scaled_backward reads 'scaler.state', which is of no use after train/epoch/fit/" in finding.message
    assert finding.message.endswith("Put the reader after a stage that does, such as ScaledUpdate() for a scaler.")
    assert finding.actors[1].endswith("/unscale")


def test_update_of_a_users_own_that_writes_the_scaler_is_as_good() -> None:
    @stage(reads=("model.grads",), writes=("model.params", "optimizer.state", "scaler.state", "updates"))
    def update(optimizer: Any, scaler: Any, updates: int) -> int:
        scaler.step(optimizer)
        scaler.update()
        return updates + 1

    learners = [toy_learner(valid=None, stages=fit_with(*SCALED[:2], last)) for last in (ScaledUpdate(), Chain(update))]
    first, second = (learner.fit(epochs=1)["train_loss"] for learner in learners)
    assert first == second


# Two models


class Pair(TrainState):
    other: nn.Module
    other_optimizer: torch.optim.Optimizer
    other_updates: int = 0
    other_loss: Tensor = field(scope="batch")


@stage(state=Pair, writes=("loss",))
def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(inputs), targets)


OTHER = {"model": "other", "optimizer": "other_optimizer", "updates": "other_updates", "loss": "other_loss"}
USED = {
    "clear": ("model", "optimizer"),
    "loss": ("model", "loss"),
    "back": ("model", "optimizer", "loss"),
    "unscale": ("model", "optimizer"),
    "update": ("model", "optimizer", "updates"),
}
STEPS: dict[str, Stage] = {
    "clear": ClearGradients(),
    "loss": Chain(loss_of),
    "back": ScaledBackward(),
    "unscale": Unscale(),
    "update": ScaledUpdate(),
}


def pair_of() -> Pair:
    torch.manual_seed(0)
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (first, second)]
    return Pair(model=first, other=second, optimizer=optimizers[0], other_optimizer=optimizers[1])


def both(order: str, **own: str) -> Learner:
    """A Learner with the steps of both models in this order; those of the second end in 2, and have `own` names."""
    parts: dict[str, Any] = {}
    for slot in order.split():
        step = slot.removesuffix("2")
        names = {mine: OTHER[mine] for mine in USED[step]} | (own if step in ("back", "unscale", "update") else {})
        parts[slot] = STEPS[step].bind(**names) if slot.endswith("2") else STEPS[step]
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), **parts))))
    return Learner.from_state(pair_of(), tree, train=batches())


def batches() -> list[tuple[Tensor, Tensor]]:
    """Of which the second one overflows."""
    torch.manual_seed(1)
    inputs = torch.randn(4, 8, 1)
    return [(some, torch.full((8, 1), 1e38) if number == 1 else some / 100) for number, some in enumerate(inputs)]


OWN = {"scaler": "other_scaler", "scaled": "other_scaled"}
ONE_BY_ONE = "clear loss back unscale update clear2 loss2 back2 unscale2 update2"
BACK_FIRST = "clear clear2 loss loss2 back back2 unscale update unscale2 update2"
UNSCALED_FIRST = "clear clear2 loss loss2 back back2 unscale unscale2 update update2"


def test_two_models_one_after_the_other_may_share_a_scaler_and_do_as_the_loop_by_hand() -> None:
    learner = both(ONE_BY_ONE)
    learner.debug()
    learner.fit(epochs=1)
    state, hand, scaler = learner.state, pair_of(), GradScaler("cpu")
    for inputs, targets in batches():
        for model, optimizer in ((hand.model, hand.optimizer), (hand.other, hand.other_optimizer)):
            optimizer.zero_grad()
            scaler.scale(nn.functional.mse_loss(model(inputs), targets)).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert torch.equal(state.model.weight, hand.model.weight) and torch.equal(state.other.weight, hand.other.weight)
    assert (state.updates, state.other_updates) == (3, 3)
    assert state.scaler.get_scale() == scaler.get_scale() == 2.0**14, "gone down twice"


@pytest.mark.parametrize(
    ("order", "own", "match"),
    [
        (BACK_FIRST, {}, r"unscale2 and .*update2 read 'scaled', .*update wrote 'scaler.state' with 'other.grads' as"),
        (BACK_FIRST, {"scaled": "other_scaled"}, r"read 'other_scaled', .*update wrote 'scaler.state' with 'other.gra"),
        (UNSCALED_FIRST, {}, r"unscale2 reads 'scaler.state', which is of no use after .*/unscale until"),
    ],
    ids=["scale changes in between", "mark of its own only", "unscaled together"],
)
def test_two_models_that_share_a_scaler_and_go_side_by_side_are_refused(order: str, own: Any, match: str) -> None:
    with pytest.raises(GraphError, match=match) as caught:
        both(order, **own)
    assert "Put the reader after" in str(caught.value) or "give one of the two its own: bind(scaler=...," in str(
        caught.value
    )


@pytest.mark.parametrize("order", [ONE_BY_ONE, BACK_FIRST, UNSCALED_FIRST])
def test_two_models_with_scalers_of_their_own_may_go_in_any_order(order: str) -> None:
    learner = both(order, **OWN)
    learner.debug()
    learner.fit(epochs=1)
    assert (learner.state.updates, learner.state.other_updates) == (3, 3)
    assert learner.state.scaler.get_scale() == learner.state.other_scaler.get_scale() == 2.0**15


def test_precision_finds_two_models_that_would_share_its_scaler() -> None:
    def tree(**own: str) -> Train:
        parts = {"back": Backward(), "update": Update()}
        steps = {slot: parts.get(slot, STEPS[slot]) for slot in ("clear", "loss", "back", "update")}
        names = {slot: {mine: OTHER[mine] for mine in USED[slot]} for slot in steps}
        theirs = {f"{slot}2": steps[slot].bind(**names[slot], **(own if slot in parts else {})) for slot in steps}
        slots = ("clear", "clear2", "loss", "loss2", "back", "back2", "update", "update2")
        return Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), **{slot: {**steps, **theirs}[slot] for slot in slots}))))

    with pytest.raises(GraphError, match="give one of the two its own"):
        Learner.from_state(pair_of(), tree(), train=batches(), precision="fp16")
    learner = Learner.from_state(pair_of(), tree(**OWN), train=batches(), precision="fp16")
    learner.fit(epochs=1)
    assert learner.state.scaler is not learner.state.other_scaler and learner.state.other_updates == 3
