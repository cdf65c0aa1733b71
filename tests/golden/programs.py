"""Programs whose checkpoints are kept for ever. They may change only as a user's script would have to."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from learner import Learner, TensorBatches
from learner.callbacks import Accuracy, Checkpoint, ClipGradients, EarlyStopping, Schedule
from learner.recipes import supervised


def _learner(run_dir: Path, *, accumulate: int | None = None, precision: str = "fp32") -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 2))
    inputs = torch.randn(40, 3)
    targets = (inputs.sum(1) > 0).long()
    return Learner(
        model,
        nn.functional.cross_entropy,
        torch.optim.AdamW(model.parameters(), lr=1e-2),
        train=TensorBatches(inputs[:28], targets[:28], batch_size=8, shuffle=True),
        valid=TensorBatches(inputs[28:], targets[28:], batch_size=8),
        stages=supervised(accumulate=accumulate),
        callbacks=[
            Accuracy(),
            ClipGradients(1.0),
            EarlyStopping("valid_loss", patience=50),
            Schedule(lambda optimizer: OneCycleLR(optimizer, max_lr=0.02, total_steps=50)),
            Checkpoint("1 batches", keep=None),
        ],
        run_dir=run_dir,
        device="cpu",
        precision=precision,  # type: ignore[arg-type]
        seed=7,
    )


PROGRAMS: dict[str, Callable[[Path], Learner]] = {
    "inside-an-epoch": lambda run_dir: _learner(run_dir),
    "inside-a-window": lambda run_dir: _learner(run_dir, accumulate=3, precision="fp16"),
    "at-rest": lambda run_dir: _learner(run_dir),
}
"""By the place where the checkpoint was taken."""

EPOCHS = 2
"""How long each runs."""
