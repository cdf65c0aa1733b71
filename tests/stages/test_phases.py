"""Phases: the modes that hold while they run, where their data are, and phases of one's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from learner import Callback, Cancel, GraphError, Learner, after, before
from learner.recipes import supervised
from learner.testing import toy_learner
from stages import (
    Composite,
    DeclarationError,
    Epoch,
    EvaluationPhase,
    Fetch,
    Fit,
    Forward,
    Phase,
    Train,
    TrainingPhase,
    Unpack,
    Validate,
    ValidateBatch,
    ValidateLoss,
    evaluating,
    training,
)


class Modes(Callback):
    """Notes the modes that each phase runs in."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, bool]] = []

    @after("forward")
    def note(self, state: Any) -> None:
        self.seen.append(("batch", state.model.training, torch.is_grad_enabled()))

    @before(Phase)
    def enter(self, state: Any) -> None:
        self.seen.append(("before", state.model.training, torch.is_grad_enabled()))

    @after(Phase)
    def leave(self, state: Any) -> None:
        self.seen.append(("after", state.model.training, torch.is_grad_enabled()))


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def test_training_puts_what_an_optimizer_updates_into_train_mode() -> None:
    model, teacher = nn.Linear(1, 1).eval(), nn.Linear(1, 1).eval()
    with torch.no_grad(), training([model, teacher], [sgd(model)]):
        assert (model.training, teacher.training, torch.is_grad_enabled()) == (True, False, True)
    assert model.training


def test_training_leaves_a_part_that_was_frozen_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    model[1].eval()
    with training([model], [sgd(model)]):
        assert (model.training, model[1].training) == (True, False)


class Frozen(nn.Sequential):
    """A model that keeps a part in eval mode by a `train` of its own."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self[1].eval()
        return self


def test_train_of_a_class_decides_also_where_the_model_is_in_train_mode() -> None:
    model, nested = Frozen(nn.Linear(1, 1), nn.BatchNorm1d(1)), nn.Sequential(Frozen(nn.Linear(1, 1), nn.Dropout()))
    assert model.training and model[1].training and nested[0][1].training
    with training([model, nested], [sgd(model), sgd(nested)]):
        assert (model.training, model[1].training, nested[0][1].training) == (True, False, False)


@pytest.mark.parametrize("error", [None, ValueError(), KeyboardInterrupt(), Cancel("run")])
def test_evaluating_gives_each_submodule_its_mode_back_on_every_exit(error: BaseException | None) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Dropout())
    model[1].eval()
    try:
        with evaluating([model]):
            assert not any(part.training for part in model.modules())
            assert not torch.is_grad_enabled()
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert [part.training for part in model.modules()] == [True, True, False, True]
    assert torch.is_grad_enabled()


def test_each_phase_runs_in_its_mode_and_its_hooks_stand_outside() -> None:
    modes = Modes()
    batch = (torch.ones(2, 1), torch.ones(2, 1))
    toy_learner(callbacks=[modes], train=[batch], valid=[batch]).fit(epochs=1)
    assert modes.seen == [
        ("before", True, True),
        ("batch", True, True),
        ("after", True, True),
        ("before", True, True),
        ("batch", False, False),
        ("after", True, True),
    ]


def test_model_that_was_left_in_eval_mode_is_trained_in_train_mode() -> None:
    modes = Modes()
    learner = toy_learner(callbacks=[modes], valid=None)
    learner.state.model.eval()
    learner.fit(batches=1)
    assert ("batch", True, True) in modes.seen


def test_failed_validation_restores_the_modes() -> None:
    learner = toy_learner()

    @learner.before("validate_loss")
    def fail(state: Any) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        learner.validate()
    assert learner.state.model.training and torch.is_grad_enabled()


def test_own_loop_inside_a_phase_is_in_its_mode() -> None:
    learner = toy_learner()
    learner.state.model.eval()
    with learner.inside("epoch/fit"):
        assert learner.state.model.training
    with learner.inside("epoch/validate"):
        assert (learner.state.model.training, torch.is_grad_enabled()) == (False, False)
    assert torch.is_grad_enabled()


def test_loader_setting_names_the_field_that_holds_the_data() -> None:
    phase = Fit(Fetch(), loader="noisy_loader")
    assert (phase.reads[0], phase.word, Fit(Fetch()).reads[0]) == ("noisy_loader", "noisy", "train_loader")
    assert list(phase.fields()) == ["noisy_loader"]


def test_loader_setting_is_a_name_not_the_data() -> None:
    with pytest.raises(DeclarationError, match=r"got a list; loader= names a field, such as 'noisy_loader'") as caught:
        Fit(Fetch(), loader=[1, 2])  # type: ignore[arg-type]
    assert caught.value.owner == "Fit"


def test_phase_without_data_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"has nothing to run over\. Pass loader='train_loader'") as caught:
        toy_learner(stages=Train(Epoch(Phase(Fetch()))))
    assert caught.value.owner == "Phase"


def test_phase_in_which_nothing_takes_a_batch_is_refused_before_it_runs_for_ever() -> None:
    tree = supervised().swap("epoch/validate", Validate(Composite(), loader="valid_loader"))
    with pytest.raises(
        GraphError, match=r"epoch/validate would never end: no stage in it takes .*Put Fetch\(\) first"
    ) as c:
        toy_learner(stages=tree)
    (finding,) = c.value.findings
    assert (finding.kind, finding.actors) == ("endless loop", ("train/epoch/validate",))


def test_several_validation_sets_are_phases_of_their_names() -> None:
    generator = torch.Generator().manual_seed(0)

    def batches(count: int) -> list[Any]:
        return [(torch.ones(2, 1), torch.randn(2, 1, generator=generator)) for _ in range(count)]

    learner = toy_learner(valid={"clean": batches(1), "noisy": batches(2)})
    (row,) = learner.fit(epochs=1)
    assert sorted(row) == ["clean_loss", "epoch", "noisy_loss", "seconds", "train_loss"]
    assert row["clean_loss"] != row["noisy_loss"]


def test_own_training_phase_counts_and_trains() -> None:
    class HalfFit(TrainingPhase):
        """Stops after half of the data."""

        def run(self, state: Any) -> None:
            with self.mode(state):
                state.batches = iter(list(state.train_loader)[:4])
                while True:
                    with state.round():
                        Composite.run(self, state)

    learner = toy_learner()
    learner.swap("epoch/fit", HalfFit(**learner.assembly.root.stage.epoch.fit.stages))  # type: ignore[attr-defined]
    learner.fit(epochs=1)
    assert (learner.state.batches_seen, learner.state.updates, learner.state.samples_seen) == (4, 4, 32)


def test_own_evaluation_phase_with_its_own_data() -> None:
    class Probe(EvaluationPhase):
        """Evaluates on probes."""

        loader = "probe_loader"

    tree = supervised(valid=False)
    probe = Probe(Fetch(), ValidateBatch(Unpack(), Forward(), ValidateLoss()))
    batch = (torch.ones(2, 1), torch.ones(2, 1))
    model = nn.Linear(1, 1)
    learner = Learner(
        model, nn.functional.mse_loss, sgd(model), train=[batch], valid={"probe": [batch]},
        stages=tree.insert(probe, after="fit"), device="cpu",
    )  # fmt: skip
    (row,) = learner.fit(epochs=1)
    with torch.no_grad():
        assert row["probe_loss"] == pytest.approx(nn.functional.mse_loss(model(batch[0]), batch[1]).item())
    assert learner.validate() == {"probe_loss": row["probe_loss"]}
    assert learner.state.batches_seen == 1


@pytest.mark.parametrize("phase", [TrainingPhase, EvaluationPhase])
def test_mode_is_a_context_that_a_subclass_may_widen(phase: Callable[..., Phase]) -> None:
    modules: list[str] = []

    class Wide(phase):  # type: ignore[misc, valid-type]
        """Looks at what its mode is made of."""

        def mode(self, state: Any) -> Any:
            modules.extend(state.components(nn.Module))
            return super().mode(state)

    learner = toy_learner(loss_fn=nn.MSELoss())
    slot = "fit" if phase is TrainingPhase else "validate"
    held = getattr(learner.assembly.root.stage.epoch, slot).stages  # type: ignore[attr-defined]
    learner.swap(f"epoch/{slot}", Wide(**held))
    learner.fit(epochs=1)
    assert sorted(modules) == ["loss_fn", "model"]
