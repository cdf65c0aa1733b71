"""Programs that break what is so of updates and gradients, each with its near miss."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, LRScheduler, StepLR

from learner import (
    Callback,
    Learner,
    Skip,
    TrainState,
    after,
    before,
    field,
    stage,
    supervised,
)
from learner.callbacks import Schedule
from stages import Chain, ClearGradients, Epoch, Fetch, Fit, FitBatch, Forward, Loss, Train, Unpack, Update
from tests.learner.invariants.breaking import breaks, learner_of, network


@breaks("an update changes what has a gradient, and nothing that is frozen", "train/epoch/fit/batch/update")
def frozen_layer_that_weight_decay_changes(is_bad: bool) -> Learner:
    class Decaying(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            with torch.no_grad():
                for parameter in self.param_groups[0]["params"]:
                    if is_bad or parameter.requires_grad:
                        parameter.mul_(0.99)
            return super().step(closure)

    model = network()
    model[0].requires_grad_(False)
    return learner_of(model, optimizer=Decaying(model.parameters(), lr=0.05))


@breaks("an update changes what has a gradient, and nothing that is frozen", "train/epoch/fit/batch/update")
def optimizer_that_forgets_its_last_group(is_bad: bool) -> Learner:
    class Forgetting(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            groups = self.param_groups
            self.param_groups = groups[:1] if is_bad else groups
            try:
                return super().step(closure)
            finally:
                self.param_groups = groups

    model = network()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
    return learner_of(model, optimizer=Forgetting(groups, lr=0.05))


@breaks("an optimizer updates what State holds", "train/epoch/fit/batch:after:Exchange.renew")
def layer_that_is_exchanged_in_the_run(is_bad: bool) -> Learner:
    class Exchange(Callback):
        @after(
            "fit/batch", first="1 batch", writes=("model.params", "model.grads", "optimizer.hyper"), touches=("rng",)
        )
        def renew(self, model: nn.Sequential, optimizer: torch.optim.SGD) -> None:
            model[2] = nn.Linear(8, 1)
            if not is_bad:
                optimizer.param_groups[0]["params"] = [*model.parameters()]

    return learner_of(network(), Exchange())


@breaks("what is kept does not change with the parameters", "train/epoch/fit/batch:after:Best.keep")
def best_weights_that_are_the_live_ones(is_bad: bool) -> Learner:
    class Best(Callback):
        def fields(self) -> dict[str, Any]:
            return {"best": (dict[str, Any], field(default={}, description="the weights to go back to"))}

        @after("fit/batch", first="1 batch", writes=("best",))
        def keep(self, model: nn.Module) -> dict[str, Tensor]:
            return {name: value if is_bad else value.clone() for name, value in model.state_dict().items()}

    return learner_of(network(), Best())


@breaks("a hyper-parameter is used before its writer replaces it", "train/epoch/fit/window/batch:after:Fall.fall")
def rate_that_falls_with_every_batch_of_a_window(is_bad: bool) -> Learner:
    class Fall(Callback):
        @after("window/batch" if is_bad else "update", writes=("optimizer.hyper",))
        def fall(self, optimizer: torch.optim.SGD) -> None:
            optimizer.param_groups[0]["lr"] *= 0.9

    return learner_of(network(), Fall(), stages=supervised(accumulate=2))


@breaks("what is to be trained gets gradients", "train/epoch/fit")
def encoder_that_is_cut_off(is_bad: bool) -> Learner:
    class Cut(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.detach() if is_bad else inputs

    return learner_of(network(Cut()))


@breaks("what is to be trained gets gradients", "train/epoch/fit")
def loss_without_a_backward(is_bad: bool) -> Learner:
    tree = supervised()
    return learner_of(network(), stages=tree.remove("epoch/fit/batch/gradient/backward") if is_bad else tree)


@breaks("what a backward pass computes is used", "train/epoch/fit/batch/clear_gradients")
def update_that_is_skipped_while_the_gradients_are_cleared(is_bad: bool) -> Learner:
    class Gather(Callback):
        @before("update")
        def wait(self, batch_index: int) -> None:
            if batch_index % 3 != 2:
                raise Skip("wait")

        @before("clear_gradients")
        def keep(self, batch_index: int) -> None:
            if batch_index % 3 and not is_bad:
                raise Skip("wait")

    return learner_of(network(), Gather())


@breaks("groups of an optimizer that differ go on to differ", "train/epoch/fit/batch/update:before:Rise.rise")
def warm_up_that_gives_all_groups_one_rate(is_bad: bool) -> Learner:
    class Rise(Callback):
        @before("update", writes=("optimizer.hyper.lr",))
        def rise(self, optimizer: torch.optim.SGD, updates: int) -> None:
            for group, rate in zip(optimizer.param_groups, (0.05, 0.01), strict=True):
                group["lr"] = min(1.0, updates / 5) * (0.05 if is_bad else rate)

    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[2].parameters(), "lr": 0.01}]
    return learner_of(model, Rise(), optimizer=torch.optim.SGD(groups))


@breaks("what gets a gradient is updated", "train/epoch/fit/batch/update")
def head_that_no_optimizer_has(is_bad: bool) -> Learner:
    model = network()
    if not is_bad:
        model[2].requires_grad_(False)
    return learner_of(model, optimizer=torch.optim.SGD(model[0].parameters(), lr=0.05))


@breaks(
    "a number that outlives its batch has not the graph of each, and is not in half precision",
    "train/epoch/fit/batch:after:Sum.add",
)
def sum_of_losses_with_all_their_graphs(is_bad: bool) -> Learner:
    class Sum(Callback):
        def fields(self) -> dict[str, Any]:
            return {"total": (Tensor, field(factory=lambda state: torch.zeros(()), scope="epoch"))}

        @after("fit/batch", writes=("total",))
        def add(self, total: Tensor, loss: Tensor) -> Tensor:
            return total + (loss if is_bad else loss.detach())

    return learner_of(network(), Sum())


@breaks(
    "a number that outlives its batch has not the graph of each, and is not in half precision",
    "train/epoch/validate/batch:after:Hits.count",
)
def hits_that_are_counted_in_half_precision(is_bad: bool) -> Learner:
    class Hits(Callback):
        def fields(self) -> dict[str, Any]:
            return {"hits": (Tensor | None, field(default=None, scope="phase"))}

        @after("validate/batch", writes=("hits",))
        def count(self, hits: Tensor | None, outputs: Tensor) -> Tensor:
            kind = torch.bfloat16 if is_bad else torch.float32
            before = torch.zeros((), dtype=kind) if hits is None else hits
            return before + (outputs > 0).sum().type_as(before)

    return learner_of(network(), Hits())


@breaks("a parameter is changed by one optimizer", "train/epoch/fit/batch/second")
def layer_that_two_optimizers_hold(is_bad: bool) -> Learner:
    model = network()
    second = torch.optim.SGD((model if is_bad else model[2]).parameters(), lr=0.01)

    class Two(TrainState):
        second_optimizer: torch.optim.Optimizer

    @stage(state=Two, writes=("model.params", "second_optimizer.state"), reads=("model.grads",))
    def step(second_optimizer: torch.optim.Optimizer) -> None:
        second_optimizer.step()

    first = torch.optim.SGD(model[0].parameters(), lr=0.05)
    clear = ClearGradients().bind(optimizer="second_optimizer")
    tree = supervised().insert(step, after="update", slot="second").insert(clear, before="gradient", slot="clear")
    return learner_of(model, optimizer={"optimizer": first, "second_optimizer": second}, stages=tree)


@breaks("a scheduler moves an optimizer of State", "train/epoch/fit/batch:after:Renew.renew")
def schedule_of_an_optimizer_that_was_replaced(is_bad: bool) -> Learner:
    class Renew(Callback):
        @after("fit/batch", first="1 batch", reads=("model", "schedule"), writes=("optimizer", "schedule"))
        def renew(self, state: Any) -> None:
            state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.05)
            state.schedule = state.schedule if is_bad else ExponentialLR(state.optimizer, 0.9)

    return learner_of(network(), Schedule(lambda optimizer: ExponentialLR(optimizer, 0.9)), Renew())


@breaks("an update uses gradients that were made for it", "train/epoch/fit/batch/backward")
def gradients_of_a_penalty_that_nobody_clears(is_bad: bool) -> Learner:
    class TwoState(TrainState):
        probe: nn.Module
        probe_optimizer: torch.optim.Optimizer
        probe_loss: Tensor = field(scope="batch")

    @stage(state=TwoState, writes=("probe_loss",))
    def probing(probe: nn.Module, model: nn.Module, inputs: Tensor) -> Tensor:
        return probe(model(inputs)).square().mean()

    @stage(state=TwoState, writes=("probe.grads",), touches=("*.grads",))
    def probe_backward(probe_loss: Tensor, probe: nn.Module) -> None:
        probe_loss.backward()

    @stage(writes=("model.grads",), touches=("*.grads",))
    def backward(loss: Tensor, model: nn.Module) -> None:
        loss.backward()

    own = {"model": "probe", "optimizer": "probe_optimizer"}
    extra = Chain(clear=ClearGradients().bind(**own), probing=probing, back=probe_backward)
    first = [ClearGradients(), Forward(), Loss(), backward, Update()]
    last = [Forward(), Loss(), backward, Update(), ClearGradients()]
    tree = Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), *(last if is_bad else first), extra=extra))))
    model, probe = network(), nn.Linear(1, 1)
    state = TwoState(
        model=model,
        probe=probe,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        probe_optimizer=torch.optim.SGD(probe.parameters(), lr=0.01),
        loss_fn=F.mse_loss,
    )
    inputs = torch.randn(6, 8, 4)
    return Learner.from_state(state, tree, train=[(batch, batch.sum(1, keepdim=True)) for batch in inputs])


@breaks("what is thawed is updated", "train/epoch:after:Thaw.thaw")
def layer_that_is_thawed_and_in_no_optimizer(is_bad: bool) -> Learner:
    class Thaw(Callback):
        @after("epoch", first="1 epoch", writes=("model.mode", "optimizer.hyper"))
        def thaw(self, model: nn.Sequential, optimizer: torch.optim.SGD) -> None:
            model[0].requires_grad_(True)
            if not is_bad:
                optimizer.add_param_group({"params": [*model[0].parameters()]})

    model = network()
    model[0].requires_grad_(False)
    return learner_of(model, Thaw(), optimizer=torch.optim.SGD(model[2].parameters(), lr=0.05))


@breaks("in one update a mean counts as much as what it is over", "train/epoch/fit/window/batch/gradient/loss")
def masks_of_unequal_length(is_bad: bool) -> Learner:
    inputs = torch.randn(6, 8, 4)
    targets = torch.zeros(6, 8, dtype=torch.long)
    targets[::2, 2:] = -100

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        logits = torch.cat([outputs, -outputs], dim=1)
        return F.cross_entropy(logits, targets) if is_bad else F.cross_entropy(logits, targets, reduction="sum") / 5

    train = [*zip(inputs, targets, strict=True)]
    return learner_of(network(), train=train, valid=None, loss_fn=loss_fn, stages=supervised(accumulate=2, valid=False))


@breaks("what is added to a loss is learnt from", "train/epoch/fit/batch/gradient/loss:after:penalise")
def penalty_without_a_graph(is_bad: bool) -> Learner:
    learner = learner_of(network())

    @learner.after("gradient/loss", writes=("loss",))
    def penalise(loss: Tensor, model: nn.Module, inputs: Tensor) -> Tensor:
        points = inputs.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=not is_bad)
        return loss + 3 * slope.square().sum(1).mean()

    return learner


@breaks("a schedule is planned in what it moves by", "train/epoch/fit/update:after:Schedule.after_update")
def cosine_that_is_counted_in_batches(is_bad: bool) -> Learner:
    length = 3 * 6 if is_bad else 3 * 3  # three passes over six batches
    cosine = Schedule(lambda optimizer: CosineAnnealingLR(optimizer, T_max=length))
    return learner_of(network(), cosine, stages=supervised(accumulate=2))


@breaks("weights in half precision move", "train/epoch/fit/batch/update")
def weights_whose_steps_are_rounded_away(is_bad: bool) -> Learner:
    model = network().to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.sign())
    inputs = torch.randn(12, 8, 4, dtype=torch.bfloat16)
    train = [(batch, batch.sum(1, keepdim=True)) for batch in inputs]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4 if is_bad else 0.1)
    return learner_of(model, train=train, valid=None, optimizer=optimizer, stages=supervised(valid=False))


@breaks("a scheduler does not set back what another one sets", "train/epoch:after:Schedule_2.after_epoch")
def warm_up_that_sets_back_what_another_schedule_has_cut(is_bad: bool) -> Learner:
    def cut(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return StepLR(optimizer, 1, 0.5 if is_bad else 1.0)

    warm_up = Schedule(lambda optimizer: LambdaLR(optimizer, lambda step: 1.0), name="warm_up")
    return learner_of(network(), warm_up, Schedule(cut, per="epoch"))


@breaks("an update changes what has a gradient, and nothing that is frozen", "train/epoch/fit/batch/update")
def layer_that_is_frozen_and_has_gradients_of_zeros(is_bad: bool) -> Learner:
    class Zeros(ClearGradients):
        def run(self, optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad(set_to_none=not is_bad)

    class Freeze(Callback):
        @before("epoch", reads=("epoch",), touches=("model.mode",))
        def freeze(self, model: nn.Module, epoch: int) -> None:
            model[0].requires_grad_(epoch == 0)  # type: ignore[index]

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return learner_of(model, Freeze(), optimizer=optimizer, stages=supervised().swap("clear_gradients", Zeros()))


@breaks("what is kept does not change with the parameters", "train/epoch:after:Best.keep")
def weights_that_an_observer_keeps_uncopied(is_bad: bool) -> Learner:
    class Best(Callback):
        def __init__(self) -> None:
            self.weights: dict[str, Tensor] = {}

        @after("epoch")
        def keep(self, state: Any) -> None:
            self.weights = {name: one if is_bad else one.clone() for name, one in state.model.state_dict().items()}

    return learner_of(network(), Best())
