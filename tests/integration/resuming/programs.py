"""Programs that are stopped and taken up again: one script with everything in it that has a state, over any loader."""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from learner import Callback, Learner, Outcome, SampleBatches, TensorBatches, TrainingPhase, TrainState, after, around
from learner import field as state_field
from learner.callbacks import Checkpoint, ClipGradients, EarlyStopping, Metric, Schedule
from learner.keeping import Keeper
from learner.recipes import supervised

SAMPLES, FEATURES, BATCH = 19, 4, 5


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples under random noise, from every generator there is; the second number of a target is its own index."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(FEATURES, generator=torch.Generator().manual_seed(index))
        target = torch.tensor([float(inputs.sum()), float(index)])
        return inputs + 0.1 * torch.randn(FEATURES) * random.random() * float(np.random.rand()), target


def clean(count: int) -> tuple[Tensor, Tensor]:
    """The samples without noise."""
    inputs = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(9))
    return inputs, torch.stack([inputs.sum(1), torch.arange(count, dtype=torch.float32)], 1)


LOADERS: dict[str, Callable[[], Any]] = {
    "DataLoader": lambda: DataLoader(Noisy(), batch_size=BATCH, shuffle=True),
    "SampleBatches": lambda: SampleBatches(Noisy(), batch_size=BATCH, shuffle=True, seed=5),
    "SampleBatches, 2 workers": lambda: SampleBatches(Noisy(), batch_size=BATCH, shuffle=True, seed=5, num_workers=2),
    "TensorBatches": lambda: TensorBatches(*clean(SAMPLES), batch_size=BATCH, shuffle=True, seed=5),
    "StatefulDataLoader": lambda: StatefulDataLoader(Noisy(), batch_size=BATCH, shuffle=True),
    "list": lambda: list(zip(*(part.split(BATCH) for part in clean(SAMPLES)), strict=True)),
}


class EmaState(TrainState):
    ema: nn.Module = state_field(factory=lambda state: deepcopy(state.model), description="weights averaged")


@dataclass(frozen=True)
class Ema(Callback):
    """Average the weights after each update, and validate with the average."""

    decay: float = 0.9

    @after("update", state=EmaState, writes=("ema.params", "ema.buffers"))
    def follow(self, ema: nn.Module, model: nn.Module, outcome: Outcome) -> None:
        if outcome.ok:
            with torch.no_grad():
                for slow, fast in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
                    slow.lerp_(fast, 1 - self.decay) if slow.is_floating_point() else slow.copy_(fast)

    @around("validate", state=EmaState, restores=("model.params", "model.buffers"))
    def lend(self, ema: nn.Module, model: nn.Module) -> Iterator[None]:
        own = deepcopy(model.state_dict())
        model.load_state_dict(ema.state_dict())
        yield
        model.load_state_dict(own)


@after("unpack", within=TrainingPhase, writes=("inputs",), touches=("rng",))
def augment(inputs: Tensor) -> Tensor:
    """Noise from all three generators of the program."""
    return inputs + 0.01 * torch.randn_like(inputs) * random.random() * float(np.random.rand())


def first_column(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss: the second column of the targets tells which samples they are."""
    return nn.functional.mse_loss(outputs[:, 0], targets[:, 0])


class Always(Checkpoint):
    """A checkpoint at every point at which a run can go on."""

    def _is_due(self, keeper: Keeper) -> bool:
        return True


@dataclass(frozen=True)
class Program:
    """One script.

    Attributes:
        lends: whether validation runs with averaged weights.
        patience: of early stopping, which here waits for a loss that rises.
        every, keep, behind: of Checkpoint; by default there is one at every point, and all are kept.
        tree: makes the stages, if they are not those of the recipe.
    """

    loader: str = "DataLoader"
    accumulate: int | None = None
    microbatches: int | None = None
    precision: Any = "fp32"
    lends: bool = True
    patience: int = 9
    epochs: int = 3
    every: str = ""
    keep: int | None = None
    behind: bool = False
    tree: Callable[[], Any] | None = None

    def make(self, run_dir: Path) -> Learner:
        """A Learner as the script makes it, with generators that stand somewhere else each time."""
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        writing = Always(keep=None)
        if self.every:
            writing = Checkpoint(self.every, keep=self.keep, best="valid_loss", behind=self.behind)
        callbacks: list[Any] = [
            augment,
            Schedule(lambda optimizer: OneCycleLR(optimizer, max_lr=0.05, total_steps=100)),
            ClipGradients(0.5),
            EarlyStopping("valid_loss", patience=self.patience, mode="max"),
            Metric(torchmetrics.MeanSquaredError(num_outputs=2), name="squares"),
            writing,
        ]
        torch.seed()
        random.seed()
        np.random.seed()
        return Learner(
            model,
            first_column,
            optimizer,
            train=LOADERS[self.loader](),
            valid=DataLoader(Noisy(), batch_size=BATCH),
            stages=self.tree() if self.tree else supervised(accumulate=self.accumulate, microbatches=self.microbatches),
            callbacks=callbacks + ([Ema()] if self.lends else []),
            run_dir=run_dir,
            device="cpu",
            precision=self.precision,
            seed=3,
        )
