"""Programs that break what is so of batches, modes and evaluations, each with its near miss."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from learner import (
    Callback,
    Learner,
    TrainState,
    after,
    around,
    before,
    field,
)
from tests.learner.invariants.breaking import breaks, learner_of, network


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

        @after("validate", state=EmaState)
        def compare(self, ema: nn.Module) -> None:
            assert next(ema.parameters()) is not None

    return learner_of(network(nn.BatchNorm1d(8)), Ema())


@breaks("a frozen layer keeps its statistics", "train/epoch/fit/batch/gradient/forward")
def frozen_batch_norm_in_train_mode(is_bad: bool) -> Learner:
    model = network(nn.BatchNorm1d(8))
    model[:2].requires_grad_(False)
    model.train()
    model[1].train(is_bad)
    return learner_of(model, optimizer=torch.optim.SGD(model[3].parameters(), lr=0.05))


@breaks("there is an output for every target", "train/epoch/fit/batch/gradient/forward:after:Pool.pool")
def outputs_of_half_the_batch(is_bad: bool) -> Learner:
    class Pool(Callback):
        @after("fit/batch/gradient/forward", writes=("outputs",))
        def pool(self, outputs: Tensor) -> Tensor:
            return outputs.mean(0, keepdim=True).expand(1 if is_bad else 8, 1)

    return learner_of(network(), Pool(), loss_fn=lambda outputs, targets: (outputs - targets).square().mean())


class OfTwo(list[Any]):
    """Batches as two processes would give them."""

    num_workers = 2


@breaks("the workers of a loader make different batches", "train/epoch/fit/fetch")
def loader_that_gives_copies_of_one_batch(is_bad: bool) -> Learner:
    inputs = torch.randn(8, 4)
    copies = [(inputs.clone(), inputs.sum(1, keepdim=True)) for _ in range(6)]
    return learner_of(network(), train=OfTwo(copies) if is_bad else copies)


@breaks("to read data does not change them", "train/epoch/fit/fetch")
def data_set_that_a_transform_works_in(is_bad: bool) -> Learner:
    class Halved(Dataset[Any]):
        def __init__(self) -> None:
            self.rows = torch.randn(48, 4)

        def __len__(self) -> int:
            return 48

        def __getitem__(self, index: int) -> Any:
            row = self.rows[index] if is_bad else self.rows[index].clone()
            row /= 2
            return row, row.sum(0, keepdim=True)

    return learner_of(network(), train=DataLoader(Subset(Halved(), list(range(40))), batch_size=8))


@breaks("an evaluation reads what it read before", "train/epoch/validate/fetch")
def validation_that_is_augmented_as_training_is(is_bad: bool) -> Learner:
    class Noisy(Dataset[Any]):
        def __len__(self) -> int:
            return 48

        def __getitem__(self, index: int) -> Any:
            inputs = torch.full((4,), index / 48)
            return inputs + 0.1 * torch.randn(4) * is_bad, inputs[:1] * 2

    return learner_of(network(), valid=DataLoader(Noisy(), batch_size=24))


@breaks("random numbers do not come again", "train/epoch/fit/batch/gradient/forward")
def seed_that_is_set_before_every_batch(is_bad: bool) -> Learner:
    class Seeded(Callback):
        @around("fit/batch", first=None if is_bad else "1 batch", touches=("rng",))
        def seed(self, model: nn.Module) -> Any:
            torch.manual_seed(0)
            yield

    return learner_of(network(nn.Dropout(0.5)), Seeded())


@breaks("an evaluation sees what training changed", "train")
def average_that_is_lent_and_never_made(is_bad: bool) -> Learner:
    class Averaged(TrainState):
        ema: nn.Module = field(factory=lambda state: deepcopy(state.model))

    class Ema(Callback):
        @after("update", state=Averaged, writes=("ema.params",))
        def follow(self, ema: nn.Module, model: nn.Module) -> None:
            with torch.no_grad():
                for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.0 if is_bad else 0.5)

        @around("validate", state=Averaged, restores=("model.params",))
        def lend(self, ema: nn.Module, model: nn.Module) -> Any:
            own = deepcopy(model.state_dict())
            model.load_state_dict(ema.state_dict())
            yield
            model.load_state_dict(own)

    return learner_of(network(), Ema())


@breaks("a frozen layer keeps its statistics", "train")
def frozen_batch_norm_that_the_optimizer_holds(is_bad: bool) -> Learner:
    class Thaw(Callback):
        @after("epoch", first="1 epochs", writes=("model.mode",))
        def thaw(self, model: nn.Sequential) -> None:
            model[:2].requires_grad_(True)

    model = network(nn.BatchNorm1d(8))
    model[:2].requires_grad_(False)
    return learner_of(model, *([] if is_bad else [Thaw()]))


@breaks("a model is trained in train mode", "train/epoch/fit/batch/update:after:Probe.look")
def probe_that_touches_the_mode_and_leaves_it(is_bad: bool) -> Learner:
    class Probe(Callback):
        @after("update", touches=("model.mode",))
        def look(self, model: nn.Module, inputs: Tensor) -> None:
            model.eval()
            with torch.no_grad():
                model(inputs)
            model.train(not is_bad)

    return learner_of(network(nn.Dropout(0.5)), Probe())
