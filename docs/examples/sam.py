"""Program 2: swap one stage for a new idea, sharpness-aware minimisation. Hooks on the tree stay where they are.

A fifth of the training labels are wrong. The same network is trained twice, once with the default `Gradient` and once
with `SharpnessAware` in its slot, and the accuracy on clean data is printed for both.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner, Stage, TrainState
from learner.callbacks import Accuracy


@dataclass(frozen=True)
class SharpnessAware(Stage):
    """Gradient at the worst point within `rho` of the parameters.

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021; the plain L2
    variant. The step is taken back from a copy, so the parameters are exactly those from before.
    """

    rho: float = 0.05
    reads = ("model", "model.grads", "loss_fn", "inputs", "targets")
    writes = ("outputs", "loss", "model.grads")
    touches = ("model.params", "model.buffers", "rng")
    inline = ("forward", "loss", "backward")

    def run(self, state: TrainState) -> None:
        with state.stage("forward"):
            state.outputs = state.model(state.inputs)
        with state.stage("loss"):
            state.loss = state.loss_fn(state.outputs, state.targets)
        with state.stage("backward"):
            state.loss.backward()
        parameters = [parameter for parameter in state.model.parameters() if parameter.grad is not None]
        start = [parameter.detach().clone() for parameter in parameters]
        norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(parameter.grad, alpha=self.rho / (norm.item() + 1e-12))
        state.model.zero_grad()
        state.loss_fn(state.model(state.inputs), state.targets).backward()
        with torch.no_grad():
            for parameter, value in zip(parameters, start, strict=True):
                parameter.copy_(value)


def make_learner() -> Learner:
    """The same data and the same first parameters each time."""
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.target))
    inputs = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    targets = torch.tensor(digits.target)[order]
    noisy = targets[:500].clone()
    noisy[:100] = torch.randint(10, (100,))
    train = DataLoader(TensorDataset(inputs[:500], noisy), batch_size=50, shuffle=True)
    valid = DataLoader(TensorDataset(inputs[500:], targets[500:]), batch_size=500)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Learner(model, F.cross_entropy, optimizer, train=train, valid=valid, callbacks=[Accuracy()], device="cpu")


plain, flat = make_learner(), make_learner()
losses = []


@flat.after("gradient/loss", every="10 batches")
def note(state: TrainState) -> None:
    """Hooked to a stage of the default `Gradient`; it fires in the inline stage of the same name as well."""
    losses.append(state.loss.item())


flat.swap("gradient", SharpnessAware(rho=0.5))
for name, learner in {"default": plain, "sharpness-aware": flat}.items():
    history = learner.fit(epochs=30)
    print(f"{name:>15}: valid_accuracy {history[-1]['valid_accuracy']:.3f}, valid_loss {history[-1]['valid_loss']:.3f}")
print(f"the hook on gradient/loss noted {len(losses)} losses; the last is {losses[-1]:.3f}")
print(flat.log.where(field="loss", epoch=29, batch=9))
