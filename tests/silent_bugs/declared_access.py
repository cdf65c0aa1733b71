"""Silent bugs that declared access is for: somebody changes what it does not declare, or may not change."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learner import Callback, Learner, TrainState, after, around, before, field, stage
from learner.recipes import supervised
from tests.silent_bugs.harness import network, samples, silent_bug


class Frozen(TrainState):
    """A model in two parts, of which the first is to stay as it is."""

    backbone: nn.Module


@silent_bug(
    "5a",
    "frozen layers are trained: the optimizer has got them all",
    "mmpretrain#702",
    said="refused",
    line="train/epoch/fit/batch/update writes 'optimizer.state': that optimizer updates 'backbone.params.0.weight' ",
    culprit="train/epoch/fit/batch/update",
)
def frozen_backbone_in_the_optimizer(buggy: bool) -> Learner:
    backbone, model = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 1)
    trained = [*backbone.parameters(), *model.parameters()] if buggy else [*model.parameters()]

    @stage(state=Frozen, writes=("outputs",))
    def forward(backbone: nn.Module, model: nn.Module, inputs: Tensor) -> Any:
        return model(backbone(inputs))

    tree = supervised(valid=False).swap("forward", forward)
    fit = tree.epoch.fit
    tree = tree.swap("fit/batch", type(fit.batch)(*fit.batch.stages.values(), forbids=("backbone.params",)))
    models = {"model": model, "backbone": backbone}
    return Learner(models, F.mse_loss, torch.optim.SGD(trained, lr=0.1), train=samples(), stages=tree)


@silent_bug(
    "5b",
    "a frozen backbone goes on changing: its BatchNorm is in train mode",
    "mmpretrain#702",
    said="recorded",
    line="train/epoch/fit/batch/gradient/forward: it does not hold that a frozen layer keeps its statistics: ",
    culprit="train/epoch/fit/batch/gradient/forward",
)
def frozen_backbone_in_train_mode(buggy: bool) -> Learner:
    model = network(4, nn.BatchNorm1d(8))
    backbone = model[:2].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    learner = Learner(model, F.mse_loss, optimizer, train=samples())
    if not buggy:
        backbone.eval()
    return learner


@silent_bug(
    "7",
    "moving the model to write its weights leaves it another one (here: to half precision and back)",
    "pytorch#104336",
    said="raised",
    line="train/epoch:after:export changed 'model.params' (0.weight, 0.bias, 2.weight and 1 more; seen by contents)",
    culprit="train/epoch:after:export",
    is_located=True,
)
def model_moved_to_be_saved(buggy: bool) -> Learner:
    model = network()
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=samples())

    @learner.after("epoch")
    def export(state: TrainState) -> None:
        model = state.model if buggy else deepcopy(state.model)
        torch.save(model.half().state_dict(), "weights.pt")
        model.float()

    return learner


def words(count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of five sequences of four tokens, with a class for each."""
    return [(torch.randint(10, (5, 4)), torch.randint(3, (5,))) for _ in range(count)]


class Bag(nn.Module):
    """The mean of what is known of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 6), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.table(tokens).mean(1))


def own_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """One that broadcasts."""
    return -(outputs.log_softmax(-1) * F.one_hot(targets, 3)).sum(-1).mean()


@silent_bug(
    "15a",
    "a processor merges the samples of a batch into one: in the loader",
    "transformers#34204",
    said="raised",
    line="The loader gave 'inputs' and 'targets' of unequal length: 1 and 5. A batch needs one target per input.",
    culprit="The loader",
)
def processor_merges_in_the_loader(buggy: bool) -> Learner:
    train = [(tokens.reshape(1, -1) if buggy else tokens, targets) for tokens, targets in words(6)]
    model = Bag()
    return Learner(model, own_cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1), train=train)


@silent_bug(
    "15b",
    "a processor merges the samples of a batch into one: in a hook, and the outputs are broadcast",
    "transformers#34204",
    said="recorded",
    line=(
        "train/epoch/fit/batch/unpack:after:Process.process wrote 'inputs', of which 'outputs' was made, and it "
        "does not hold at"
    ),
    culprit="train/epoch/fit/batch/unpack:after:Process.process",
    is_located=True,
)
def processor_merges_in_a_hook(buggy: bool) -> Learner:
    class Process(Callback):
        """Shifts the tokens, as a tokenizer with its own padding does."""

        @after("unpack", writes=("inputs",))
        def process(self, inputs: Tensor) -> Tensor:
            return torch.cat(list(inputs.roll(1, 1)))[None] if buggy else inputs.roll(1, 1)

    model = Bag()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, own_cross_entropy, optimizer, train=words(6), callbacks=[Process()])


@silent_bug(
    "18a",
    "the model stays in eval mode after a validation inside the epoch: an observer",
    *("pytorch-fcn#57", "joeynmt#184", "ncsn#2", "ethics#5", "ppe#688", "texar PR311", "clevr-iep PR22"),
    said="raised",
    line="train/epoch/fit/batch/update:after:evaluate changed 'model.mode' (training, 0.training, ",
    culprit="train/epoch/fit/batch/update:after:evaluate",
    is_located=True,
)
def left_in_eval_mode(buggy: bool) -> Learner:
    model = network(4, nn.Dropout(0.1))
    valid = samples(2)
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=samples())

    @learner.after("update", every="3 batches")
    def evaluate(state: TrainState) -> None:
        state.model.eval()
        with torch.no_grad():
            print(sum(F.mse_loss(state.model(inputs), targets) for inputs, targets in valid) / len(valid))
        if not buggy:
            state.model.train()

    return learner


@silent_bug(
    "18b",
    "the model stays in eval mode after a validation inside the epoch: a hook that declares the mode",
    *("pytorch-fcn#57", "joeynmt#184", "ncsn#2", "ethics#5", "ppe#688", "texar PR311", "clevr-iep PR22"),
    said="recorded",
    line=(
        "train/epoch/fit/batch/update:after:evaluate wrote 'model.mode.train' last, and it does not hold at "
        "train/epoch/fit/batch/clear_gradients "
    ),
    culprit="train/epoch/fit/batch/update:after:evaluate",
    is_located=True,
)
def left_in_eval_mode_declared(buggy: bool) -> Learner:
    model = network(4, nn.Dropout(0.1))
    valid = samples(2)
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=samples())

    @learner.after("update", every="3 batches", writes=("model.mode",))
    def evaluate(model: nn.Module) -> None:
        model.eval()
        with torch.no_grad():
            print(sum(F.mse_loss(model(inputs), targets) for inputs, targets in valid) / len(valid))
        if not buggy:
            model.train()

    return learner


class EmaState(TrainState):
    """An average of the weights."""

    ema: nn.Module = field(factory=lambda state: deepcopy(state.model), description="average of the weights")


class Ema(Callback):
    """Averages the weights over updates."""

    @after("update", state=EmaState, writes=("ema.params",))
    def follow(self, ema: nn.Module, model: nn.Module) -> None:
        with torch.no_grad():
            for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.1)


class Average:
    """An average of weights that can store the weights, take their place and give them back, as diffusers has it."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow = [p.detach().clone() for p in model.parameters()]
        self.kept: list[Tensor] = []

    def update(self, model: nn.Module) -> None:
        for slow, fast in zip(self.shadow, model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.1)

    def store(self, model: nn.Module) -> None:
        self.kept = [p.detach().clone() for p in model.parameters()]

    def copy_to(self, model: nn.Module) -> None:
        self._fill(model, self.shadow)

    def restore(self, model: nn.Module) -> None:
        self._fill(model, self.kept)

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow, "kept": self.kept}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.shadow, self.kept = saved["shadow"], saved["kept"]

    def _fill(self, model: nn.Module, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), values, strict=True):
                parameter.copy_(value)


@silent_bug(
    "21a",
    "averaged weights are lent for validation and never given back: in a pair",
    *("Open-Sora-Plan#186", "waifu-diffusion PR31", "diffusers#7549"),
    said="raised",
    line="train/epoch/validate:around:Lent.lend changed 'model.params' (0.weight, 0.bias, 2.weight and 1 more; ",
    culprit="train/epoch/validate:around:Lent.lend",
    is_located=True,
)
def average_is_lent_for_good(buggy: bool) -> Learner:
    class Lent(Ema):
        @around("validate", state=EmaState, restores=("model.params",))
        def lend(self, ema: nn.Module, model: nn.Module) -> Any:
            own = deepcopy(model.state_dict())
            model.load_state_dict(ema.state_dict())
            yield
            if not buggy:
                model.load_state_dict(own)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=[Lent()])


@silent_bug(
    "21b",
    "averaged weights are copied in for validation and never taken out: a hook that declares it",
    *("Open-Sora-Plan#186", "waifu-diffusion PR31", "diffusers#7549"),
    said="recorded",
    line="train/epoch/validate:before:Copied.copy_in wrote 'model.params' last, and it does not hold at",
    culprit="train/epoch/validate:before:Copied.copy_in",
    is_located=True,
)
def average_is_copied_in_for_good(buggy: bool) -> Learner:
    class Copied(Callback):
        """The average takes the place of the weights before a validation."""

        def fields(self) -> dict[str, Any]:
            average = field(factory=lambda state: Average(state.model), description="average of the weights")
            return {"average": (Average, average)}

        @after("update", reads=("model",), writes=("average.state",))
        def follow(self, state: Any) -> None:
            state.average.update(state.model)

        @before("validate", writes=("model.params", "average.state"))
        def copy_in(self, state: Any) -> None:
            state.average.store(state.model)
            state.average.copy_to(state.model)

    class AndOut(Copied):
        @after("validate", reads=("average",), writes=("model.params",))
        def restore(self, state: Any) -> None:
            state.average.restore(state.model)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callbacks = [Copied() if buggy else AndOut()]
    return Learner(model, F.mse_loss, optimizer, train=samples(), valid=samples(2), callbacks=callbacks)
