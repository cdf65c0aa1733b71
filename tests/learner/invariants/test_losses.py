"""Batches that make one update: told of where means over unequally many elements count alike, and nowhere else."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learner import InvariantWarning, Learner, field, stage, supervised
from learner.invariants.losses import _divisors
from stages import Backward
from state import TrainState

PAD = -100
NAME = "in one update a mean counts as much as what it is over"

LossFn = Callable[[Tensor, Tensor], Tensor]


def mean_over_tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, ignore_index=PAD)


def sum_over_tokens_by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum") / (targets != PAD).sum()


def masked_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return 0.5 * (losses * (targets != PAD)).sum() / (targets != PAD).sum() + 0.1 * outputs.square().mean()


def by_a_constant(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum") / 8


def mean_over_samples(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none").mean()


def batches(*tokens: int, sizes: tuple[int, ...] = ()) -> list[tuple[Tensor, Tensor]]:
    """Batches of 16 samples, or of these sizes, of which so many count."""
    torch.manual_seed(0)
    found = []
    for index, count in enumerate(tokens):
        inputs = torch.randn(sizes[index] if sizes else 16, 4)
        targets = inputs[:, :3].argmax(1)
        targets[count:] = PAD
        found.append((inputs, targets))
    return found


def told(loss_fn: LossFn, train: list[Any], **settings: Any) -> list[tuple[str, str]]:
    model = nn.Linear(4, 3)
    tree = supervised(valid=False, **settings)
    learner = Learner(model, loss_fn, torch.optim.SGD(model.parameters(), lr=0.1), train=train, stages=tree)
    return broken(learner)


def broken(learner: Learner) -> list[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InvariantWarning)
        learner.fit(epochs=2)
    return list(dict.fromkeys((row.evidence, row.actor.rpartition("/")[2]) for row in learner.log.violations()))


@pytest.mark.parametrize("loss_fn", [mean_over_tokens, sum_over_tokens_by_hand, masked_mean, nn.CrossEntropyLoss()])
def test_means_over_unequally_many_tokens_in_one_update_are_told_of(loss_fn: LossFn) -> None:
    assert told(loss_fn, batches(2, 14, 2, 14), accumulate=2) == [(NAME, "loss")]


def test_parts_of_one_batch_are_too() -> None:
    (inputs, targets), *_ = batches(16, 16)
    targets[4:] = torch.tensor([PAD, PAD, PAD, 1]).repeat(3)
    assert told(mean_over_tokens, [(inputs, targets)] * 2, microbatches=4) == [(NAME, "loss")]


@pytest.mark.parametrize(
    ("loss_fn", "train", "settings"),
    [
        (by_a_constant, batches(2, 14, 2, 14), {"accumulate": 2}),
        (mean_over_samples, batches(2, 14, 2, 14), {"accumulate": 2}),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 50.0])), batches(16, 16, 16, 16), {"accumulate": 2}),
        (mean_over_tokens, batches(12, 14, 13, 12), {"accumulate": 2}),
        (mean_over_tokens, batches(2, 2, 14, 14), {"accumulate": 2}),
        (mean_over_tokens, batches(2, 14, 2, 14), {}),
        (mean_over_tokens, batches(16, 16, 16, 3, sizes=(16, 16, 16, 3)), {"accumulate": 2}),
        (mean_over_tokens, batches(16, 16, sizes=(16, 16)), {"microbatches": 3}),
        (mean_over_tokens, batches(7, 7, sizes=(7, 7)), {"microbatches": 3, "accumulate": 2}),
    ],
)
def test_what_weighs_alike_is_no_finding(loss_fn: LossFn, train: list[Any], settings: Any) -> None:
    assert told(loss_fn, train, **settings) == []


def test_a_backward_of_ones_own_may_weigh_a_loss_and_nothing_is_said() -> None:
    class Weighing(Backward):
        def run(self, state: Any) -> None:
            self.differentiate(state.loss * 3, state)

    model = nn.Linear(4, 3)
    tree = supervised(valid=False, accumulate=2).swap("backward", Weighing())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert broken(Learner(model, mean_over_tokens, optimizer, train=batches(2, 14, 2, 14), stages=tree)) == []


def test_a_weight_that_makes_up_for_it_is_no_finding() -> None:
    class Weighted(TrainState):
        loss_weight: float = field(default=1.0, scope="batch")

    @stage(state=Weighted, writes=("loss_weight",))
    def weigh(targets: Tensor) -> float:
        return float((targets != PAD).sum()) / 8

    model = nn.Linear(4, 3)
    tree = supervised(valid=False, accumulate=2).insert(weigh, after="unpack")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert broken(Learner(model, mean_over_tokens, optimizer, train=batches(2, 14, 2, 14), stages=tree)) == []


def with_penalty(penalise: Callable[[Tensor, nn.Module], Tensor], **given: Any) -> list[tuple[str, str]]:
    """What is said of a hook that adds something to the loss, or of a second stage."""
    model = nn.Linear(4, 1)
    inputs = torch.randn(6, 8, 4)
    train = [(batch, batch.sum(1, keepdim=True)) for batch in inputs]
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.05), train=train)
    if given:
        learner.insert(stage(state=TrainState, writes=("loss",))(penalise), after="gradient/loss", slot="second")
    else:
        learner.after("gradient/loss", state=TrainState, writes=("loss",))(penalise)
    return broken(learner)


def of_data(loss: Tensor, model: nn.Module) -> Tensor:
    return loss + 0.1 * model.weight.data.square().sum()


def of_an_item(loss: Tensor, model: nn.Module) -> Tensor:
    return (loss + model.weight.square().sum().item()) / 2


def of_parameters(loss: Tensor, model: nn.Module) -> Tensor:
    return loss + 0.1 * model.weight.square().sum()


def of_no_weight(loss: Tensor, model: nn.Module) -> Tensor:
    return loss + 0.0 * model.weight.square().sum()


def scaled(loss: Tensor, model: nn.Module) -> Tensor:
    return loss * float(model.weight.shape[1])


@pytest.mark.parametrize("as_stage", [{}, {"as_stage": True}], ids=["hook", "stage"])
@pytest.mark.parametrize("penalise", [of_data, of_an_item])
def test_a_term_of_the_model_without_a_graph_is_told_of(penalise: Any, as_stage: Any) -> None:
    ((name, actor),) = with_penalty(penalise, **as_stage)
    assert name == "what is added to a loss is learnt from"
    assert actor == ("second" if as_stage else f"loss:after:{penalise.__name__}")


def switched_off(loss: Tensor, model: nn.Module) -> Tensor:
    return loss + 1e-3 * 0.0


@pytest.mark.parametrize("as_stage", [{}, {"as_stage": True}], ids=["hook", "stage"])
@pytest.mark.parametrize("penalise", [of_parameters, of_no_weight, scaled, switched_off])
def test_a_term_with_a_graph_and_a_factor_are_no_finding(penalise: Any, as_stage: Any) -> None:
    assert with_penalty(penalise, **as_stage) == []


def test_a_constant_that_is_no_term_of_the_model_is_no_finding() -> None:
    model = nn.Linear(4, 1)
    train = [(torch.randn(8, 4), torch.randn(8, 1)) for _ in range(6)]
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.05), train=train)

    @learner.after("gradient/loss", writes=("loss",))
    def flood(loss: Tensor) -> Tensor:  # Ishida et al. 2020
        return (loss - 0.1).abs() + 0.1

    assert broken(learner) == []


X = torch.randn(6, 3, requires_grad=True)
T = torch.tensor([0, 1, 2, PAD, 1, 0])
W = torch.tensor(2.0, requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "divisors"),
    [
        (F.cross_entropy(X, T), [5.0]),
        (F.cross_entropy(X, T, reduction="sum"), [1.0]),
        (4 * F.cross_entropy(X, T, reduction="sum") / torch.tensor(10), [2.5]),
        (F.mse_loss(X, torch.zeros(6, 3)), [18.0]),
        (F.l1_loss(X, torch.zeros(6, 3)), [18.0]),
        (F.binary_cross_entropy_with_logits(X, torch.zeros(6, 3)), [18.0]),
        (X.mean(1).mean(), [6.0]),
        (-(X.sum() / 3).float() - 2 * X.mean(), [3.0, 9.0]),
        (X.sum().log(), []),
        (W * X.mean(), []),
        (X.mean() / W, []),
        (0.0 * X.mean(), []),
        (torch.stack([X.mean(), X.sum()]).sum(), [1.0]),
    ],
)
def test_what_a_loss_was_divided_by_is_read_from_its_graph(loss: Tensor, divisors: list[float]) -> None:
    assert sorted(one for _, one in _divisors(loss)) == pytest.approx(sorted(divisors))
