"""Bisect: two trees run on the same, and the first stage or hook is told that leaves something else."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Callback, Learner, TrainState, around, before, field, stage
from learner.callbacks import Capture, ClipGradients
from learner.errors import ArgumentError
from learner.replay import Captured
from learner.testing import toy_learner
from state.errors import SnapshotError

BATCH = "train/epoch/fit/batch"


@stage(writes=("loss",))
def mean_distance(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


def deep(*callbacks: Any, seed: int = 0) -> Learner:
    """A Learner with dropout and BatchNorm, so that generators and buffers matter."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    data = [(torch.randn(5, 3), torch.randn(5, 1)) for _ in range(4)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return Learner(model, nn.MSELoss(), optimizer, train=data, callbacks=callbacks, device="cpu", seed=2)


def run_with_capture(*callbacks: Any, batch: int = 2) -> tuple[Learner, Captured]:
    capture = Capture(epoch=0, batch=batch)
    learner = deep(capture, *callbacks)
    learner.fit(epochs=1)
    assert capture.captured is not None
    return learner, capture.captured


def tensors(learner: Learner) -> list[Tensor]:
    return [value.clone() for value in learner.state.model.state_dict().values()] + [torch.get_rng_state()]


def test_tree_agrees_with_itself_and_with_another_of_the_same_stages() -> None:
    learner, captured = run_with_capture()
    for other in (None, deep(seed=5)):
        found = learner.bisect(captured, other)
        assert not found and found.kind == "none"
        assert str(found) == "The two trees left the same after each of 7 stages and hooks, in all that both have."


def test_swapped_stage_is_the_first_that_differs_and_what_it_reads_agrees() -> None:
    learner, captured = run_with_capture()
    found = learner.bisect(captured, swap={"loss": mean_distance})
    assert (found.kind, found.actors, found.names) == ("value", (f"{BATCH}/gradient/loss",) * 2, ("loss",))
    assert found.position is not None and found.position.batch == 2
    again = [learner.replay(captured, swap=swap).frame.loss for swap in ({}, {"loss": mean_distance})]
    assert (found.first["loss"], found.second["loss"]) == (again[0], again[1])
    assert dict(found.inputs) == {
        "loss_fn": "agrees by fingerprint",
        "rng": "agrees by fingerprint",
        "outputs": "agrees by fingerprint",
        "targets": "agrees by fingerprint",
    }
    assert "supervised.py" in str(found) and "test_parting.py" in str(found)


def test_functions_and_settings_of_modules_that_differ_are_told() -> None:
    learner, captured = run_with_capture()
    other = deep(seed=5)
    other.state.model[2].p = 0.1
    other.state.loss_fn = nn.functional.mse_loss
    found = learner.bisect(captured, other)
    assert found.names == ("outputs",) and dict(found.inputs)["model"] == "differs since the start"
    assert "  model differed at the start" in found.told

    toy = toy_learner()
    capture = toy.capture()
    found = toy.bisect(capture, toy_learner(loss_fn=nn.functional.l1_loss), "fit")
    assert found.names == ("loss",) and dict(found.inputs)["loss_fn"] == "was not compared"
    assert found.unread == ("loss_fn",)


def test_hook_that_only_one_tree_has_is_told_where_it_changes_something() -> None:
    learner, captured = run_with_capture()
    found = learner.bisect(captured, deep(ClipGradients(0.01), seed=5))
    assert (found.kind, found.names) == ("turns", ("model.grads",))
    assert found.actors == (None, f"{BATCH}/update:before:ClipGradients.clip")
    assert "first tree:  nothing ran there" in str(found)


def test_hook_that_changes_nothing_that_both_have_is_no_parting() -> None:
    learner, captured = run_with_capture()
    assert not learner.bisect(captured, deep(ClipGradients(1e9), seed=5))


def test_change_that_nobody_declares_is_held_against_who_made_it() -> None:
    @stage(writes=("loss",))
    def spoils_weights(model: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
        model[0].bias.data.add_(1e-3)
        return nn.functional.mse_loss(outputs, targets)

    learner, captured = run_with_capture()
    found = learner.bisect(captured, swap={"loss": spoils_weights})
    assert (found.actors[1], found.names) == (f"{BATCH}/gradient/loss", ("model.params",))
    assert list(found.second) == ["model.params.0.bias"]


def test_hook_around_a_stage_is_seen_on_its_way_in() -> None:
    class Shifted(Callback):
        @around("fit/batch/gradient/forward", reads=("inputs",), writes=("inputs",))
        def shift(self, state: TrainState) -> Any:
            state.inputs = state.inputs + 1
            yield

    learner, captured = run_with_capture()
    found = learner.bisect(captured, deep(Shifted(), seed=5))
    assert found.actors == (None, f"{BATCH}/gradient/forward:around:Shifted.shift")
    assert found.names == ("inputs",)


def test_random_numbers_that_only_one_tree_draws_are_told_before_what_they_change() -> None:
    @stage(writes=("inputs", "targets"), touches=("rng",))
    def draws(batch: Any) -> Any:
        torch.rand(1)
        return batch

    learner, captured = run_with_capture()
    found = learner.bisect(captured, swap={"fit/batch/unpack": draws})
    assert (found.actors[1], found.names) == (f"{BATCH}/unpack", ("rng",))


def test_stage_that_is_not_the_same_twice_is_noise_and_nobody_is_blamed_for_it() -> None:
    own = torch.Generator()

    @stage(writes=("outputs",), touches=("model.buffers", "rng"))
    def noisy(model: nn.Module, inputs: Tensor) -> Tensor:
        outputs: Tensor = model(inputs)
        return outputs + torch.randn(outputs.shape, generator=own)

    learner, captured = run_with_capture()
    found = learner.bisect(captured, swap={"fit/batch/gradient/forward": noisy})
    assert (found.kind, found.names) == ("noise", ("outputs",))
    assert "when the second tree was run again on the same" in str(found)


def test_whole_pass_tells_the_batch_in_which_two_trees_part() -> None:
    learner, other = toy_learner(), toy_learner()

    @other.after("fit/batch/gradient/forward", reads=("outputs", "batch_index"), writes=("outputs",))
    def scale(outputs: Tensor, batch_index: int) -> Tensor:
        return outputs * 1.01 if batch_index == 5 else outputs

    learner.fit(epochs=1)
    for path, batches in (("fit", None), ("train", 20)):
        found = learner.bisect(learner.capture(), other, path, batches=batches)
        assert found.actors == (None, f"{BATCH}/gradient/forward:after:scale")
        assert found.position is not None and (found.position.epoch, found.position.batch) == (1, 5)
    assert not learner.bisect(learner.capture(), other, "train", batches=5)


def test_states_generators_loaders_and_logs_stay_as_they_were() -> None:
    learner, captured = run_with_capture()
    other = deep(ClipGradients(0.01), seed=5)
    other.fit(epochs=1)
    before, records = [tensors(learner), tensors(other)], (len(learner.log), len(other.log))
    learner.bisect(captured, other)
    for one, then in zip((learner, other), before, strict=True):
        for value, held in zip(tensors(one), then, strict=True):
            assert torch.equal(value, held)
    assert (len(learner.log), len(other.log)) == records


def test_setting_that_only_one_tree_has_stays_and_what_follows_from_it_is_told() -> None:
    class Scaled(TrainState):
        scale: float = field(scope="run", default=0.5)

    @stage(state=Scaled, writes=("loss",))
    def scaled_loss(outputs: Tensor, targets: Tensor, scale: float) -> Tensor:
        return nn.functional.mse_loss(outputs, targets) * scale

    learner, captured = run_with_capture()
    found = learner.bisect(captured, swap={"loss": scaled_loss})
    assert found.first["loss"] == found.second["loss"] * 2
    assert dict(found.inputs)["scale"] == "is in one of the two trees only"


def test_settings_of_an_optimizer_come_from_what_was_captured() -> None:
    learner, captured = run_with_capture()
    other = deep(seed=5)
    other.state.optimizer.param_groups[0]["lr"] = 0.2
    assert not learner.bisect(captured, other)
    assert other.state.optimizer.param_groups[0]["lr"] == 0.2

    class Faster(Callback):
        @before("update", writes=("optimizer.hyper.lr",))
        def faster(self, optimizer: Any) -> None:
            optimizer.param_groups[0]["lr"] = 0.2

    found = learner.bisect(captured, deep(Faster(), seed=5))
    assert found.names == ("optimizer.hyper",) and found.second["optimizer.hyper.lr"] == 0.2


def test_state_of_an_optimizer_is_told_by_the_names_of_the_parameters() -> None:
    learner, captured = run_with_capture()

    @stage(writes=("model.params", "optimizer.state", "updates"))
    def update_and_forget(optimizer: Any, model: nn.Module, updates: int) -> int:
        optimizer.step()
        optimizer.state[model[0].weight]["exp_avg"].zero_()
        return updates + 1

    found = learner.bisect(captured, swap={"update": update_and_forget})
    assert list(found.first) == ["optimizer.state.model.0.weight.exp_avg"]
    assert "12 of 12 elements of float32[4, 3] differ" in str(found)


def test_state_that_does_not_take_what_was_captured_is_refused_and_unchanged() -> None:
    learner, captured = run_with_capture()
    other = toy_learner()
    before = tensors(other)
    told = r"^What was captured does not fit the State of this Learner:(.|\n)*model\.0\.weight is in it and not in the"
    with pytest.raises(SnapshotError, match=told):
        learner.bisect(captured, other)
    for value, held in zip(tensors(other), before, strict=True):
        assert torch.equal(value, held)


@pytest.mark.parametrize("ask", [Learner.bisect, Learner.replay])
def test_tree_that_would_run_for_ever_is_refused(ask: Any) -> None:
    learner = toy_learner()
    with pytest.raises(ArgumentError, match="train runs epochs for ever. Name a part of it"):
        ask(learner, learner.capture())
