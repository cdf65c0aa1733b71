"""Silent bugs that questions to the log are for, and invariants over it: how often, in which form, twice the same."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, TensorDataset

from learner import Callback, Learner, TrainState, before, field
from learner.callbacks import Autocast
from learner.recipes import supervised
from state import Change
from tests.silent_bugs.harness import network, samples, silent_bug


class Traced(nn.Module):
    """A module as a compiler leaves it that traced it in single precision: an autocast from outside is not seen."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Any:
        with torch.autocast("cpu", enabled=False):
            return self.module(inputs)


def outputs_in_full(learner: Learner) -> Change | None:
    """The first outputs, if they are in single precision."""
    first = learner.log.where(field="outputs", epoch=0, batch=0)[0]
    return first if str(first.after).startswith("float32") else None


@silent_bug(
    "12",
    "autocast is not applied, for the model was traced outside of it",
    "lightning-thunder#725",
    said="asked",
    line="train/epoch/fit/batch/gradient/forward at epoch 0, batch 0, update 0: outputs = float32[8, 1] (write)",
    culprit="train/epoch/fit/batch/gradient/forward",
    question="which dtype do the outputs have?",
    ask=outputs_in_full,
)
def autocast_not_applied(buggy: bool) -> Learner:
    model = Traced(network()) if buggy else network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.float(), targets)

    return Learner(model, loss_fn, optimizer, train=samples(), callbacks=[Autocast(torch.bfloat16, ("forward",))])


class Noisy(Dataset[Tensor]):
    """Samples that are augmented by a generator of the dataset's own, of which each worker gets a copy."""

    def __init__(self, *, own: bool) -> None:
        self.generator = torch.Generator().manual_seed(0) if own else None

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.randn(4, generator=self.generator), torch.ones(1)


@silent_bug(
    "16",
    "all workers augment alike",
    *("stackoverflow 67180955", "pytorch PR56488"),
    said="recorded",
    line="train/epoch/fit/fetch wrote 'batch' last, and it does not hold that the workers of a loader make different ",
    culprit="train/epoch/fit/fetch",
)
def workers_that_augment_alike(buggy: bool) -> Learner:
    model = network()
    train = DataLoader(Noisy(own=buggy), batch_size=4, num_workers=2)
    return Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=train)


def changed_on_the_way(learner: Learner) -> Change | None:
    """The first copy that is not what was copied."""
    for change in learner.log.where(field="inputs", actor="*copy"):
        if str(change.before).rpartition("#")[2] != str(change.after).rpartition("#")[2]:
            return change
    return None


@silent_bug(
    "17",
    "a copy between devices loses data (here: a copy that leaves out the second half)",
    *("pytorch#84803", "pytorch#96600", "Baichuan2#86"),
    said="asked",
    line="train/epoch/fit/batch/gradient:before:copy at epoch 0, batch 0, update 0: inputs float32[8, 4] #",
    culprit="train/epoch/fit/batch/gradient:before:copy",
    is_located=True,
    audit="full",
    question="have the inputs the same fingerprint before and after the copy?",
    ask=changed_on_the_way,
)
def copy_that_loses_data(buggy: bool) -> Learner:
    model = network()
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=samples())

    @learner.before("gradient", writes=("inputs",))
    def copy(inputs: Tensor) -> Tensor:
        copied = inputs.clone()
        if buggy:
            copied[4:] = 0
        return copied

    return learner


def shuffled(*, checks_first: bool, **settings: Any) -> tuple[Learner, Any]:
    """A program with a shuffling loader, which may validate before it trains."""
    torch.manual_seed(0)
    model = network()
    inputs = torch.randn(32, 4)
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    loaders = {"train": DataLoader(data, 8, shuffle=True), "valid": DataLoader(data, 8)}
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), **loaders, **settings)

    def run(learner: Learner) -> None:
        if checks_first:
            learner.validate()
        learner.fit(epochs=1)

    return learner, run


def first_draw(learner: Learner) -> Change | None:
    """Who drew the first random number of the run, if that was no part of the training."""
    drawn = learner.log.where(kind="seen", field="rng")
    return drawn[0] if drawn and "/fit" not in drawn[0].actor else None


@silent_bug(
    "25a",
    "a validation before training changes the order of the training data: seeded at the top of the program",
    *("Lightning#6988", "Lightning PR7014"),
    said="asked",
    line="train/epoch/validate at epoch 0, batch 0, update 0: rng = torch (value)",
    culprit="train/epoch/validate",
    mode="debug",
    question="who draws the first random number?",
    ask=first_draw,
)
def sanity_check_changes_the_shuffle(buggy: bool) -> tuple[Learner, Any]:
    return shuffled(checks_first=buggy)


def losses_are_those_without_a_check(learner: Learner) -> object:
    """That the losses are those of a run without a validation before it."""
    other, run = shuffled(checks_first=False, seed=0)
    run(other)
    same = [[one.after for one in each.log.history("loss")][-8:] for each in (learner, other)]
    return "the losses are those of a run without the check" if same[0] == same[1] else None


@silent_bug(
    "25b",
    "a validation before training changes the order of the training data: seeded by Learner(seed=)",
    *("Lightning#6988", "Lightning PR7014"),
    said="prevented",
    line="the losses are those of a run without the check",
    question="are the losses those of a run without the check?",
    ask=losses_are_those_without_a_check,
    why="Learner(seed=) seeds when training starts.",
)
def sanity_check_under_a_seed(buggy: bool) -> tuple[Learner, Any]:
    return shuffled(checks_first=buggy, seed=0)


class Rate(TrainState):
    """A scheduler of the user's own."""

    schedule: LRScheduler = field(factory=lambda state: LambdaLR(state.optimizer, lambda n: 0.95**n))


@silent_bug(
    "27",
    "the scheduler moves with every batch, though four make one update",
    *("accelerate#963", "h2o-llmstudio#663"),
    plain="UserWarning: scheduler before optimizer, at the first step",
    said="refused",
    line="train/epoch/fit/window/batch:after:anneal moves 'schedule' in each round of train/epoch/fit/window, before ",
    culprit="train/epoch/fit/window/batch:after:anneal",
    is_located=True,
)
def scheduler_moves_with_every_batch(buggy: bool) -> Learner:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tree = supervised(valid=False, accumulate=4)
    learner = Learner(model, F.mse_loss, optimizer, train=samples(8), stages=tree)

    @learner.after("batch" if buggy else "update", state=Rate, writes=("optimizer.hyper", "schedule.state"))
    def anneal(schedule: LRScheduler) -> None:
        schedule.step()

    return learner


def schedule_is_ahead(learner: Learner) -> Change | None:
    """Who moved the scheduler last, if it has gone further than the updates."""
    if learner.state.schedule.last_epoch > learner.state.updates:
        return learner.log.blame("schedule.state")
    return None


@silent_bug(
    "28",
    "the scheduler moves once for each process, in each of them",
    *("transformers PR24088", "accelerate#2926"),
    said="asked",
    line="train/epoch/fit/batch/update:after:anneal at epoch 1, batch 5, update 11: schedule.state (inferred)",
    culprit="train/epoch/fit/batch/update:after:anneal",
    is_located=True,
    question="how far is the schedule, how many updates are there, and who moves it?",
    ask=schedule_is_ahead,
)
def scheduler_moves_for_each_process(buggy: bool) -> Learner:
    processes = 2 if buggy else 1
    model = network()
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=samples())

    @learner.after("update", state=Rate, writes=("optimizer.hyper", "schedule.state"))
    def anneal(schedule: LRScheduler) -> None:
        for _ in range(processes):
            schedule.step()

    return learner


def sentences(count: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Batches of tokens with a class each, of which a share that differs is padding."""
    batches = []
    for number in range(count):
        inputs = torch.randn(16, 4)
        targets = inputs[:, :3].argmax(1)
        targets[2 + 12 * (number % 2) :] = -100
        batches.append((inputs, targets))
    return batches


@silent_bug(
    "32",
    "under accumulation each batch weighs the same, whether it has two tokens or fourteen",
    *("transformers PR34191", "transformers#37766", "transformers#35203"),
    said="recorded",
    line="train/epoch/fit/window/batch/gradient/loss wrote 'loss' last, and it does not hold at ",
    culprit="train/epoch/fit/window/batch/gradient/loss",
)
def loss_normalised_per_batch(buggy: bool) -> Learner:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def per_token(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="sum") / 8  # the mean number of tokens in a batch

    loss_fn = F.cross_entropy if buggy else per_token
    tree = supervised(valid=False, accumulate=2)
    return Learner(model, loss_fn, optimizer, train=sentences(), stages=tree)


class Scan(nn.Module):
    """A layer with a parameter of its own: how fast each channel forgets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> Any:
        return self.out(inputs * self.decay)


@silent_bug(
    "44a",
    "the initialisation leaves out a parameter, which stays constant: before the Learner is made",
    *("flash-linear-attention PR739", "flash-linear-attention PR753"),
    said="missed",
    why="It happens before there is a Learner, and a constant may be meant.",
)
def init_left_out(buggy: bool) -> Learner:
    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, Scan) and not buggy:
            nn.init.uniform_(module.decay, 1, 16)

    model = Scan(4).apply(init)
    return Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=samples())


def left_out(learner: Learner) -> Change | None:
    """What the initialisation was seen to write, if the layer's own parameter is not in it."""
    written = learner.log.where(kind="seen", field="model.params", actor="*Init.init")
    return next((one for one in written if "decay" not in str(one.after)), None)


@silent_bug(
    "44b",
    "the initialisation leaves out a parameter, which stays constant: in a hook",
    *("flash-linear-attention PR739", "flash-linear-attention PR753"),
    said="asked",
    line="train:before:Init.init: model.params ",
    culprit="train:before:Init.init",
    is_located=True,
    mode="debug",
    question="which parameters was the initialisation seen to write?",
    ask=left_out,
)
def init_left_out_by_a_hook(buggy: bool) -> Learner:
    class Init(Callback):
        @before("/", first="1 epochs", writes=("model.params",), touches=("rng",))
        def init(self, model: nn.Module) -> None:
            nn.init.normal_(model.out.weight, std=0.02)
            if not buggy:
                nn.init.uniform_(model.decay, 1, 16)

    model = Scan(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), callbacks=[Init()])
