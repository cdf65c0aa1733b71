"""An evaluation in the middle of an epoch: every so many batches, with the batch of the training intact afterwards."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Cancel, Learner, supervised
from learner.recipes import validate
from learner.testing import toy_learner
from stages import AmbiguousSlot, Every


def evaluating(text: str = "2 batches", *, accumulate: int | None = None, callbacks: Any = ()) -> Learner:
    tree = supervised(valid=False, accumulate=accumulate)
    after = "fit/batch" if accumulate is None else "fit/update"
    return toy_learner(stages=tree.insert(Every(text, validate()), after=after), callbacks=callbacks)


NAMES = ("inputs", "targets", "outputs", "loss", "batch", "batches", "batch_index", "epoch", "updates", "scratch")


def outside(state: Any) -> dict[str, Any]:
    """What the batch of the training has, by identity, and the modes it runs in."""
    values = {name: getattr(state, name) for name in NAMES if state.ready(name)}
    held = {name: value if isinstance(value, int) else id(value) for name, value in values.items()}
    return {**held, "modes": (state.model.training, torch.is_grad_enabled())}


def test_batch_of_the_training_is_intact_after_an_evaluation_inside_it() -> None:
    learner, before, after, inside = evaluating(), list[Any](), list[Any](), list[Any]()
    learner.before("every")(lambda state: before.append(outside(state)))
    learner.after("every")(lambda state: after.append(outside(state)))
    learner.after("validate_loss")(lambda state: inside.append((*outside(state)["modes"], state.batch_index)))
    learner.fit(epochs=1)
    assert before == after and len(before) == 8
    assert {*NAMES} == before[0].keys() - {"modes"}
    assert before[3]["batch_index"] == 3 and before[0]["modes"] == (True, True)
    assert inside == [(False, False, 0), (False, False, 1)] * 4


def test_evaluation_inside_the_epoch_changes_nothing_of_the_training() -> None:
    ours, theirs = evaluating(), toy_learner()
    ours.fit(epochs=2)
    theirs.fit(epochs=2)
    assert torch.equal(ours.state.model.weight, theirs.state.model.weight)
    assert ours.history["train_loss"] == theirs.history["train_loss"]
    assert ours.history["valid_loss"] == theirs.history["valid_loss"], "the last one of the epoch is kept"
    assert (ours.state.batches_seen, ours.state.samples_seen) == (16, 128)


@pytest.mark.parametrize(
    ("scope", "updates", "outcome"),
    [("batch", 8, "ok"), ("phase", 8, "ok"), ("epoch", 2, "ok"), ("run", 2, "cancelled")],
)
def test_cancel_inside_the_evaluation_ends_the_innermost_scope_of_that_name(
    scope: str, updates: int, outcome: str
) -> None:
    learner, seen = evaluating(), list[Any]()

    @learner.after("validate/batch/forward")
    def stop(state: Any) -> None:
        raise Cancel(scope, "enough")

    learner.after("every")(lambda state: seen.append(outside(state)["modes"]))
    learner.fit(epochs=1)
    assert (learner.state.updates, learner.outcome.kind) == (updates, outcome)
    assert set(seen) == {(True, True)}


def test_failure_inside_the_evaluation_leaves_the_modes_of_the_training() -> None:
    learner = evaluating()
    learner.after("validate/batch/forward")(lambda loss_fn: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        learner.fit(epochs=1)
    assert "at epoch 0, validate, batch 0, update 2" in caught.value.__notes__[0]
    assert outside(learner.state)["modes"] == (True, True)


def test_evaluation_between_two_windows_sees_whole_updates() -> None:
    learner, seen = evaluating("2 updates", accumulate=3), list[int]()
    learner.before("validate")(lambda state: seen.append(state.updates))
    learner.fit(epochs=2)
    assert seen == [2, 4, 6]
    assert learner.history["valid_loss"][-1] > 0


def test_limit_of_the_run_may_come_right_after_an_evaluation() -> None:
    learner, seen = evaluating(), list[int]()
    learner.after("validate")(lambda state: seen.append(state.updates))
    learner.fit(batches=4)
    assert (seen, learner.state.batches_seen, learner.outcome.reason) == ([2, 4], 4, "fit(batches=4)")


def test_evaluation_may_stand_inside_the_epoch_and_at_its_end() -> None:
    learner = evaluating()
    learner.insert(validate(), after="epoch/fit")
    learner.fit(epochs=1)
    assert learner.check() == []
    assert learner.validate()["valid_loss"] == learner.history["valid_loss"][-1]
    with pytest.raises(AmbiguousSlot, match="'validate' fits 2 places"):
        learner.remove("validate")
    assert learner.predict([torch.ones(2, 1)]).shape == (2, 1)


def test_loop_by_hand_that_validates_every_third_batch(proves_equal: Any, losses_of: Any) -> None:
    def build() -> SimpleNamespace:
        inputs, labels = torch.randn(60, 5), torch.randint(0, 3, (60,))
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
        return SimpleNamespace(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=0.01),
            train=DataLoader(TensorDataset(inputs[:44], labels[:44]), batch_size=4, shuffle=True),
            valid=DataLoader(TensorDataset(inputs[44:], labels[44:]), batch_size=8),
        )

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        model, losses, done = parts.model, [], 0
        for _ in range(2):
            model.train()
            for inputs, labels in parts.train:
                parts.optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs), labels)
                loss.backward()
                parts.optimizer.step()
                losses.append(loss.detach())
                done += 1
                if done % 3 == 0:
                    model.eval()
                    with torch.no_grad():
                        losses += [F.cross_entropy(model(inputs), labels) for inputs, labels in parts.valid]
                    model.train()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        tree = supervised(valid=False).insert(Every("3 batches", validate()), after="fit/batch")
        loaders = {"train": parts.train, "valid": parts.valid}
        learner = Learner(parts.model, F.cross_entropy, parts.optimizer, stages=tree, device="cpu", **loaders)
        losses: list[Tensor] = losses_of(learner, 2)
        return losses

    proves_equal(build, by_hand, staged)
