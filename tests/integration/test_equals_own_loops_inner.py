"""A loop within the update (LBFGS with a closure), and one that is itself differentiated: bit for bit as by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner, Stage, TrainState, field, stage
from stages import (
    AverageGradients,
    Backward,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Loss,
    Repeat,
    Train,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
    Window,
)


class ClosureUpdate(Stage):
    """One update by an optimizer that asks for the loss and its gradients several times."""

    reads = ("model", "loss_fn", "inputs", "targets", "updates")
    writes = ("outputs", "loss", "model.grads", "model.params", "optimizer.state", "updates")
    touches = ("model.buffers", "rng")
    inline = ("forward", "loss", "backward")

    def run(self, state: TrainState) -> None:
        def closure() -> Tensor:
            state.optimizer.zero_grad()
            with state.stage("forward"):
                state.outputs = state.model(state.inputs)
            with state.stage("loss"):
                state.loss = state.loss_fn(state.outputs, state.targets)
            with state.stage("backward"):
                state.loss.backward()
            return state.loss

        state.optimizer.step(closure)
        state.updates += 1


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_with_a_closure(line_search: str | None, proves_equal: Any) -> None:
    def build() -> SimpleNamespace:
        data = TensorDataset(torch.randn(30, 4), torch.randn(30, 2))
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 2))
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4, line_search_fn=line_search)
        return SimpleNamespace(model=model, optimizer=optimizer, train=DataLoader(data, batch_size=10, shuffle=True))

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        losses = []
        for _ in range(2):
            for inputs, targets in parts.train:

                def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                    parts.optimizer.zero_grad()
                    loss = F.mse_loss(parts.model(inputs), targets)
                    loss.backward()
                    losses.append(loss.detach())
                    return loss

                parts.optimizer.step(closure)
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        losses: list[Tensor] = []
        learner = Learner(parts.model, F.mse_loss, parts.optimizer, train=parts.train, device="cpu")
        learner.swap("fit/batch", FitBatch(Unpack(), ClosureUpdate()))
        learner.after("closure_update/loss")(lambda state: losses.append(state.loss.detach()))
        learner.fit(epochs=2)
        assert learner.state.updates == 6 and len(losses) > 6
        return losses

    proves_equal(build, by_hand, staged)


class MetaState(TrainState):
    support_inputs: Tensor = field(scope="batch")
    support_targets: Tensor = field(scope="batch")
    fast: dict[str, Tensor] = field(scope="batch", description="the parameters, adapted to one task")
    support_loss: Tensor = field(scope="inner", description="scalar, of one inner step")


@stage(state=MetaState, writes=("support_inputs", "support_targets", "inputs", "targets"))
def unpack_task(batch: Any) -> tuple[Tensor, ...]:
    (support_inputs, support_targets), (inputs, targets) = batch
    return support_inputs, support_targets, inputs, targets


@stage(state=MetaState, writes=("fast",))
def start(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


@stage(state=MetaState, writes=("support_loss",), touches=("rng",))
@torch.enable_grad()
def support_loss(model: nn.Module, fast: dict[str, Tensor], support_inputs: Tensor, support_targets: Tensor) -> Tensor:
    return F.mse_loss(functional_call(model, fast, support_inputs), support_targets)


@stage(state=MetaState, writes=("fast",))
@torch.enable_grad()
def adapt(fast: dict[str, Tensor], support_loss: Tensor) -> dict[str, Tensor]:
    slopes = torch.autograd.grad(support_loss, list(fast.values()), create_graph=True)
    return {name: value - 0.1 * slope for (name, value), slope in zip(fast.items(), slopes, strict=True)}


@stage(state=MetaState, writes=("outputs",), touches=("rng",))
def query(model: nn.Module, fast: dict[str, Tensor], inputs: Tensor) -> Tensor:
    outputs: Tensor = functional_call(model, fast, inputs)
    return outputs


def test_inner_loop_is_differentiated_over_windows_of_tasks(proves_equal: Any, losses_of: Any) -> None:
    def build() -> SimpleNamespace:
        waves = [(torch.randn(10, 1), 0.3 * task) for task in range(8)]
        tasks = [((x[:5], (x[:5] + shift).sin()), (x[5:], (x[5:] + shift).sin())) for x, shift in waves]
        model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        return SimpleNamespace(model=model, optimizer=optimizer, train=tasks[:5], valid=tasks[5:])

    def adapted(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        fast = dict(model.named_parameters())
        for _ in range(3):
            loss = F.mse_loss(functional_call(model, fast, inputs), targets)
            slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {name: value - 0.1 * slope for (name, value), slope in zip(fast.items(), slopes, strict=True)}
        return fast

    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        model, losses = parts.model, []
        for _ in range(2):
            model.train()
            for tasks in (parts.train[:2], parts.train[2:4], parts.train[4:]):
                parts.optimizer.zero_grad()
                for support, (inputs, targets) in tasks:
                    loss = F.mse_loss(functional_call(model, adapted(model, *support), inputs), targets)
                    loss.backward()
                    losses.append(loss.detach())
                for parameter in model.parameters():
                    parameter.grad /= len(tasks)
                parts.optimizer.step()
            model.eval()
            for support, (inputs, targets) in parts.valid:
                loss = F.mse_loss(functional_call(model, adapted(model, *support), inputs), targets)
                losses.append(loss.detach())
            model.train()
        return losses

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        inner = Repeat(3, support_loss, adapt, each="inner")
        task = FitBatch(unpack_task, start, inner=inner, query=query, loss=Loss(), backward=Backward())
        look = ValidateBatch(unpack_task, start, inner=inner, query=query, loss=ValidateLoss())
        update = Fit(ClearGradients(), Window(2, Fetch(), task), AverageGradients(), Update(), each="update")
        tree = Train(Epoch(update, Validate(Fetch(), look)))
        data = {"train": parts.train, "valid": parts.valid}
        learner = Learner(parts.model, F.mse_loss, parts.optimizer, **data, stages=tree, device="cpu")
        losses: list[Tensor] = losses_of(learner, 2)
        assert learner.state.updates == 6
        return losses

    proves_equal(build, by_hand, staged)
