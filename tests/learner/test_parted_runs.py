"""Where two runs part whose trees or seeds are not the same."""

from typing import Any

import torch
from torch import nn

from learner import ChangeLog, Learner, TensorBatches, stage
from learner.callbacks import ClipGradients
from learner.testing import toy_learner

BATCH = "train/epoch/fit/batch"


def test_past_another_structure_the_first_value_that_differs_is_told_too() -> None:
    plain, other = toy_learner(audit="full"), toy_learner(audit="full")
    plain.fit(epochs=1)

    @other.after("update", writes=("optimizer.hyper",))
    def raise_rate(optimizer: torch.optim.SGD, updates: int) -> None:
        optimizer.param_groups[0]["lr"] = 0.2

    other.fit(epochs=1)
    found = plain.log.diff(other.log)
    assert found.kind == "structure"
    assert found.told[0] == f"stage or hook {BATCH}/update:after:raise_rate: only in the second run"
    assert found.ours is not None and (found.ours.actor, found.ours.position.batch) == (f"{BATCH}/update", 1)
    look = toy_learner(audit="full")
    look.after("update")(lambda state: None)
    look.fit(epochs=1)
    assert str(plain.log.diff(look.log)).endswith("what both wrote is, as far as their logs tell.")


def test_hook_that_writes_where_the_other_run_writes_nothing_hides_no_later_difference() -> None:
    def program(is_bad: bool) -> Learner:
        learner = toy_learner(audit="full", valid=None)
        if is_bad:

            @learner.before("/", writes=("optimizer.hyper",))
            def begin(optimizer: torch.optim.SGD) -> None:
                optimizer.param_groups[0]["lr"] = 0.01

        learner.fit(epochs=1)
        return learner

    found = program(False).log.diff(program(True).log)
    assert found.kind == "structure" and found.ours is not None
    assert (found.ours.actor, found.ours.position.batch) == (f"{BATCH}/update", 0)


def test_stage_that_was_moved_is_told_by_the_edits_of_the_tree() -> None:
    @stage(writes=("inputs",))
    def double(inputs: torch.Tensor) -> torch.Tensor:
        return inputs * 2

    def with_stage(after: str) -> Learner:
        learner = toy_learner(audit="full", valid=None)
        learner.insert(double, after=after)
        learner.fit(epochs=1)
        return learner

    found = with_stage("fit/batch/unpack").log.diff(with_stage("fit/batch/gradient").log)
    batch = "insert double after train/epoch/fit/batch"
    places = f"{batch}/unpack in the first run, {batch}/gradient in the second"
    assert found.told[0] == f"edits of the tree: {places}"
    assert found.ours is not None and found.ours.field == "model.grads", "of a model that begins at zero"


def test_settings_of_stages_and_hooks_are_told_before_what_came_of_them() -> None:
    def clipped(max_norm: float) -> ChangeLog:
        learner = toy_learner(callbacks=[ClipGradients(max_norm)], valid=None)
        learner.fit(epochs=1)
        return learner.log

    found = clipped(1.0).diff(clipped(0.1))
    path = f"{BATCH}/update:before:ClipGradients.clip"
    assert found.kind == "structure" and found.ours is not None
    assert found.told[0] == f"settings of {path}: max_norm=1.0 in the first run, max_norm=0.1 in the second"
    assert not clipped(1.0).diff(clipped(1.0))


def test_weights_that_are_tied_are_no_other_start_than_equal_ones() -> None:
    def two_layers(*, is_tied: bool) -> ChangeLog:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        model[1].weight = model[0].weight if is_tied else nn.Parameter(model[0].weight.detach().clone())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        data = [(torch.ones(4, 1), torch.ones(4, 1))] * 3
        learner = Learner(model, nn.MSELoss(), optimizer, train=data, device="cpu", audit="full")
        learner.fit(epochs=1)
        return learner.log

    found = two_layers(is_tied=True).diff(two_layers(is_tied=False))
    assert found.kind == "value" and found.ours is not None and found.ours.position.batch == 0
    assert dict(found.inputs).get("model.params", "agrees by fingerprint") == "agrees by fingerprint"


def test_another_seed_is_told_first() -> None:
    def seeded(seed: int, train: Any) -> ChangeLog:
        learner = toy_learner(seed=seed, train=train, valid=None)
        learner.fit(epochs=1)
        return learner.log

    inputs = torch.linspace(-1, 1, 32).view(32, 1)
    found = seeded(1, shuffled := TensorBatches(inputs, 3 * inputs, batch_size=8, shuffle=True)).diff(
        seeded(2, shuffled)
    )
    assert found.told[0] == "rng: seed 1 and seed 2 at the start"
    assert found.kind == "value" and found.ours is not None and found.ours.field == "loss"
    assert not seeded(1, [(inputs, inputs)]).diff(seeded(2, [(inputs, inputs)])), "nobody draws from them"


def test_what_was_changed_in_place_is_hinted_at_where_all_inputs_agree() -> None:
    def overwritten(is_bad: bool) -> Learner:
        learner = toy_learner(audit="full")

        @learner.after("fit/batch")
        def look(state: Any) -> None:
            if is_bad and state.batches_seen == 6:
                state.model.weight.data.zero_()

        learner.fit(epochs=2)
        return learner

    found = overwritten(False).log.diff(overwritten(True).log)
    assert ("model.params", "agrees by fingerprint") in found.inputs
    assert str(found).endswith("not declared, learner.debug() finds.")


def test_where_gradients_are_the_first_to_differ_it_is_said_that_graphs_were_not_compared() -> None:
    def detached(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.mse_loss(outputs, targets)
        return loss / 2 + loss.detach() / 2

    def of(loss_fn: Any) -> ChangeLog:
        model = nn.Linear(1, 1)
        for parameter in model.parameters():
            nn.init.ones_(parameter)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        data = [(torch.ones(4, 1), torch.ones(4, 1))] * 3
        learner = Learner(model, loss_fn, optimizer, train=data, device="cpu", audit="full")
        learner.fit(epochs=1)
        return learner.log

    found = of(nn.functional.mse_loss).diff(of(detached))
    assert found.ours is not None and found.ours.field == "model.grads"
    assert (
        dict(found.inputs)["loss"] == "agrees by value"
        and dict(found.inputs)["model.params"] == "agrees by fingerprint"
    )
    assert dict(found.inputs)["model.grads"] == "was not measured"
    assert str(found).endswith("look also at who made what a backward pass goes back to.")
