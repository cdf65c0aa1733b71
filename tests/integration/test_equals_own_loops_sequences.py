"""Truncated backpropagation through time: what a network remembers is handed on, its gradients are not.

A sequence is cut into windows by the loader, or by a stage within each batch. Both are, bit for bit, the loop by hand.
"""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner import Composite, Learner, TrainState, field, stage, supervised
from learner.callbacks import ClipGradients
from stages import Backward, ClearGradients, FitBatch, Gradient, Loss, Unpack, Update


class Recurrent(nn.Module):
    """Two layers of GRU and a head: the next value of each of its sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(1, 6, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(6, 1)

    def forward(self, inputs: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs, hidden = self.cell(inputs, hidden)
        return self.head(outputs), hidden


def parts_for(*train: tuple[int, int], valid: tuple[tuple[int, int], ...] = ()) -> SimpleNamespace:
    """A model, and batches that are these spans of one series: inputs, and the values that follow."""
    series = torch.randn(4, 41, 1).cumsum(1)
    sets = [[(series[:, i:j], series[:, i + 1 : j + 1]) for i, j in spans] for spans in (train, valid)]
    model = Recurrent()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return SimpleNamespace(model=model, optimizer=optimizer, train=sets[0], valid=sets[1])


def train_on(parts: SimpleNamespace, inputs: Tensor, targets: Tensor, hidden: Tensor | None) -> tuple[Tensor, ...]:
    """One update by hand; what it remembers, its loss, and the norm of its gradients."""
    parts.optimizer.zero_grad()
    outputs, hidden = parts.model(inputs, None if hidden is None else hidden.detach())
    loss = F.mse_loss(outputs, targets)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parts.model.parameters(), 0.2)
    parts.optimizer.step()
    return hidden, loss.detach(), norm


class HiddenState(TrainState):
    hidden: Tensor | None = field(scope="phase", default=None, description="layers x batch x 6, None at the start")


@stage(state=HiddenState, writes=("outputs", "hidden"), touches=("rng",))
def carry(model: nn.Module, inputs: Tensor, hidden: Tensor | None) -> Any:
    return model(inputs, None if hidden is None else hidden.detach())


def test_hidden_state_is_carried_from_batch_to_batch_and_its_gradients_are_clipped(proves_equal: Any) -> None:
    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        seen = []
        for _ in range(3):
            hidden = None
            for inputs, targets in parts.train:
                hidden, *told = train_on(parts, inputs, targets, hidden)
                seen += told
            parts.model.eval()
            with torch.no_grad():
                hidden = None
                for inputs, targets in parts.valid:
                    outputs, hidden = parts.model(inputs, hidden)
                    seen.append(F.mse_loss(outputs, targets))
            parts.model.train()
        return seen

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        learner = Learner(
            parts.model,
            F.mse_loss,
            parts.optimizer,
            train=parts.train,
            valid=parts.valid,
            stages=supervised().swap("gradient/forward", carry).swap("validate/batch/forward", carry),
            callbacks=[ClipGradients(0.2)],
            device="cpu",
        )
        seen: list[Tensor] = []
        learner.after("fit/batch")(lambda state: seen.extend([state.loss.detach(), state.grad_norm]))
        learner.after("validate/batch")(lambda state: seen.append(state.loss))
        learner.fit(epochs=3)
        return seen

    proves_equal(lambda: parts_for((0, 5), (5, 10), (10, 15), (15, 20), valid=((30, 35), (35, 40))), by_hand, staged)


class WindowState(TrainState):
    hidden: Tensor | None = field(scope="batch", default=None, description="layers x batch x 6, None at the start")


@stage(state=WindowState, writes=("outputs", "hidden"), touches=("rng",))
def carry_within(model: nn.Module, inputs: Tensor, hidden: Tensor | None) -> Any:
    return model(inputs, None if hidden is None else hidden.detach())


class InWindows(Composite):
    """Run its stages on one window of each sequence after the other; the last may be shorter."""

    each = "window"
    runs = "1+"
    reads = ("inputs", "targets")
    writes = ("inputs", "targets")

    def __init__(self, length: int, *stages: Any) -> None:
        self.length = length
        super().__init__(*stages)

    def run(self, state: TrainState) -> None:
        inputs, targets = state.inputs, state.targets
        for some, their in zip(inputs.split(self.length, 1), targets.split(self.length, 1), strict=True):
            with state.round():
                state.inputs, state.targets = some, their
                super().run(state)
        state.inputs, state.targets = inputs, targets


def test_each_batch_is_cut_into_windows_with_an_update_for_each(proves_equal: Any) -> None:
    def by_hand(parts: SimpleNamespace) -> list[Tensor]:
        seen = []
        for _ in range(3):
            for inputs, targets in parts.train:
                hidden = None
                for start in range(0, inputs.shape[1], 5):
                    window = slice(start, start + 5)
                    hidden, *told = train_on(parts, inputs[:, window], targets[:, window], hidden)
                    seen += told
        return seen

    def staged(parts: SimpleNamespace) -> list[Tensor]:
        update = (ClearGradients(), Gradient(carry_within, Loss(), Backward()), Update())
        tree = supervised(valid=False).swap("fit/batch", FitBatch(Unpack(), InWindows(5, *update)))
        data, clip = {"train": parts.train}, ClipGradients(0.2)
        learner = Learner(parts.model, F.mse_loss, parts.optimizer, **data, stages=tree, callbacks=[clip], device="cpu")
        seen: list[Tensor] = []
        learner.after("update")(lambda state: seen.extend([state.loss.detach(), state.grad_norm]))
        learner.fit(epochs=3)
        assert learner.state.updates == 18 and learner.state.samples_seen == 24
        return seen

    proves_equal(lambda: parts_for((0, 12), (20, 32)), by_hand, staged)
