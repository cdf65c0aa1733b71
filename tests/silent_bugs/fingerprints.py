"""Silent bugs that identity, version counters and fingerprints are for: what should change does not."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from learner import Callback, Learner, after, before, stage
from learner.recipes import supervised
from stages import Update
from tests.silent_bugs.harness import network, samples, silent_bug


class Flat(nn.Module):
    """A module whose parameters are copied into one flat vector, as a sharding wrapper does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = [module.requires_grad_(False)]
        self.flat = nn.Parameter(nn.utils.parameters_to_vector(module.parameters()).detach().clone())

    def forward(self, inputs: Tensor) -> Any:
        named, start = {}, 0
        for name, parameter in self._module[0].named_parameters():
            named[name] = self.flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        return torch.func.functional_call(self._module[0], named, (inputs,))


@silent_bug(
    "2",
    "the optimizer updates parameters that the model does not use any more: it was made before the model was wrapped",
    "accelerate#2665",
    said="refused",
    line="Learner: 'optimizer' updates no parameter of ['model'].",
    culprit="'optimizer'",
)
def optimizer_made_before_wrapping(buggy: bool) -> Learner:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    wrapped = Flat(model)
    if not buggy:
        optimizer = torch.optim.Adam(wrapped.parameters(), lr=0.01)
    return Learner(wrapped, F.mse_loss, optimizer, train=samples())


@silent_bug(
    "3a",
    "a layer is replaced after the optimizer was made, and never trained",
    *("nni#4521", "nncf PR327", "pytorch#14467"),
    said="refused",
    line="Learner: 'optimizer' updates 2 tensors that nothing in State holds, of shape (1, 8), and no optimizer "
    "updates model.params.2.weight, model.params.2.bias.",
    culprit="model.params.2.weight",
)
def head_replaced_after_the_optimizer(buggy: bool) -> Learner:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model[2] = nn.Linear(8, 1)
    if not buggy:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return Learner(model, F.mse_loss, optimizer, train=samples())


@silent_bug(
    "3b",
    "parameters are replaced in the run, by pruning, and the optimizer keeps the old ones",
    *("nni#4521", "nncf PR327", "pytorch#14467"),
    said="recorded",
    line="train/epoch:after:Prune.prune wrote 'model.params' last, and it does not hold at",
    culprit="train/epoch:after:Prune.prune",
    is_located=True,
)
def pruned_in_the_run(buggy: bool) -> Learner:
    class Prune(Callback):
        """After the first epoch the four least neurons go."""

        @after("epoch", first="1 epochs", writes=("model.params", "optimizer.hyper"), touches=("model.grads", "rng"))
        def prune(self, model: nn.Sequential, optimizer: Optimizer) -> None:
            kept = model[0].weight.norm(dim=1).topk(4).indices
            first, last = nn.Linear(4, 4), nn.Linear(4, 1)
            first.load_state_dict({"weight": model[0].weight[kept], "bias": model[0].bias[kept]})
            last.load_state_dict({"weight": model[2].weight[:, kept], "bias": model[2].bias})
            model[0], model[2] = first, last
            if not buggy:
                optimizer.param_groups[0]["params"] = [*model.parameters()]

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), callbacks=[Prune()])


class Kernel(Optimizer):
    """A signed update by a kernel that, on memory that is not contiguous, writes into a copy."""

    def __init__(self, parameters: Any, lr: float, *, copies: bool) -> None:
        super().__init__(parameters, {"lr": lr})
        self.copies = copies

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                target = parameter.contiguous() if self.copies else parameter
                target.add_(parameter.grad.sign(), alpha=-group["lr"])


@silent_bug(
    "9",
    "the optimizer's kernel writes nothing for weights that are not contiguous",
    "elanapearl.github.io 2025",
    said="recorded",
    line=(
        "train/epoch/fit/batch/update wrote 'model.params' last, and it does not hold that an update changes what has a"
    ),
    culprit="train/epoch/fit/batch/update",
)
def kernel_that_writes_a_copy(buggy: bool) -> Learner:
    model = network()
    model[0].weight.data = model[0].weight.data.t().contiguous().t()  # as a tied or transposed encoder has it
    return Learner(model, F.mse_loss, Kernel(model.parameters(), 0.01, copies=buggy), train=samples())


class Compiled(torch.optim.SGD):
    """An optimizer whose step is specialised on the parameters that have a gradient when it is first taken."""

    known: list[Tensor] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        having = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.known = having if self.known is None else self.known
        for parameter in self.known:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])


@silent_bug(
    "10",
    "a compiled step leaves out for ever what had no gradient when it was first taken",
    "pytorch#115607",
    said="recorded",
    line=(
        "train/epoch/fit/batch/update wrote 'model.params' last, and it does not hold that an update changes what has a"
    ),
    culprit="train/epoch/fit/batch/update",
)
def compiled_step_without_gradients(buggy: bool) -> Learner:
    class Thaw(Callback):
        """The first layer is frozen in the first epoch."""

        @before("epoch", reads=("epochs_done",), writes=("model.mode",))
        def thaw(self, state: Any) -> None:
            state.model[0].requires_grad_(state.epochs_done > 0)

    model = network()
    kind = Compiled if buggy else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.1)
    return Learner(model, F.mse_loss, optimizer, train=samples(), callbacks=[Thaw()])


@silent_bug(
    "13a",
    "parameters are initialised again and again: each module initialises all below it",
    "transformers PR17877",
    said="missed",
    why="What a hook does several times is one write, however often.",
)
def init_by_every_module(buggy: bool) -> Learner:
    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)

    model = nn.Sequential(network(), nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1)))
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=samples())

    @learner.before("/", writes=("model.params",), touches=("rng",), first="1 epochs")
    def initialise(model: nn.Module) -> None:
        for module in model.modules() if buggy else [model]:
            module.apply(init)

    return learner


@silent_bug(
    "13b",
    "the initialisation runs again when a run goes on, and what was learnt is gone",
    "transformers PR17877",
    said="asked",
    line="train:before:initialise at update 6: model.params",
    culprit="train:before:initialise",
    is_located=True,
    question="who wrote model.params, and when: the initialisation, after an update?",
    ask=lambda learner: next((one for one in learner.log.where(actor="*initialise") if one.position.update), None),
)
def init_at_each_fit(buggy: bool) -> tuple[Learner, Any]:
    model = network()
    learner = Learner(model, F.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1), train=samples())
    once = {} if buggy else {"when": lambda state: state.updates == 0}

    @learner.before("/", writes=("model.params",), touches=("rng",), **once)
    def initialise(model: nn.Module) -> None:
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.3, 0.3)

    return learner, lambda learner: [learner.fit(epochs=1), learner.fit(epochs=1)]


@silent_bug(
    "45",
    "a graph from before the update is differentiated after it: a fused step hides that from autograd",
    "measured here",
    said="raised",
    line="one of the variables needed for gradient computation has been modified by an inplace operation "
    "In train/epoch/fit/batch/again at epoch 0, fit, batch 0, update 1",
    culprit="train/epoch/fit/batch/again",
    is_located=True,
)
def stale_graph_after_a_fused_step(buggy: bool) -> Learner:
    @stage(reads=("loss", "model.params"), writes=("model.grads",))
    def backward(state: Any) -> None:
        state.loss.backward(retain_graph=True)

    @stage(writes=("model.grads",), touches=("model.buffers",))
    def again(model: nn.Module, loss: Tensor, loss_fn: Any, inputs: Tensor, targets: Tensor) -> None:
        for parameter in model.parameters():
            parameter.grad = None
        (loss if buggy else loss_fn(model(inputs), targets)).backward()

    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    tree = supervised(valid=False).swap("backward", backward)
    tree = tree.insert(again, after="update").insert(Update(), after="again", slot="update_again")
    return Learner(model, F.mse_loss, optimizer, train=samples(), stages=tree)
