"""The log tells who it was: undeclared scalars, who cancelled, exits after a failing hook, edits, late fields."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import (
    ArgumentError,
    Cancel,
    ChangeLog,
    GraphError,
    Learner,
    StateError,
    TrainState,
    field,
    stage,
    supervised,
)
from learner.callbacks import ProgressBar
from learner.testing import toy_learner
from stages import Composite, Forward

BATCH = (torch.ones(4, 1), torch.ones(4, 1))


def halve(optimizer: torch.optim.Optimizer) -> None:
    """Halve the learning rate."""
    optimizer.param_groups[0]["lr"] /= 2


def rates(learner: Learner) -> list[tuple[str, Any, Any]]:
    """Who changed the learning rate, from what to what."""
    return [(c.actor.rpartition(":")[2], c.before, c.after) for c in learner.log.history("optimizer.hyper.lr")[1:]]


def test_learning_rate_set_between_two_fits_is_external() -> None:
    learner = toy_learner()
    learner.after("epoch", writes=("optimizer.hyper",))(halve)
    learner.fit(epochs=1)
    learner.state.optimizer.param_groups[0]["lr"] = 7.0
    learner.fit(batches=1)
    assert rates(learner)[:2] == [("halve", 0.1, 0.05), ("external", 0.05, 7.0)]


def test_learning_rate_set_by_an_observer_is_not_blamed_on_the_declared_writer() -> None:
    learner = toy_learner(guard="off")
    learner.after("epoch", writes=("optimizer.hyper",))(halve)

    @learner.after("fit")
    def meddle(state: Any) -> None:
        state.optimizer.param_groups[0]["lr"] = 7.0

    learner.fit(epochs=1)
    assert rates(learner) == [("external", 0.1, 7.0), ("halve", 7.0, 3.5)]


def test_learning_rate_is_on_record_when_its_writer_fails() -> None:
    learner = toy_learner()

    @learner.after("fit", writes=("optimizer.hyper",))
    def fail(optimizer: torch.optim.Optimizer) -> None:
        optimizer.param_groups[0]["lr"] = 0.05
        raise Cancel("epoch", "enough")

    learner.fit(epochs=1)
    assert rates(learner)[0] == ("fail", 0.1, 0.05)


def test_log_says_who_cancelled_and_what() -> None:
    learner = toy_learner()

    @learner.after("epoch")
    def stop(state: Any) -> None:
        raise Cancel("run", "enough")

    learner.fit(epochs=3)
    (ended,) = learner.log.where(actor="train/epoch", kind="exit")
    assert ended.after.startswith("cancelled by train/epoch:after:stop (run): enough")


def test_stage_whose_after_hook_cancels_has_an_exit() -> None:
    learner = toy_learner()

    @learner.after("gradient/loss")
    def skip(state: Any) -> None:
        raise Cancel("batch", "skipped")

    learner.fit(batches=1)
    kinds = [change.kind for change in learner.log.where(actor="*/gradient/loss", kind="enter")]
    kinds += [change.kind for change in learner.log.where(actor="*/gradient/loss", kind="exit")]
    assert kinds == ["enter", "exit"]


def test_field_and_learning_rate_set_between_two_fits_are_on_record_without_a_guard() -> None:
    learner = toy_learner(guard="off")
    for _ in range(6):
        learner.fit(batches=1)
    learner.state.updates = 3
    learner.state.optimizer.param_groups[0]["lr"] = 0.5
    learner.fit(batches=1)
    changes = [*learner.log.where(actor="user"), *learner.log.where(actor="external")]
    assert [(c.actor, c.field, c.before, c.after) for c in changes] == [
        ("user", "updates", 6, 3),
        ("external", "optimizer.hyper.lr", 0.1, 0.5),
    ]


@pytest.mark.parametrize("on_disk", [False, True])
def test_levels_per_field_leave_the_log_readable(on_disk: bool, tmp_path: Path) -> None:
    learner = toy_learner(audit={"*": "off", "loss": "summary"}, run_dir=tmp_path / "runs" if on_disk else None)
    learner.fit(epochs=1)
    learner.close()
    log = ChangeLog.open(tmp_path / "runs") if on_disk else learner.log
    assert {change.field for change in log.tail(100)} == {"loss"}


def test_question_about_what_is_not_recorded_is_not_answered_as_if_nobody_wrote_it(tmp_path: Path) -> None:
    learner = toy_learner(audit={"*": "off", "loss": "summary"}, run_dir=tmp_path / "runs")
    learner.fit(epochs=1)
    for name in ("updates", "model", "model.params.weight"):
        with pytest.raises(StateError, match=r'not recorded: audit= sets its level to "off"\. Choose "summary"'):
            learner.log.blame(name)
        with pytest.raises(StateError, match=rf"no write of '{name}'\. Its writes are not recorded: audit= sets"):
            learner.log.history(name)
    assert len(learner.log.history("loss")) == 10
    learner.close()
    with pytest.raises(StateError, match=r"No stage or hook writes it, or audit= left it out of this log\.$"):
        ChangeLog.open(tmp_path / "runs").blame("updates")


def test_blame_of_a_field_that_is_recorded_and_has_no_writer_says_so() -> None:
    class Spare(TrainState):
        spare: int = field(scope="batch")

    learner = toy_learner(audit={"loss": "off"})
    learner.after("update", state=Spare, reads=("spare?",))(lambda spare=None: None)
    with pytest.raises(StateError, match=r"no write of 'spare'\. No stage or hook writes it\.$"):
        learner.log.blame("spare")


def test_misspelt_field_in_audit_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no such field. Did you mean 'loss'") as refused:
        toy_learner(audit={"los": "off"})
    assert refused.value.argument == "audit"


def test_edits_of_hooks_are_on_record_and_keep_the_outcome() -> None:
    learner = toy_learner()

    @learner.after("epoch")
    def stop(state: Any) -> None:
        raise Cancel("run", "enough")

    learner.fit(epochs=2)
    learner.hooks.remove("stop")
    assert [change.after for change in learner.log.history("tree")] == ["add stop", "remove stop"]
    assert learner.outcome.reason == "enough"


def test_field_brought_by_a_later_edit_is_told_by_setup() -> None:
    class Rho(TrainState):
        rho: float = 0.5

    learner = toy_learner()
    learner.after("update", state=Rho, reads=("rho",))(lambda rho: None)
    assert (learner.log.blame("rho").actor, learner.log.blame("rho").after) == ("setup", 0.5)


def test_records_after_the_last_batch_are_in_no_batch() -> None:
    learner = toy_learner()
    learner.fit(epochs=1)
    assert learner.log.blame("train_loss").position.batch is None
    assert {change.position.batch for change in learner.log.where(field="loss", phase="fit")} == set(range(8))


def test_failing_factory_leaves_state_as_it_was() -> None:
    class Bad(TrainState):
        made: int = field(factory=lambda state: 1 / 0)

    learner = toy_learner()
    before = type(learner.state)
    with pytest.raises(ZeroDivisionError):
        learner.after("update", state=Bad, reads=("made",))(lambda made: None)
    assert type(learner.state) is before
    learner.after("update")(lambda state: None)
    assert len(learner.fit(epochs=1)) == 1


def test_predict_leaves_the_schema_as_it_was() -> None:
    learner = toy_learner()
    before = type(learner.state)
    assert learner.predict([torch.ones(3, 1)]).shape == (3, 1)
    assert type(learner.state) is before


def test_predict_runs_what_stands_before_forward_in_the_evaluation() -> None:
    @stage(writes=("inputs",))
    def scale(inputs: Tensor) -> Tensor:
        return 10 * inputs

    learner = toy_learner()
    plain = learner.predict([torch.ones(3, 1)])
    learner.insert(scale, before="validate/batch/forward")
    bias = learner.state.model.bias
    assert torch.equal(learner.predict([torch.ones(3, 1)]) - bias, 10 * (plain - bias))


def test_fit_batch_alone_is_a_phase_of_one_batch() -> None:
    learner = toy_learner(callbacks=[ProgressBar()])
    seen: list[float] = []
    learner.after("fit")(lambda state: seen.append(state.train_loss))
    assert learner.fit_batch(BATCH).loss == seen[0] == 1.0
    assert (learner.state.batches_seen, learner.state.epochs_done) == (1, 0)


def test_fit_batch_moves_the_batch_to_the_device() -> None:
    model = nn.Linear(1, 1, device="meta")
    learner = Learner(model, nn.functional.mse_loss, lambda p: torch.optim.SGD(p, lr=0.1), train=[BATCH], device="meta")
    assert learner.fit_batch(BATCH).inputs.device.type == "meta"


def test_learner_is_freed_without_the_collector() -> None:
    state = TrainState(model=nn.Linear(1, 1), loss_fn=nn.functional.mse_loss)
    state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.1)
    gc.disable()
    try:
        learner = Learner.from_state(state, supervised(valid=False), train=[BATCH])
        learner.fit(epochs=2)
        del learner
        Learner.from_state(state, supervised(valid=False), train=[BATCH]).fit(epochs=1)
    finally:
        gc.enable()
    assert state.epochs_done == 3


def test_parameters_of_a_second_module_train_where_the_optimizer_updates_them() -> None:
    @stage(writes=("outputs",))
    def through(model: nn.Module, projector: nn.Module, inputs: Tensor) -> Any:
        return projector(model(inputs))

    model, projector = nn.Linear(1, 1), nn.Linear(1, 1)
    before = projector.weight.clone()
    optimizer = torch.optim.SGD([*model.parameters(), *projector.parameters()], lr=0.1)
    learner = Learner({"model": model, "projector": projector}, nn.functional.mse_loss, optimizer, train=[BATCH])
    learner.swap("gradient/forward", through)
    learner.fit(epochs=1)
    assert not torch.equal(before, projector.weight)


def test_swap_that_leaves_only_cleared_gradients_is_refused() -> None:
    learner = toy_learner()
    with pytest.raises(
        GraphError, match="does not write 'model.grads', which train/epoch/fit/batch/update reads"
    ) as refused:
        learner.swap("gradient", Composite(Forward()))
    assert {finding.kind for finding in refused.value.findings} == {"starved reader"}
    assert len(learner.fit(epochs=1)) == 1


def test_misspelt_scope_is_refused() -> None:
    class Norms(TrainState):
        norm: float = field(scope="bacth")

    with pytest.raises(GraphError, match="scope 'bacth', which no stage .* opens. Did you mean 'batch'"):
        toy_learner().after("update", state=Norms, writes=("norm",))(lambda loss: 1.0)


def test_evaluation_calls_eval_and_train_of_the_module() -> None:
    calls: list[bool] = []

    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> "Merging":
            calls.append(mode)
            return super().train(mode)

    model = Merging(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Learner(model, nn.functional.mse_loss, optimizer, train=[BATCH], valid=[BATCH]).fit(epochs=1)
    assert calls == [True, False, True]


def test_seed_holds_for_every_way_to_run() -> None:
    def weight() -> Tensor:
        class Noisy(nn.Linear):
            def forward(self, inputs: Tensor) -> Tensor:
                return super().forward(inputs) + torch.randn(())

        model = Noisy(1, 1)
        with torch.no_grad():
            model.weight.fill_(0.0), model.bias.fill_(0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        Learner(model, nn.functional.mse_loss, optimizer, train=[BATCH], seed=3).run("epoch/fit")
        return model.weight.detach()

    assert torch.equal(weight(), weight())


def test_refused_build_leaves_no_run_directory(tmp_path: Path) -> None:
    class Bad(TrainState):
        made: int = field(factory=lambda state: 1 / 0)

    @stage(state=Bad, writes=("made",))
    def make() -> int:
        return 1

    with pytest.raises(ZeroDivisionError):
        toy_learner(stages=supervised().insert(make, before="gradient"), run_dir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_mode_that_a_phase_set_on_the_way_is_nobodys_doing_from_outside() -> None:
    learner = toy_learner()

    @learner.after("fit", writes=("model.mode",))
    def rest(model: nn.Module) -> None:
        model.eval()

    learner.fit(epochs=2)
    rows = learner.log.history("model.mode.train")
    assert [change.actor.rpartition(":")[2] for change in rows] == ["setup", "rest", "rest"]


def test_seeding_after_a_validation_is_nobodys_doing_from_outside() -> None:
    learner = toy_learner(seed=0)
    learner.validate()
    learner.fit(epochs=1)
    assert not learner.log.where(actor="external")
    torch.manual_seed(1)
    learner.fit(epochs=1)
    assert [change.field for change in learner.log.where(actor="external")] == ["rng"]


def test_hook_that_runs_only_sometimes_is_named_with_its_source_line() -> None:
    learner = toy_learner()
    learner.after("update", every="3 batches", writes=("optimizer.hyper",))(halve)
    learner.fit(epochs=1)
    changes = learner.log.where(field="optimizer.hyper.lr", actor="*halve")
    assert len(changes) == 2
    assert all("test_honest_log.py" in change.source for change in changes)
