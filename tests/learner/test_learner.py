"""Learner: what it is built from, and how it runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from learner import (
    ArgumentError,
    Callback,
    GraphError,
    Learner,
    LearnerError,
    TrainState,
    stage,
)
from learner.recipes import supervised
from learner.testing import toy_learner
from stages import Forward, Misuse, Train


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(inputs, 3 * inputs) for inputs in torch.randn(count, 4, 1, generator=generator)]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def make(**changed: Any) -> Learner:
    given: dict[str, Any] = {
        "model": nn.Linear(1, 1),
        "loss_fn": F.mse_loss,
        "optimizer": sgd,
        "train": batches(),
        **changed,
    }
    return Learner(given.pop("model"), given.pop("loss_fn"), given.pop("optimizer"), device="cpu", **given)


@pytest.mark.parametrize(
    ("changed", "argument", "told"),
    [
        ({"model": 3}, "model", "'model' is an int; it wants an nn.Module"),
        ({"model": {"model": "net"}}, "model", "'model' is a str"),
        ({"loss_fn": 3}, "loss_fn", r"loss_fn is an int; it wants a function or a module"),
        ({"optimizer": 3}, "optimizer", "'optimizer' is an int; it wants an optimizer, or a function"),
        ({"optimizer": lambda p: 3}, "optimizer", "'optimizer' made an int, not an optimizer"),
        (
            {"optimizer": sgd(nn.Linear(1, 1).parameters())},
            "optimizer",
            r"updates no parameter of \['model'\]\. Make it",
        ),
        ({"train": 3}, "train", "train= is an int, which cannot be iterated. Give a DataLoader"),
        ({"train": None}, "train", "train= is None"),
        ({"valid": 3}, "valid", "valid= is an int"),
        ({"valid": {"noisy": 3}}, "noisy", "noisy= is an int"),
        ({"valid": {"train": [1]}}, "valid", "valid= calls a set 'train'"),
        ({"valid": {"two words": [1]}}, "valid", "valid= calls a set 'two words'"),
        ({"stages": Forward()}, "stages", r"stages= is Forward\(\)\. It wants a tree that holds stages"),
        ({"stages": Train}, "stages", "It wants a tree"),
        ({"callbacks": 3}, "callbacks", r"callbacks= is an int\. Give a list"),
        ({"callbacks": Callback()}, "callbacks", r"callbacks= is a Callback\. Give a list"),
        ({"audit": "all"}, "audit", r"audit='all' for '\*': 'all' is none of off, writes"),
        ({"audit": {"loss": "much"}}, "audit", "audit='much' for 'loss'"),
    ],
)
def test_argument_that_cannot_be_used_is_refused(changed: dict[str, Any], argument: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=told) as caught:
        make(**changed)
    assert caught.value.argument == argument
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, LearnerError)


def test_device_that_torch_does_not_know_is_refused() -> None:
    with pytest.raises(ArgumentError, match="device='cpuu' cannot be used here") as caught:
        Learner(nn.Linear(1, 1), F.mse_loss, sgd, train=batches(), device="cpuu")
    assert caught.value.argument == "device"


def test_missing_component_is_told_with_the_way_to_pass_it() -> None:
    with pytest.raises(GraphError, match=r"reads 'loss_fn', which State was not given.*Pass loss_fn=") as caught:
        make(loss_fn=None)
    assert {finding.kind for finding in caught.value.findings} == {"missing producer"}


def test_refused_learner_makes_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(GraphError):
        make(loss_fn=None, run_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_models_and_optimizers_by_name_are_fields() -> None:
    models = {"model": nn.Linear(1, 1), "teacher": nn.Linear(1, 1)}
    learner = make(model=models, optimizer={"optimizer": sgd, "teacher_optimizer": sgd})
    assert learner.state.components(nn.Module) == models
    held = learner.state.components(torch.optim.Optimizer)
    assert held["teacher_optimizer"].param_groups[0]["params"][0] is models["teacher"].weight
    learner.fit(epochs=1)


def test_model_called_as_another_field_is_refused() -> None:
    with pytest.raises(ArgumentError, match="a model is called 'loss'. State has a field of that name") as caught:
        make(model={"model": nn.Linear(1, 1), "loss": nn.Linear(1, 1)})
    assert caught.value.argument == "model"


def test_optimizer_whose_model_is_unclear_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"which parameters is 'gan' to be made of\? the models are \['model'\]"):
        make(optimizer={"gan": sgd})


@pytest.mark.parametrize("valid", [None, {}])
def test_without_validation_data_nothing_is_validated(valid: Any) -> None:
    learner = make(valid=valid)
    assert list(learner.fit(epochs=1)[0]) == ["epoch", "train_loss", "seconds"]
    with pytest.raises(ArgumentError, match=r"nothing to evaluate. Give the Learner valid=") as refused:
        learner.validate()
    assert refused.value.argument == "valid"


def test_several_validation_sets_have_their_own_losses() -> None:
    learner = make(valid={"clean": batches(1), "noisy": batches(2)})
    row = learner.fit(epochs=1)[0]
    assert learner.validate() == {"clean_loss": row["clean_loss"], "noisy_loss": row["noisy_loss"]}


def test_validate_changes_no_total_and_no_history() -> None:
    learner = toy_learner()
    learner.fit(epochs=1)
    assert learner.validate() == {"valid_loss": learner.history[-1]["valid_loss"]}
    assert (learner.state.epochs_done, learner.state.batches_seen, len(learner.history)) == (1, 8, 1)


def test_second_fit_goes_on_where_the_first_ended() -> None:
    once, twice = toy_learner(), toy_learner()
    once.fit(epochs=3)
    twice.fit(epochs=1)
    twice.fit(epochs=2)
    assert torch.equal(once.state.model.weight, twice.state.model.weight)
    assert once.history["valid_loss"] == twice.history["valid_loss"]
    assert twice.history["epoch"] == [0, 1, 2]


def test_state_of_the_user_becomes_the_live_one() -> None:
    model = nn.Linear(1, 1)
    state = TrainState(model=model, optimizer=sgd(model.parameters()), loss_fn=F.mse_loss)
    learner = Learner.from_state(state, supervised(valid=False), train=batches())
    learner.fit(epochs=1)
    assert learner.state is state
    assert state.updates == 3
    assert isinstance(state, TrainState)


def test_predict_joins_outputs_and_changes_nothing() -> None:
    learner = toy_learner()
    learner.fit(epochs=1)
    weight, updates = learner.state.model.weight.clone(), learner.state.updates
    inputs = torch.ones(5, 1)
    outputs = learner.predict([inputs[:3], (inputs[3:], torch.zeros(2, 1))])
    assert torch.equal(outputs, learner.state.model(inputs).detach())
    assert (outputs.requires_grad, learner.state.model.training) == (False, True)
    assert torch.equal(learner.state.model.weight, weight) and learner.state.updates == updates
    learner.fit(epochs=1)
    assert learner.state.epochs_done == 2


@pytest.mark.parametrize("form", [dict, tuple])
def test_predict_joins_dict_and_tuple_outputs_part_by_part(form: type) -> None:
    class Two(nn.Module):
        """Two outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, inputs: Tensor) -> Any:
            made = self.layer(inputs)
            return {"a": made, "b": made.sum()} if form is dict else (made, made.sum())

    found = make(model=Two()).predict([torch.ones(2, 1), torch.ones(1, 1)])
    first, second = found.values() if form is dict else found
    assert (first.shape, second.shape) == ((3, 1), (2,))


def test_predict_uses_the_unpack_and_the_forward_of_the_tree() -> None:
    @stage(writes=("inputs", "targets"))
    def unpack(batch: Any) -> Any:
        return batch["x"], batch["y"]

    data = [{"x": x, "y": y} for x, y in batches()]
    tree = supervised(valid=False).swap("unpack", unpack)
    learner = make(train=data, stages=tree)
    learner.fit(epochs=1)
    assert learner.predict(data).shape == (12, 1)


def test_what_a_loader_draws_for_a_prediction_is_nobodys_violation() -> None:
    learner, loader = toy_learner(), DataLoader(torch.ones(20, 1), 8, shuffle=True)
    learner.fit(epochs=1)
    learner.predict(loader)
    learner.fit(epochs=1)
    assert not learner.log.violations()
    torch.rand(1)
    learner.predict(loader)
    assert [row.field for row in learner.log.violations()] == ["rng"], "drawn before it, by a person"


def test_predict_refuses_what_cannot_be_iterated() -> None:
    with pytest.raises(ArgumentError, match="loader= is an int, which cannot be iterated") as caught:
        toy_learner().predict(3)
    assert caught.value.argument == "loader"


def test_fit_batch_trains_on_one_batch() -> None:
    learner = toy_learner()
    frame = learner.fit_batch((torch.ones(4, 1), 3 * torch.ones(4, 1)))
    assert frame.loss.item() == 9.0
    assert (learner.state.updates, learner.state.batches_seen, learner.state.samples_seen) == (1, 1, 4)
    assert learner.state.model.weight.item() > 0


def test_own_loop_inside_a_phase_counts_as_fit_does() -> None:
    ours, theirs = toy_learner(), toy_learner()
    with ours.inside("epoch/fit"):
        for batch in ours.state.train_loader:
            ours.fit_batch(batch)
    theirs.fit(epochs=1)
    assert torch.equal(ours.state.model.weight, theirs.state.model.weight)
    assert (ours.state.epochs_done, ours.state.batches_seen) == (theirs.state.epochs_done, 8)
    assert ours.history["train_loss"] == theirs.history["train_loss"]


def test_inside_wants_a_loop() -> None:
    with pytest.raises(Misuse, match=r"inside\('gradient'\) needs a loop such as 'fit'; .*Use run\('gradient'\)"):
        with toy_learner().inside("gradient"):
            pass


def test_run_returns_what_the_scopes_held() -> None:
    frame = toy_learner().run("epoch/validate")
    assert frame.valid_loss > 0 and frame.epoch == 0


def test_seed_makes_two_fits_alike_and_is_used_once() -> None:
    def noisy(seed: int | None) -> list[float]:
        learner = toy_learner(seed=seed)

        @learner.before("gradient", writes=("inputs",), touches=("rng",))
        def noise(inputs: Tensor) -> Tensor:
            return inputs + torch.randn_like(inputs)

        learner.fit(epochs=1)
        learner.fit(epochs=1)
        return list(learner.history["train_loss"])

    torch.manual_seed(1)
    one = noisy(5)
    torch.manual_seed(2)
    other = noisy(5)
    assert one == other
    assert one != noisy(6)
    first, second = one
    assert first != second
