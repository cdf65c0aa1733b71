"""The invariants that every Learner has: each is broken by one program, and holds in its near miss."""

import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ExponentialLR

from learner import (
    Callback,
    InvariantBroken,
    InvariantWarning,
    Learner,
    TrainState,
    after,
    around,
    before,
    field,
    stage,
)
from learner.callbacks import Schedule
from learner.invariants import INVARIANTS
from stages import Chain, ClearGradients, Epoch, Fetch, Fit, FitBatch, Forward, Loss, Train, Unpack, Update

Build = Callable[[bool], Learner]
Program = tuple[Build, str, str]

PROGRAMS: list[Any] = []


def breaks(name: str, culprit: str) -> Callable[[Build], Build]:
    """A function that makes a Learner that breaks the invariant of this name, or its near miss."""

    def add(build: Build) -> Build:
        assert name in {one.name for one in INVARIANTS}
        PROGRAMS.append(pytest.param(build, name, culprit, id=build.__name__))
        return build

    return add


def network(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *extra, nn.ReLU(), nn.Linear(8, 1))


def learner_of(model: nn.Module, *callbacks: Any, train: Iterable[Any] | None = None, **settings: Any) -> Learner:
    inputs = torch.randn(6, 8, 4)
    batches = [(batch, batch.sum(1, keepdim=True)) for batch in inputs]
    optimizer = settings.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.05)
    loss_fn = settings.pop("loss_fn", F.mse_loss)
    return Learner(
        model, loss_fn, optimizer, train=train or batches, valid=batches[:2], callbacks=callbacks, **settings
    )


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
    from learner import supervised

    class Fall(Callback):
        @after("window/batch" if is_bad else "update", writes=("optimizer.hyper",))
        def fall(self, optimizer: torch.optim.SGD) -> None:
            optimizer.param_groups[0]["lr"] *= 0.9

    return learner_of(network(), Fall(), stages=supervised(accumulate=2))


@breaks("what is to be trained gets gradients", "train/epoch/fit/batch/update")
def encoder_that_is_cut_off(is_bad: bool) -> Learner:
    class Cut(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.detach() if is_bad else inputs

    return learner_of(network(Cut()))


@breaks("what gets a gradient is updated", "train/epoch/fit/batch/update")
def head_that_no_optimizer_has(is_bad: bool) -> Learner:
    model = network()
    if not is_bad:
        model[2].requires_grad_(False)
    return learner_of(model, optimizer=torch.optim.SGD(model[0].parameters(), lr=0.05))


@breaks(
    "a number that outlives its batch has no graph, and is not in half precision", "train/epoch/fit/batch:after:Sum.add"
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
    "a number that outlives its batch has no graph, and is not in half precision",
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
    from learner import supervised

    model = network()
    second = torch.optim.SGD((model if is_bad else model[2]).parameters(), lr=0.01)

    class Two(TrainState):
        second_optimizer: torch.optim.Optimizer

    @stage(state=Two, writes=("model.params", "second_optimizer.state"), reads=("model.grads",))
    def step(second_optimizer: torch.optim.Optimizer) -> None:
        second_optimizer.step()

    first = torch.optim.SGD(model[0].parameters(), lr=0.05)
    tree = supervised().insert(step, after="update", slot="second")
    return learner_of(model, optimizer={"optimizer": first, "second_optimizer": second}, stages=tree)


@breaks("a scheduler moves an optimizer of State", "train/epoch/fit/batch:after:Renew.renew")
def schedule_of_an_optimizer_that_was_replaced(is_bad: bool) -> Learner:
    class Renew(Callback):
        @after("fit/batch", first="1 batch", reads=("model", "schedule"), writes=("optimizer", "schedule"))
        def renew(self, state: Any) -> None:
            state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.05)
            state.schedule = state.schedule if is_bad else ExponentialLR(state.optimizer, 0.9)

    return learner_of(network(), Schedule(lambda optimizer: ExponentialLR(optimizer, 0.9)), Renew())


@breaks("a batch that comes again is what it was", "train/epoch/fit/batch/unpack:after:Mask.mask")
def inputs_that_are_masked_in_the_loaders_memory(is_bad: bool) -> Learner:
    class Mask(Callback):
        @after("fit/batch/unpack", writes=("inputs",))
        def mask(self, inputs: Tensor) -> Tensor:
            inputs = inputs if is_bad else inputs.clone()
            inputs[:, 0] *= 0.9
            return inputs

    return learner_of(network(), Mask())


@breaks("random numbers do not come again", "train/epoch/fit")
def seed_that_is_set_after_every_epoch(is_bad: bool) -> Learner:
    class Sample(Callback):
        @after("epoch", touches=("rng",))
        def draw(self, model: nn.Module) -> None:
            torch.manual_seed(0 if is_bad else torch.seed())

    return learner_of(network(nn.Dropout(0.5)), Sample())


@breaks("a model is trained in train mode", "train/epoch/fit/batch/update:after:Look.look")
def look_inside_an_epoch_that_leaves_eval_mode(is_bad: bool) -> Learner:
    class Look(Callback):
        @after("update", every="4 updates", writes=("model.mode",))
        def look(self, model: nn.Module, inputs: Tensor) -> None:
            model.eval()
            with torch.no_grad():
                model(inputs)
            model.train(not is_bad)

    return learner_of(network(nn.Dropout(0.1)), Look())


@breaks("a model is evaluated in eval mode", "train/epoch/validate/batch:before:Wake.wake")
def evaluation_in_train_mode(is_bad: bool) -> Learner:
    class Wake(Callback):
        @before("validate/batch", writes=("model.mode",))
        def wake(self, model: nn.Module) -> None:
            model.train(is_bad)

    return learner_of(network(nn.Dropout(0.1)), Wake())


@breaks("an evaluation leaves the models as it finds them", "train/epoch/validate:before:Rounded.down")
def weights_that_are_rounded_for_validation(is_bad: bool) -> Learner:
    class Rounded(Callback):
        def fields(self) -> dict[str, Any]:
            kept = field(default=None, saved="volatile", because="of one validation")
            return {"kept": (dict[str, Any] | None, kept)}

        @before("validate", writes=("model.params", "kept"))
        def down(self, state: Any) -> None:
            state.kept = {name: value.clone() for name, value in state.model.state_dict().items()}
            with torch.no_grad():
                for parameter in state.model.parameters():
                    parameter.round_(decimals=1)

    class Round(Rounded):
        @after("validate", reads=("kept",), writes=("model.params",))
        def back(self, state: Any) -> None:
            state.model.load_state_dict(state.kept)

    return learner_of(network(), Rounded() if is_bad else Round())


def test_best_weights_put_back_after_a_validation_are_no_finding() -> None:
    class Best(Callback):
        @after("validate", writes=("model.params",))
        def restore(self, model: nn.Module) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0.5)

    learner = learner_of(network(), Best())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.fit(epochs=2)
    assert not learner.log.violations()


@breaks("statistics follow the parameters that they belong to", "train/epoch/fit/batch/update:after:Ema.follow")
def average_without_its_statistics(is_bad: bool) -> Learner:
    class EmaState(TrainState):
        ema: nn.Module = field(factory=lambda state: deepcopy(state.model))

    class Ema(Callback):
        @after("update", state=EmaState, writes=("ema.params",) if is_bad else ("ema.params", "ema.buffers"))
        def follow(self, ema: nn.Module, model: nn.Module) -> None:
            with torch.no_grad():
                for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
                for slow, fast in zip(ema.buffers(), model.buffers(), strict=True):
                    slow.copy_(slow if is_bad else fast)

    return learner_of(network(nn.BatchNorm1d(8)), Ema())


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


@breaks("a frozen layer keeps its statistics", "train/epoch/fit/batch/gradient/forward")
def frozen_batch_norm_in_train_mode(is_bad: bool) -> Learner:
    model = network(nn.BatchNorm1d(8))
    model[:2].requires_grad_(False)
    model.train()
    model[1].train(is_bad)
    return learner_of(model)


@breaks("there is an output for every target", "train/epoch/fit/batch/gradient/forward:after:Pool.pool")
def outputs_of_half_the_batch(is_bad: bool) -> Learner:
    class Pool(Callback):
        @after("fit/batch/gradient/forward", writes=("outputs",))
        def pool(self, outputs: Tensor) -> Tensor:
            return outputs.mean(0, keepdim=True).expand(1 if is_bad else 8, 1)

    return learner_of(network(), Pool(), loss_fn=lambda outputs, targets: (outputs - targets).square().mean())


@breaks("the batches of a pass differ", "train/epoch/fit/fetch")
def loader_that_gives_copies_of_one_batch(is_bad: bool) -> Learner:
    inputs = torch.randn(8, 4)
    one = (inputs, inputs.sum(1, keepdim=True))
    copies = [tuple(part.clone() for part in one) if is_bad else one for _ in range(6)]
    return learner_of(network(), train=copies)


@breaks("random numbers do not come again", "train/epoch/fit/batch/gradient/forward")
def seed_that_is_set_before_every_batch(is_bad: bool) -> Learner:
    class Seeded(Callback):
        @around("fit/batch", first=None if is_bad else "1 batch", touches=("rng",))
        def seed(self, model: nn.Module) -> Any:
            torch.manual_seed(0)
            yield

    return learner_of(network(nn.Dropout(0.5)), Seeded())


def violations(learner: Learner) -> list[tuple[str, str]]:
    """What breaks in three epochs: (name of the invariant, who is named)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InvariantWarning)
        try:
            learner.fit(epochs=3)
        except InvariantBroken as error:
            assert str(error).startswith(error.actor)
    assert len(caught) <= len(learner.log.violations())
    return list(dict.fromkeys((row.evidence, row.actor) for row in learner.log.where(kind="broken")))


@pytest.mark.parametrize(("build", "name", "culprit"), PROGRAMS)
def test_it_is_found_once_with_its_culprit(build: Build, name: str, culprit: str) -> None:
    assert violations(build(True)) == [(name, culprit)]


@pytest.mark.parametrize(("build", "name", "culprit"), PROGRAMS)
@pytest.mark.parametrize("is_debugging", [False, True])
def test_its_near_miss_is_no_finding(build: Build, name: str, culprit: str, is_debugging: bool) -> None:
    learner = build(False)
    learner.debug(is_debugging)
    assert violations(learner) == []
    assert not learner.log.violations()


def test_every_invariant_has_a_program() -> None:
    assert {program.values[1] for program in PROGRAMS} == {one.name for one in INVARIANTS}


def test_run_that_is_taken_back_may_draw_again_what_it_drew(tmp_path: Path) -> None:
    learner = learner_of(network(nn.Dropout(0.5)), run_dir=tmp_path / "run")
    learner.save(tmp_path / "start")
    learner.fit(epochs=1)
    learner.load(tmp_path / "start")
    learner.fit(epochs=1)
    assert not learner.log.where(kind="broken")
