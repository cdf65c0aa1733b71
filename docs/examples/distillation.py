"""Program 3: stages and hooks that are functions. A small network learns from a large one as well as from the labels.

The teacher is trained first, on 1,000 digits. The student sees 100 of them; `teach` adds the teacher's outputs as a
field of its own, and `distillation_loss` takes the place of the loss.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import Learner, TrainState, field, stage
from learner.callbacks import Accuracy


class DistillState(TrainState):
    """The fields that distillation adds."""

    teacher: nn.Module = field(description="a trained model; it is not updated")
    teacher_outputs: Tensor = field(scope="batch", description="what the teacher makes of the inputs")


@stage(state=DistillState, writes=("teacher_outputs",))
def teach(inputs, teacher):
    """Ask the teacher."""
    with torch.no_grad():
        return teacher(inputs)


@stage(state=DistillState, writes=("loss",))
def distillation_loss(outputs, targets, teacher_outputs):
    """Half from the labels, half from the teacher's probabilities at temperature 2 (Hinton et al. 2015)."""
    soft = F.kl_div((outputs / 2).log_softmax(-1), (teacher_outputs / 2).softmax(-1), reduction="batchmean")
    return F.cross_entropy(outputs, targets) / 2 + 4 * soft / 2


def make_model(width: int) -> nn.Module:
    """A network with one hidden layer, the same each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def make_learner(model: nn.Module, count: int, **models: nn.Module) -> Learner:
    """A Learner that trains `model` on the first `count` digits."""
    train = DataLoader(TensorDataset(inputs[:count], targets[:count]), batch_size=50, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    named = {"model": model, **models}
    return Learner(named, F.cross_entropy, optimizer, train=train, valid=valid, callbacks=[Accuracy()], device="cpu")


torch.manual_seed(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
inputs = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
targets = torch.tensor(digits.target)[order]
valid = DataLoader(TensorDataset(inputs[1000:], targets[1000:]), batch_size=400)

teacher = make_model(128)
make_learner(teacher, 1000).fit(epochs=10)
teacher.eval().requires_grad_(False)

learner = make_learner(make_model(64), 100, teacher=teacher)
learner.insert(teach, before="gradient")
learner.swap("gradient/loss", distillation_loss)


@learner.after("update", every="20 batches")  # an observer: no declaration, may read everything, writes nothing
def show(state):
    """Print the loss now and then."""
    print(f"update {state.updates}: loss {state.loss.item():.3f}")


before = [parameter.clone() for parameter in teacher.parameters()]
taught = learner.fit(epochs=40)
alone = make_learner(make_model(64), 100).fit(epochs=40)
print(f"valid_accuracy with the teacher {taught[-1]['valid_accuracy']:.3f}, without {alone[-1]['valid_accuracy']:.3f}")
print(f"the teacher has changed: {not all(map(torch.equal, before, teacher.parameters()))}")
print(learner.log.history("tree"))
