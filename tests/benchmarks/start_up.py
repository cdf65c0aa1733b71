"""Start-up: what a first `from learner import Learner` and a first Learner cost, beside torch."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import Figure

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, time
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from figures import resident_mb

inputs, targets = torch.rand(1797, 64), torch.randint(10, (1797,))
train = DataLoader(TensorDataset(inputs[:1500], targets[:1500]), batch_size=64, shuffle=True)
valid = DataLoader(TensorDataset(inputs[1500:], targets[1500:]), batch_size=256)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

seconds, megabytes = time.perf_counter(), resident_mb()
from learner import Learner
from learner.callbacks import Accuracy, ProgressBar

learner = Learner(model, F.cross_entropy, optimizer, train=train, valid=valid,
                  callbacks=[Accuracy(), ProgressBar()], run_dir=sys.argv[1])
print(time.perf_counter() - seconds, resident_mb() - megabytes)
"""


def measure(quick: bool) -> Iterator[Figure]:
    """A process each; the first one, which may have to compile bytecode, does not count."""
    seconds, megabytes = [], []
    with TemporaryDirectory() as folder:
        for process in range(-1, 3 if quick else 5):
            command = [sys.executable, "-c", PROGRAM, str(Path(folder) / "runs")]
            paths = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(ROOT)]!r}\n"
            command[2] = paths + command[2]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            if process >= 0:
                seconds.append(float(told[0]))
                megabytes.append(float(told[1]))
    yield Figure("import and build program 1, over torch", tuple(seconds), "s", 0.6)
    yield Figure("  memory", tuple(megabytes), "MB", 30.0)
