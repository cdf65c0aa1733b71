"""Gradients in checkpoints: kept where somebody may still want them, left out where the next round clears them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learner import Learner, before, supervised
from learner.callbacks import Checkpoint
from learner.checkpoints import Checkpoints
from learner.testing import toy_learner
from state.bundle import read_bundle
from state.snapshot import VALUES


def with_gradients(learner: Learner) -> list[tuple[int | None, int]]:
    """The epoch and the batches seen at each checkpoint that has gradients."""
    assert learner.run_dir is not None
    found = []
    for kept in Checkpoints(learner.run_dir):
        bundle = read_bundle(kept.path)
        if any(name.endswith(".grad") for name in bundle.tensors[VALUES]):
            fields = bundle.documents["state"]["fields"]
            found.append((bundle.documents["run"]["position"][0], fields["batches_seen"]["value"]))
    return found


def fitted(run_dir: Path, *callbacks: Any, every: str = "1 batches", **settings: Any) -> Learner:
    """Two epochs of eight batches, with many checkpoints."""
    learner = toy_learner(callbacks=[*callbacks, Checkpoint(every, keep=None)], run_dir=run_dir, **settings)
    learner.fit(epochs=2)
    return learner


def test_they_are_left_out_where_another_batch_follows(tmp_path: Path) -> None:
    assert with_gradients(fitted(tmp_path)) == [(0, 8), (1, 16), (None, 16)]


def test_they_are_kept_in_the_middle_of_a_window(tmp_path: Path) -> None:
    tree = supervised(accumulate=3)
    inside = [(batch // 8, batch + 1) for batch in range(16)]
    assert with_gradients(fitted(tmp_path / "batches", stages=tree)) == [*inside, (None, 16)]
    updates = fitted(tmp_path / "updates", stages=tree, every="1 updates")
    assert with_gradients(updates) == [(0, 8), (1, 16), (None, 16)]


@before("batch", reads=("model.grads?",))
def look_back(state: Any) -> None: ...


def test_they_are_kept_where_somebody_reads_those_of_the_batch_before(tmp_path: Path) -> None:
    assert len(with_gradients(fitted(tmp_path, look_back))) == 17


class Endless:
    """A loader that does not know its length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.ones(2, 1), torch.ones(2, 1))] * 3)


def test_they_are_kept_between_batches_of_a_loader_without_a_length(tmp_path: Path) -> None:
    assert with_gradients(fitted(tmp_path, train=Endless())) == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 4),
        (1, 5),
        (1, 6),
        (None, 6),
    ]


def test_those_are_kept_that_no_optimizer_clears(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    data = [(torch.ones(2, 1), torch.ones(2, 1))] * 3
    learner = Learner(
        model, nn.MSELoss(), optimizer, train=data, device="cpu", run_dir=tmp_path, callbacks=[Checkpoint("2 batches")]
    )
    learner.fit(epochs=1)
    assert learner.run_dir is not None
    first = read_bundle(next(iter(Checkpoints(learner.run_dir))).path)
    assert {name for name in first.tensors[VALUES] if name.endswith(".grad")} == {
        "model.0.weight.grad",
        "model.0.bias.grad",
    }


def test_loading_one_leaves_none_of_those_that_were_there(tmp_path: Path) -> None:
    learner = fitted(tmp_path)
    assert learner.run_dir is not None and learner.state.model.weight.grad is not None
    learner.load(next(iter(Checkpoints(learner.run_dir))).path)
    assert learner.state.model.weight.grad is None


def test_saving_at_rest_keeps_them(tmp_path: Path) -> None:
    learner = toy_learner()
    learner.fit(batches=3)
    grad = learner.state.model.weight.grad
    assert grad is not None
    learner.save(tmp_path / "one")
    other = toy_learner()
    other.load(tmp_path / "one")
    assert other.state.model.weight.grad is not None and torch.equal(other.state.model.weight.grad, grad)
