"""Scaled gradients: who may read them, what a tree must hold, and what an update that is left out comes to."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from learner import Callback, GraphError, Learner, TrainState, after, before, field, stage
from learner.derived import scaled
from learner.recipes import supervised
from learner.testing import toy_learner
from stages import (
    Backward,
    Chain,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    ScaledBackward,
    ScaledUpdate,
    Train,
    Unpack,
    Unscale,
    Update,
)

FAR = torch.full((8, 1), 1e38)
"""Targets so far off that their gradients are infinite."""


def overflowing(batches: int = 4, *, bad: tuple[int, ...] = (1,)) -> list[tuple[Tensor, Tensor]]:
    """Batches of y = x / 100, some of which overflow."""
    inputs = torch.randn(batches, 8, 1)
    return [(some, FAR if number in bad else some / 100) for number, some in enumerate(inputs)]


def test_step_of_a_fused_optimizer_moves_the_version_counters_too() -> None:
    for precision in ("fp32", "fp16"):
        learner = toy_learner(precision=precision, optimizer=lambda params: torch.optim.AdamW(params, fused=True))
        version = learner.state.model.weight._version
        learner.fit(epochs=4)
        assert learner.state.model.weight._version - version == learner.state.updates > 0


def reader(point: Any, **declared: Any) -> Callback:
    """A callback that looks at the gradients at one point."""

    class Look(Callback):
        @point(reads=("model.grads",), **declared)
        def look(self, model: nn.Module) -> None: ...

    return Look()


@pytest.mark.parametrize(
    ("point", "tree"),
    [
        (lambda **given: after("backward", **given), {}),
        (lambda **given: after("gradient", **given), {}),
        (lambda **given: before("unscale", **given), {}),
        (lambda **given: after("window", **given), {"accumulate": 2}),
    ],
    ids=["after backward", "after gradient", "before unscale", "after window"],
)
def test_reader_of_gradients_that_are_scaled_is_refused_and_told_where_to_stand(point: Any, tree: Any) -> None:
    with pytest.raises(GraphError) as caught:
        toy_learner(stages=supervised(**tree), precision="fp16", callbacks=[reader(point)])
    (finding,) = caught.value.findings
    assert finding.kind == "read before write" and "'model.grads', which is of no use after train" in finding.message
    assert "gradient/backward until somebody writes it anew. Put the reader after train" in finding.message
    assert "/unscale" in finding.message.partition("Put the reader")[2]


@pytest.mark.parametrize(
    ("point", "tree"),
    [
        (lambda **given: before("update", **given), {}),
        (lambda **given: after("unscale", **given), {}),
        (lambda **given: after("average_gradients", **given), {"accumulate": 2}),
        (lambda **given: before("update", **given), {"accumulate": 2}),
    ],
    ids=["before update", "after unscale", "after average", "before update of a window"],
)
def test_reader_of_gradients_that_are_unscaled_is_accepted(point: Any, tree: Any) -> None:
    learner = toy_learner(stages=supervised(**tree), precision="fp16", callbacks=[reader(point)])
    learner.debug()
    learner.fit(epochs=1)
    assert learner.outcome.ok


def test_average_of_a_window_is_seen_without_the_scale() -> None:
    seen: list[float] = []
    for precision in ("fp32", "fp16"):
        torch.manual_seed(0)
        learner = toy_learner(train=overflowing(bad=()), stages=supervised(accumulate=2), precision=precision)
        learner.after("average_gradients")(lambda state: seen.append(state.model.weight.grad.item()))
        learner.fit(epochs=1)
    assert seen[2:] == pytest.approx(seen[:2], rel=1e-2)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda it: it.swap("backward", Backward()), "unscale and .*update read 'scaled', which nobody"),
        (lambda it: it.swap("update", Update()), "reads 'scaler.state', .* after .*/unscale .*such as ScaledUpdate"),
        (lambda it: it.remove("unscale"), "update reads 'model.grads', which is of no use after .*such as Unscale()"),
    ],
    ids=["a backward that does not scale", "an update that does not adapt", "nobody unscales"],
)
def test_edit_that_takes_one_of_the_three_away_is_refused(edit: Any, match: str) -> None:
    learner = toy_learner(precision="fp16")
    learner.fit(epochs=1)
    before_it = repr(learner)
    with pytest.raises(GraphError, match=match):
        edit(learner)
    assert repr(learner) == before_it
    updates = learner.state.updates
    learner.fit(epochs=1)
    assert learner.state.updates == updates + 8


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda it: it.swap("backward", ScaledBackward()), "update reads 'model.grads', which is of no use after"),
        (lambda it: it.swap("update", ScaledUpdate()), "update reads 'scaled', which nobody in this tree writes"),
        (lambda it: it.insert(Unscale(), before="update"), "unscale reads 'scaled', which nobody in this tree writes"),
    ],
    ids=["scaled only", "updated only", "unscaled only"],
)
def test_one_of_the_three_alone_is_refused(edit: Any, match: str) -> None:
    with pytest.raises(GraphError, match=match):
        edit(toy_learner())


def test_stage_of_a_users_own_that_scales_takes_the_place_of_backward() -> None:
    @stage(state=TrainState, writes=("scaled",), touches=("model.grads", "scaler.state"))
    def differentiate(loss: Tensor, scaler: Any) -> bool:
        scaler.scale(loss).backward()
        return True

    losses = []
    for is_own in (False, True):
        learner = toy_learner(precision="fp16")
        if is_own:
            learner.swap("backward", differentiate)
        learner.debug()
        losses.append(learner.fit(epochs=2)["train_loss"])
    assert losses[0] == losses[1]


def test_skipped_update_is_an_outcome_to_hooks_and_on_record() -> None:
    learner = toy_learner(train=overflowing(), precision="fp16")
    seen: list[tuple[str, str]] = []
    learner.after("update")(lambda state, outcome: seen.append((outcome.kind, outcome.reason)))
    learner.debug()
    learner.fit(epochs=1)
    assert [kind for kind, _ in seen] == ["ok", "skipped", "ok", "ok"]
    assert "not finite" in seen[1][1]
    exits = learner.log.where(kind="exit", actor="*/fit/batch/update")
    assert [str(change.after).split(",")[0].split(":")[0] for change in exits] == ["ok", "skipped", "ok", "ok"]
    assert learner.state.updates == 3 and learner.state.batches_seen == 4
    assert learner.state.scaler.get_scale() == 2.0**15
    assert torch.isfinite(learner.state.model.weight).all()


def test_fit_for_so_many_updates_does_not_count_those_that_were_skipped() -> None:
    learner = toy_learner(train=overflowing(), precision="fp16")
    learner.fit(updates=4)
    assert learner.state.updates == 4 and learner.state.batches_seen == 5


def test_batch_whose_update_is_skipped_goes_on_to_its_after_hooks() -> None:
    learner = toy_learner(train=overflowing(), precision="fp16")
    seen: list[str] = []
    learner.after("batch", within="fit")(lambda state, outcome: seen.append(outcome.kind))
    learner.fit(epochs=1)
    assert seen == ["ok"] * 4


class OwnScaler(TrainState):
    scaler: GradScaler


def test_scaler_that_state_was_given_is_the_one_that_scales() -> None:
    model = nn.Linear(1, 1)
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = OwnScaler(model=model, optimizer=optimizer, loss_fn=nn.functional.mse_loss, scaler=scaler)
    learner = Learner.from_state(state, supervised(valid=False), train=overflowing(bad=()), precision="fp16")
    learner.fit(epochs=1)
    assert scaler.get_scale() == 32.0, "doubled after each two updates"


class Pair(TrainState):
    other: nn.Module
    other_optimizer: torch.optim.Optimizer
    other_updates: int = 0
    other_loss: Tensor = field(scope="batch")


@stage(state=Pair, writes=("loss",))
def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(inputs), targets)


def pair_of() -> Pair:
    torch.manual_seed(0)
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    for model in (first, second):
        nn.init.constant_(model.weight, 0.1)
        nn.init.zeros_(model.bias)
    return Pair(
        model=first,
        other=second,
        optimizer=torch.optim.SGD(first.parameters(), lr=0.1),
        other_optimizer=torch.optim.SGD(second.parameters(), lr=0.1),
    )


OTHER = {
    "model": "other",
    "optimizer": "other_optimizer",
    "updates": "other_updates",
    "loss": "other_loss",
}


def test_second_model_may_have_a_scaler_of_its_own() -> None:
    """Only the second one's loss overflows; only its scale goes down."""
    steps = (ClearGradients(), loss_of, ScaledBackward(), Unscale(), ScaledUpdate())

    @stage(state=Pair, writes=("targets",))
    def far(targets: Tensor) -> Tensor:
        return torch.full_like(targets, 1e38)

    own = Chain(*steps).bind(**OTHER, scaler="other_scaler", scaled="other_scaled")
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), first=Chain(*steps), far=far, second=own))))
    state = pair_of()
    learner = Learner.from_state(state, tree, train=overflowing(bad=()))
    learner.debug()
    start = state.other.weight.clone()
    learner.fit(epochs=1)
    assert (state.updates, state.other_updates) == (4, 0)
    assert (state.scaler.get_scale(), state.other_scaler.get_scale()) == (2.0**16, 2.0**12)
    assert torch.equal(state.other.weight, start)


@pytest.mark.parametrize("is_flat", [False, True])
def test_two_models_in_one_tree_are_each_unscaled_before_their_update(is_flat: bool) -> None:
    """Also where both updates stand side by side in one composite."""
    first = {"clear": ClearGradients(), "losses": Chain(loss=loss_of), "backward": Backward(), "update": Update()}
    used = {
        "clear": ["optimizer"],
        "losses": ["loss"],
        "backward": ["loss", "optimizer"],
        "update": ["optimizer", "updates"],
    }
    names = {slot: {own: OTHER[own] for own in ("model", *used[slot])} for slot in used}
    second = {f"{slot}_2": part.bind(**names[slot]) for slot, part in Chain(**first).stages.items()}
    chains = {"first": Chain(**first), "second": Chain(**first).bind(**OTHER)}
    parts = {**first, **second} if is_flat else chains
    weights = []
    for precision in ("fp32", "fp16"):
        state = pair_of()
        torch.manual_seed(1)
        tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), **parts))))
        learner = Learner.from_state(state, tree, train=overflowing(bad=()), precision=precision)
        learner.debug()
        learner.fit(epochs=1)
        assert state.updates == state.other_updates == 4
        weights += [state.model.weight.item(), state.other.weight.item()]
    assert weights[2:] == pytest.approx(weights[:2], rel=1e-2)


def test_tree_that_scales_already_is_left_as_it_is() -> None:
    tree = scaled(supervised())
    again = scaled(tree)
    slots = ["unpack", "clear_gradients", "gradient", "unscale", "update"]
    assert list(again.epoch.fit.batch.stages) == list(tree.epoch.fit.batch.stages) == slots
    assert toy_learner(stages=tree, precision="fp16").fit(epochs=1)["train_loss"][0] > 0


def test_window_is_unscaled_once_before_it_is_averaged() -> None:
    fit = scaled(supervised(accumulate=2)).epoch.fit
    assert list(fit.stages) == ["clear_gradients", "window", "unscale", "average_gradients", "update"]
