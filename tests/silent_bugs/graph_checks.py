"""Silent bugs that the check of the graph is for: something is missing, in the wrong order, or in no order at all."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from learner import Callback, EvaluationPhase, Learner, TrainState, after, around, field, stage, supervised
from stages import (
    Backward,
    ClearGradients,
    Epoch,
    Every,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Train,
    Unpack,
    Update,
)
from state import Change
from tests.silent_bugs.harness import network, samples, silent_bug


@silent_bug(
    "1a",
    "`zero_grad` is left out and gradients pile up: in a tree of one's own",
    "stackoverflow 60335387",
    said="refused",
    line="train/epoch/fit/batch/gradient/backward reads 'model.grads', which nobody has cleared before: gradients of ",
    culprit="train/epoch/fit/batch/gradient/backward",
)
def gradients_are_never_cleared(buggy: bool) -> Learner:
    clear = () if buggy else (ClearGradients(),)
    batch = FitBatch(Unpack(), *clear, Gradient(Forward(), Loss(), Backward()), Update())
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), stages=Train(Epoch(Fit(Fetch(), batch))))


@silent_bug(
    "1b",
    "`zero_grad` is left out and gradients pile up: in a stage that does the whole step",
    "stackoverflow 60335387",
    said="recorded",
    line="train/epoch/fit/batch/step wrote 'model.grads' last, and it does not hold that an update uses gradients ",
    culprit="train/epoch/fit/batch/step",
    is_located=True,
)
def gradients_pile_up_in_one_stage(buggy: bool) -> Learner:
    @stage(
        state=TrainState,
        writes=("outputs", "loss", "model.grads", "model.params", "optimizer.state"),
        touches=("model.buffers",),
    )
    def step(model: nn.Module, optimizer: Any, loss_fn: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if not buggy:
            optimizer.zero_grad()
        outputs = model(inputs)
        loss = loss_fn(outputs, targets)
        loss.backward()
        optimizer.step()
        return outputs, loss

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), step))))
    return Learner(model, F.mse_loss, optimizer, train=samples(), stages=tree)


class EmaState(TrainState):
    """An average of the weights."""

    ema: nn.Module = field(factory=lambda state: deepcopy(state.model), description="average of the weights")


class Lent(Callback):
    """Validates with the average, whoever makes it."""

    @around("validate", state=EmaState, restores=("model.params",))
    def lend(self, ema: nn.Module, model: nn.Module) -> Any:
        own = deepcopy(model.state_dict())
        model.load_state_dict(ema.state_dict())
        yield
        model.load_state_dict(own)


class Followed(Lent):
    """And makes it."""

    @after("update", state=EmaState, writes=("ema.params",))
    def follow(self, ema: nn.Module, model: nn.Module) -> None:
        with torch.no_grad():
            for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.1)


def never_averaged(learner: Learner) -> Change | None:
    """The first value of the average, if it is the last one too."""
    (*_, last) = learner.log.where(field="ema.params")
    return last if last.actor == "setup" else None


@silent_bug(
    "24a",
    "the average of the weights is never updated, and validated with",
    "MultimediaTechLab/YOLO#97",
    said="recorded",
    line="train: it does not hold that an evaluation sees what training changed: train/epoch/validate had the weights "
    "of model of before the training, 2 times by now, as train/epoch/validate:around:Lent.lend lends them ",
    culprit="train/epoch/validate:around:Lent.lend",
    is_located=True,
)
def average_is_never_updated(buggy: bool) -> Learner:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callbacks = [Lent() if buggy else Followed()]
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=callbacks)


@silent_bug(
    "24b",
    "the average of the weights is never updated, and copied into the model after each epoch",
    "MultimediaTechLab/YOLO#97",
    said="asked",
    line="setup: ema.params = ",
    question="who writes ema.params?",
    ask=never_averaged,
)
def stale_average_resets_training(buggy: bool) -> Learner:
    class Copied(Followed):
        @after("epoch", state=EmaState, writes=("model.params",))
        def copy(self, ema: nn.Module, model: nn.Module) -> None:
            model.load_state_dict(ema.state_dict())

    class NeverUpdated(Copied):
        def hooks(self) -> Any:
            return [(name, hook) for name, hook in super().hooks() if name != "follow"]

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callbacks = [NeverUpdated() if buggy else Copied()]
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=callbacks)


class Rate(TrainState):
    """A scheduler of the user's own."""

    schedule: LRScheduler = field(factory=lambda state: LambdaLR(state.optimizer, lambda n: 0.95**n))


@silent_bug(
    "29",
    "the scheduler moves before the optimizer, and the first rate is never used",
    "pytorch#44511",
    said="refused",
    plain="UserWarning, at the first step",
    line="train/epoch/fit/batch/gradient:after:Anneal.anneal moves 'schedule' in each round of train/epoch/fit, ",
    culprit="train/epoch/fit/batch/gradient:after:Anneal.anneal",
    is_located=True,
)
def scheduler_before_the_optimizer(buggy: bool) -> Learner:
    class Anneal(Callback):
        @after("gradient" if buggy else "update", state=Rate, writes=("optimizer.hyper", "schedule.state"))
        def anneal(self, schedule: LRScheduler) -> None:
            schedule.step()

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), callbacks=[Anneal()])


class Noise(Callback):
    """Adds noise to the inputs."""

    @after("unpack", within="fit", writes=("inputs",), touches=("rng",))
    def add(self, inputs: Tensor) -> Tensor:
        return inputs + 0.1 * torch.randn_like(inputs)


class Standardise(Callback):
    """Brings each batch to mean 0 and deviation 1."""

    @after("unpack", within="fit", writes=("inputs",))
    def scale(self, inputs: Tensor) -> Tensor:
        return (inputs - inputs.mean()) / inputs.std()


@silent_bug(
    "39",
    "the order in which callbacks are listed decides the result",
    *("Lightning#10260", "Lightning PR5731", "Lightning PR16567", "luxonis PR374"),
    said="refused",
    line="Noise.add and Standardise.scale both write 'inputs' after 'train/epoch/fit/batch/unpack' and have no order.",
    culprit="Noise.add and Standardise.scale",
    is_located=True,
)
def order_of_callbacks(buggy: bool) -> Learner:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callbacks = [Noise(), Standardise()] if buggy else [(Standardise(), Noise())]
    return Learner(model, F.mse_loss, optimizer, train=samples(), callbacks=callbacks)


@silent_bug(
    "38a",
    "a checkpoint is chosen by a metric of an earlier epoch: validation runs in every second one",
    "Lightning#7694",
    said="refused",
    line="train/epoch:after:SaveBest.save reads 'valid_loss', which train/epoch/validate/validate:after:Mean.result ",
    culprit="train/epoch:after:SaveBest.save",
    is_located=True,
)
def chosen_by_a_stale_metric(buggy: bool) -> Learner:
    class SaveBest(Callback):
        @after("epoch" if buggy else EvaluationPhase, reads=("valid_loss",))
        def save(self, model: nn.Module, valid_loss: float) -> None:
            torch.save(model.state_dict(), f"{valid_loss:.4f}.pt")

    tree = supervised()
    tree = tree.swap("validate", Every("2 epochs", validate=tree.epoch.validate))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = {"train": samples(), "valid": samples(2)}
    return Learner(model, F.mse_loss, optimizer, **data, stages=tree, callbacks=[SaveBest()])


@silent_bug(
    "38b",
    "a checkpoint is chosen by a metric of an earlier epoch, which a field of the run keeps",
    "Lightning#7694",
    said="asked",
    line="train/epoch/validate/validate:after:SaveBest.keep at epoch 1, update 12: last_loss 9 -> ",
    culprit="train/epoch/validate/validate:after:SaveBest.keep",
    is_located=True,
    question="of which epoch is the number that the last checkpoint went by?",
    ask=lambda learner: next((one for one in [learner.log.blame("last_loss")] if one.position.epoch != 2), None),
)
def chosen_by_a_kept_metric(buggy: bool) -> tuple[Learner, Any]:
    class SaveBest(Callback):
        def fields(self) -> dict[str, Any]:
            return {"last_loss": (float, field(default=9.0))}

        @after(EvaluationPhase, writes=("last_loss",))
        def keep(self, valid_loss: float) -> float:
            return valid_loss

        @after("epoch", reads=("last_loss",))
        def save(self, model: nn.Module, last_loss: float) -> None:
            torch.save(model.state_dict(), f"{last_loss:.4f}.pt")

    tree = supervised()
    if buggy:
        tree = tree.swap("validate", Every("2 epochs", validate=tree.epoch.validate))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = {"train": samples(), "valid": samples(2)}
    learner = Learner(model, F.mse_loss, optimizer, **data, stages=tree, callbacks=[SaveBest()])
    return learner, lambda learner: learner.fit(epochs=3)
