"""Program 1, the main job: train a small network on handwritten digits, with a record of every change on disk.

Needs scikit-learn (the extra `demo`). Writes a numbered run below `runs/digits` in the working directory.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner
from learner.callbacks import Accuracy, ProgressBar

torch.manual_seed(0)
digits = load_digits()  # 1,797 images of 8x8, part of scikit-learn
order = torch.randperm(len(digits.target))
inputs = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
targets = torch.tensor(digits.target)[order]
train = DataLoader(TensorDataset(inputs[:1500], targets[:1500]), batch_size=64, shuffle=True)
valid = DataLoader(TensorDataset(inputs[1500:], targets[1500:]), batch_size=256)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

callbacks = [Accuracy(), ProgressBar()]
learner = Learner(
    model, F.cross_entropy, optimizer, train=train, valid=valid, callbacks=callbacks, run_dir="runs/digits"
)
history = learner.fit(epochs=20)
print(learner)  # the tree, its hooks, who reads and writes what
print(learner.log.blame("model.params"))  # who changed the parameters last, and where
print(f"valid_accuracy {history[-1]['valid_accuracy']:.2f}, the record is in {learner.run_dir}")
