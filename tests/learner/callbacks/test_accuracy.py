"""Accuracy: exact counts per phase, and what it refuses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.callbacks import Accuracy
from learner.errors import ArgumentError
from stages import GraphError


def test_valid_accuracy_is_the_count_by_hand(make: Any, batches: Any) -> None:
    learner = make(Accuracy())
    history = learner.fit(epochs=2)
    with torch.no_grad():
        right = sum(int((learner.state.model(x).argmax(1) == y).sum()) for x, y in batches[:2])
    assert history["valid_accuracy"][-1] == right / 16
    assert len(history["train_accuracy"]) == 2


def test_counts_are_python_integers_in_state(make: Any) -> None:
    learner = make(Accuracy("top1"))
    kept: list[Any] = []
    learner.after("fit")(lambda state: kept.append((type(state.top1_sums.total), state.top1_sums.weight)))
    learner.fit(epochs=1)
    assert kept == [(int, 21)]
    assert "valid_top1" in learner.history.names


def test_two_accuracies_with_two_names_stand_side_by_side(make: Any) -> None:
    history = make(Accuracy(), Accuracy(name="again")).fit(epochs=1)
    assert history["valid_accuracy"] == history["valid_again"]


def test_classes_are_dimension_one_of_outputs_with_more_dimensions(make: Any) -> None:
    images = [(torch.randn(2, 1, 4, 4), torch.randint(0, 3, (2, 4, 4)))]
    learner = make(Accuracy(), model=nn.Conv2d(1, 3, 1), train=images, valid=images)
    history = learner.fit(epochs=1)
    with torch.no_grad():
        right = (learner.state.model(images[0][0]).argmax(1) == images[0][1]).double().mean()
    assert history["valid_accuracy"] == [float(right)]


@pytest.mark.parametrize(
    ("targets", "remedy"),
    [
        (torch.rand(8, 3), r"targets\.argmax\(1\)"),
        (torch.rand(8), r"targets\.long\(\)"),
        (torch.zeros(8, 2, dtype=torch.long), "Put the classes into dimension 1"),
    ],
    ids=["one score per class", "floating point", "another shape"],
)
def test_targets_that_are_no_class_indices_are_refused_with_a_remedy(make: Any, targets: Tensor, remedy: str) -> None:
    learner = make(Accuracy(), train=[(torch.randn(8, 4), targets)], valid=None, loss_fn=lambda o, t: o.sum())
    with pytest.raises(ArgumentError, match=remedy) as caught:
        learner.fit(epochs=1)
    assert caught.value.argument == "targets"
    assert "float32[8, 3]" in str(caught.value)


def test_outputs_without_a_dimension_of_classes_are_refused(make: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    data = [(torch.randn(8, 4), torch.ones(8))]
    learner = make(Accuracy(), model=model, train=data, valid=None, loss_fn=F.binary_cross_entropy_with_logits)
    with pytest.raises(ArgumentError, match="one score per sample") as caught:
        learner.fit(epochs=1)
    assert caught.value.argument == "targets"


def test_outputs_that_are_no_tensor_are_refused(make: Any) -> None:
    class Wrapped(nn.Linear):
        def forward(self, inputs: Tensor) -> Any:
            return {"scores": super().forward(inputs)}

    learner = make(Accuracy(), model=Wrapped(4, 3), loss_fn=lambda o, t: o["scores"].sum())
    with pytest.raises(ArgumentError, match="Name the fields that hold these tensors") as caught:
        learner.fit(epochs=1)
    assert caught.value.argument == "targets"


def test_outputs_that_nobody_writes_are_refused_before_anything_runs(make: Any) -> None:
    with pytest.raises(GraphError, match="'logits', but State has no such field") as caught:
        make(Accuracy(outputs="logits"))
    assert caught.value.findings[0].kind == "unknown field"


def test_accuracy_changes_no_bit_of_the_run(make: Any) -> None:
    with_it, without = make(Accuracy()), make()
    with_it.fit(epochs=2)
    without.fit(epochs=2)
    assert torch.equal(with_it.state.model.weight, without.state.model.weight)


@pytest.mark.gpu
def test_accuracy_on_a_gpu_is_that_of_the_cpu(make: Any, batches: Any) -> None:
    learner = make(Accuracy(), device="cuda")
    history = learner.fit(epochs=1)
    with torch.no_grad():
        right = sum(int((learner.state.model(x.cuda()).argmax(1).cpu() == y).sum()) for x, y in batches[:2])
    assert history["valid_accuracy"] == [right / 16]
