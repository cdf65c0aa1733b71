"""Program 5: keep your own loop, and take validation, scopes and the change log from a `Recorder`.

What is not declared is recorded, not refused: the loop stays as it was, and the log answers afterwards.
"""

import torch
import torch.nn.functional as F
from torch import nn

from learner import Recorder, TrainState

torch.manual_seed(0)
loader = [(batch, batch @ torch.tensor([[1.0], [-2.0]])) for batch in torch.randn(60, 16, 2)]
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=20, gamma=0.5)

recorder = Recorder(TrainState(model=model, optimizer=optimizer, loss_fn=F.mse_loss), run_dir="runs/mine")
for batch in loader:
    with recorder.stage("batch", opens="batch") as state:
        state.inputs, state.targets = batch
        with recorder.stage("gradient"):
            state.outputs = state.model(state.inputs)
            state.loss = state.loss_fn(state.outputs, state.targets)
            state.loss.backward()
        with recorder.stage("update"):
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.updates += 1
        with recorder.stage("schedule"):
            scheduler.step()

print(recorder.log.tail(9))
print(recorder.log.history("optimizer.hyper.lr"))  # who changed the learning rate, when, from what to what
print(recorder.log.blame("loss"))
recorder.close()
