"""Watching with then="capture": the batch of the first hit can be run again from before it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import ArgumentError, Learner
from learner.replay import Captured
from learner.testing import toy_learner


def spoiling(at: int = 3, **settings: Any) -> Learner:
    """A Learner with dropout, and a hook that spoils the outputs of one batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    data = [(torch.randn(5, 1), torch.randn(5, 1)) for _ in range(6)]
    optimizer = torch.optim.Adam(model.parameters())
    learner = Learner(model, nn.MSELoss(), optimizer, train=data, valid=data[:1], device="cpu", seed=1, **settings)

    @learner.after("fit/batch/gradient/forward", reads=("outputs", "batch_index"), writes=("outputs",))
    def spoil(outputs: Tensor, batch_index: int) -> Tensor:
        return outputs * math.nan if batch_index == at else outputs

    return learner


def test_batch_of_the_first_hit_is_replayed_from_before_it() -> None:
    learner, seen = spoiling(), list[Any]()
    watcher = learner.watch("loss", nonfinite=True, then="capture")

    @learner.before("update")
    def note(state: Any) -> None:
        if (state.epoch, state.batch_index) == (0, 3):
            seen.extend((state.inputs.clone(), state.model[0].weight.detach().clone()))

    assert watcher.captured is None and watcher.hit is None
    learner.fit(epochs=2)
    assert watcher.captured is not None and watcher.hit is not None
    assert (watcher.hit.name, watcher.hit.position.epoch, watcher.hit.position.batch) == ("loss", 0, 3)
    assert watcher.captured.position.batch == 3
    replayed = learner.replay(watcher.captured)
    assert replayed.frame.loss.isnan() and torch.equal(replayed.frame.inputs, seen[0])
    before = learner.replay(watcher.captured, "fit/batch/unpack").tensors["model.0.weight"]
    assert torch.equal(before, seen[1]), "the weights that the batch found"


def test_nothing_is_taken_down_after_the_first_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    real = Captured.of

    def counted(*args: Any) -> Captured:
        taken.append(args)
        return real(*args)

    monkeypatch.setattr(Captured, "of", counted)
    learner = spoiling()
    learner.watch("loss", nonfinite=True, then="capture")
    learner.fit(epochs=2)
    assert len(taken) == 4


def test_hit_in_an_evaluation_is_replayed_in_its_mode() -> None:
    learner = spoiling(at=-1)
    watcher = learner.watch("inputs", when=lambda inputs: not learner.state.model.training, then="capture")
    learner.fit(epochs=1)
    assert watcher.captured is not None and watcher.captured.path == "train/epoch/validate/batch"
    assert torch.equal(
        learner.replay(watcher.captured).frame.outputs, learner.state.model.eval()(learner.state.valid_loader[0][0])
    )


def test_capturing_changes_no_bit_of_the_run() -> None:
    plain, watched = spoiling(at=-1), spoiling(at=-1)
    watched.watch("loss", nonfinite=True, then="capture")
    for learner in (plain, watched):
        learner.fit(epochs=2)
    for one, other in zip(plain.state.model.parameters(), watched.state.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_nobody_writes_inside_a_batch_is_refused() -> None:
    learner = toy_learner()
    with pytest.raises(ArgumentError, match="nobody inside it writes 'train_loss'.*Mean.result"):
        learner.watch("train_loss", nonfinite=True, then="capture")
    assert list(learner.hooks) == list(toy_learner().hooks) and not any(learner._bound.watchers.values())


def test_unwatch_takes_its_hook_away() -> None:
    learner = toy_learner()
    watcher = learner.watch("model.params.weight", above=1, then="capture")
    assert "CaptureHit.take" in list(learner.hooks)
    learner.unwatch(watcher)
    assert list(learner.hooks) == list(toy_learner().hooks)
