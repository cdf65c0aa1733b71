"""Assembly: findings all together, edits that would orphan a hook, and hooks that are thinned out."""

from typing import Any

import pytest

from learner import Callback, GraphError, TrainingPhase, after, before, field
from learner.callbacks import ClipGradients
from learner.recipes import supervised
from learner.testing import toy_learner
from stages import Composite, Epoch, Fit, Forward, Stage, Train, assemble
from stages.assembly import refuse_orphans
from stages.callbacks import hooks_of
from state import State, TrainState


class Inline(Stage):
    """What the gradient is made of, in one."""

    reads = ("model", "loss_fn", "inputs", "targets", "model.grads")
    writes = ("outputs", "loss", "model.grads")
    inline = ("forward", "loss", "backward")

    def run(self, state: Any) -> None:
        with state.stage("forward"):
            state.outputs = state.model(state.inputs)
        with state.stage("loss"):
            state.loss = state.loss_fn(state.outputs, state.targets)
        with state.stage("backward"):
            state.loss.backward()


def fired(at: str, *, side: str = "after", epochs: int = 2, **options: Any) -> list[tuple[int, int | None]]:
    """(epoch, batch) at which a thinned hook at `at` runs, in an epoch of 8 training and 2 validation batches."""
    learner = toy_learner()
    seen: list[tuple[int, int | None]] = []

    def note(state: Any) -> None:
        epoch = state.epoch if state.ready("epoch") else state.epochs_done
        seen.append((epoch, state.batch_index if state.ready("batch_index") else None))

    getattr(learner, side)(at, **options)(note)
    learner.fit(epochs=epochs)
    return seen


def test_all_findings_are_raised_together() -> None:
    @after("lss")
    def typo(state: Any) -> None: ...

    @after("gradient", reads=("grad_nrm",))
    def unknown(state: Any) -> None: ...

    @before("loss", writes=("outputs",))
    def one(outputs: Any) -> Any: ...

    @before("loss", writes=("outputs",))
    def other(outputs: Any) -> Any: ...

    @after("update", writes=("Accuracy",))
    def early(valid_loss: Any) -> Any: ...

    with pytest.raises(GraphError, match="The tree cannot run") as caught:
        toy_learner(callbacks=[typo, unknown, one, other, early, ClipGradients()])
    kinds = [finding.kind for finding in caught.value.findings]
    assert {"unmatched target", "unknown field", "unordered writers"} <= set(kinds)
    assert str(caught.value).count("\n- ") == len(kinds)
    assert "Did you mean 'loss'?" in str(caught.value)


class Holds(Composite):
    """Holds whatever is put into it later."""

    def hold(self, **stages: Stage) -> "Holds":
        object.__setattr__(self, "stages", stages)
        return self


def test_stage_inside_itself_is_a_finding_with_the_way_to_it() -> None:
    inner = Holds()
    outer = Holds().hold(middle=inner)
    inner.hold(middle=Composite(again=outer))
    (found,) = assemble(Composite(tree=outer), [], TrainState).findings
    assert (found.severity, found.kind, found.actors) == ("error", "stage inside itself", ("composite/tree",))
    way = "tree -> middle -> middle -> again"
    assert found.message == f"composite/tree holds itself: {way}. Give the inner one a stage of its own."


def test_stage_inside_itself_hides_no_other_finding() -> None:
    loop = Holds()
    tree = supervised().insert(loop.hold(own=loop), before="gradient").remove("clear_gradients")
    with pytest.raises(GraphError) as caught:
        toy_learner(stages=tree, callbacks=[after("lss")(lambda state: None)])
    kinds = sorted(finding.kind for finding in caught.value.findings)
    assert kinds == ["read before write", "stage inside itself", "unmatched target"]


def test_nothing_has_changed_when_a_tree_is_refused(tmp_path: Any) -> None:
    state = TrainState()
    kind = type(state)
    hooks = hooks_of([ClipGradients(), after("nowhere")(lambda state: None)])
    assembly = assemble(supervised(), hooks, TrainState, state)
    with pytest.raises(GraphError) as caught:
        assembly.require_sound()
    assert caught.value.findings
    assert type(state) is kind and state.__dict__ == TrainState().__dict__


def test_findings_come_errors_first() -> None:
    class Unread(Callback):
        """Writes what nobody reads, and reads what nobody writes."""

        def fields(self) -> dict[str, Any]:
            return {"first": (int, field(scope="batch")), "second": (int, field(scope="batch"))}

        @after("update", reads=("second",), writes=("first",))
        def note(self, second: int) -> int:
            return second

    found = assemble(supervised(), hooks_of([Unread()]), TrainState, None, ()).findings
    severities = [finding.severity for finding in found]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert severities[0] == "error" and "note" in severities


def test_hook_stands_at_every_place_of_its_target() -> None:
    assembly = assemble(supervised(), hooks_of([after("forward")(lambda state: None)]), TrainState)
    standing = [hung.path for place in assembly.places for hung in place.after]
    assert standing == [
        "train/epoch/fit/batch/gradient/forward:after:lambda",
        "train/epoch/validate/batch/forward:after:lambda",
    ]


def test_mode_of_every_component_is_spelt_out() -> None:
    learner = toy_learner()
    (fit,) = [place for place in learner.assembly.places if place.slot == "fit"]
    assert "model.mode" in fit.access.touches
    assert not [name for name in fit.access.touches if "*" in name]


def test_swap_that_orphans_a_hook_is_refused_and_nothing_changes() -> None:
    learner = toy_learner()
    learner.after("gradient/loss")(lambda state: None)
    before_swap = repr(learner)

    class Blunt(Inline):
        """Without the inline slots."""

        inline = ()

        def run(self, state: Any) -> None: ...

    with pytest.raises(
        GraphError, match=r"lambda stands at .*gradient/loss', which 'swap gradient' takes away"
    ) as caught:
        learner.swap("gradient", Blunt())
    (finding,) = caught.value.findings
    assert (finding.kind, finding.actors) == ("orphaned hook", ("train/epoch/fit/batch/gradient/loss:after:lambda",))
    assert "List inline=('loss',)" in finding.message
    assert repr(learner) == before_swap
    assert len(learner.log.history("tree")) == 1  # the hook was added; the swap was not


def test_swap_that_keeps_the_slots_inline_keeps_the_hooks() -> None:
    learner = toy_learner()
    seen: list[float] = []
    learner.after("gradient/loss")(lambda state: seen.append(state.loss.item()))
    learner.swap("gradient", Inline())
    learner.fit(batches=2)
    assert len(seen) == 2


def test_remove_that_orphans_a_hook_is_refused() -> None:
    learner = toy_learner()
    learner.after("validate/batch")(lambda state: None)
    with pytest.raises(GraphError, match="takes away") as caught:
        learner.remove("epoch/validate")
    assert "validate/batch" in str(caught.value)
    assert "validate" in repr(learner)


def test_remove_may_take_one_of_several_places_from_a_hook() -> None:
    learner = toy_learner()
    seen: list[str] = []
    learner.after("forward")(lambda state: seen.append("forward"))
    learner.remove("epoch/validate")
    assert list(learner.fit(epochs=1)[0]) == ["epoch", "train_loss", "seconds"]
    assert len(seen) == 8


def test_swap_may_take_the_places_of_what_a_learner_hooks_itself() -> None:
    learner = toy_learner()
    learner.swap("epoch/validate", Composite())
    assert list(learner.fit(epochs=1)[0]) == ["epoch", "train_loss", "seconds"]


def test_orphans_of_several_hooks_are_told_together() -> None:
    hooks = hooks_of([after("loss")(lambda state: None), before("backward")(lambda state: None)])
    old = assemble(supervised(), hooks, TrainState)
    new = assemble(supervised().swap("gradient", Forward()), [], TrainState)
    with pytest.raises(GraphError) as caught:
        refuse_orphans(old, new, "swap gradient", [hook.callback for hook in hooks])
    assert len(caught.value.findings) == 2


def test_tree_without_a_batch_slot_needs_no_mean() -> None:
    learner = toy_learner(stages=Train(Epoch(Composite(slot_=Epoch()))))
    assert list(learner.hooks) == ["RecordHistory.start", "RecordHistory.record"]


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("at", ["fit/batch", "fit/batch/unpack", "fit/batch/gradient/loss", "update"])
def test_every_counts_batches_of_the_run_wherever_the_hook_stands(at: str, side: str) -> None:
    assert fired(at, side=side, every="3 batches") == [(0, 2), (0, 5), (1, 0), (1, 3), (1, 6)]


def test_every_counts_at_the_checkpoint_as_inside_the_round() -> None:
    assert fired("fit/checkpoint", every="3 batches") == [(0, 2), (0, 5), (1, 0), (1, 3), (1, 6)]


def test_every_counts_updates_of_the_run() -> None:
    assert fired("update", every="5 updates") == [(0, 4), (1, 1), (1, 6)]
    assert fired("gradient", side="before", every="5 updates") == [(0, 4), (1, 1), (1, 6)]


@pytest.mark.parametrize("at", ["epoch", "fit", "validate"])
def test_every_counts_epochs_of_the_run(at: str) -> None:
    assert [epoch for epoch, _ in fired(at, every="2 epochs", epochs=5)] == [1, 3]
    assert [epoch for epoch, _ in fired(at, side="before", every="2 epochs", epochs=5)] == [1, 3]


def test_every_epochs_thins_a_hook_inside_the_epoch_too() -> None:
    assert fired("validate/batch", every="2 epochs", epochs=4) == [(1, 0), (1, 1), (3, 0), (3, 1)]


def test_every_counts_batches_of_an_evaluation_in_its_phase() -> None:
    assert fired("validate/batch", every="2 batches") == [(0, 1), (1, 1)]


def test_first_runs_in_the_first_rounds_only() -> None:
    assert fired("fit/batch", first="3 batches") == [(0, 0), (0, 1), (0, 2)]
    assert [epoch for epoch, _ in fired("epoch", first="1 epoch", epochs=3)] == [0]
    assert fired("update", first="2 updates") == [(0, 0), (0, 1)]


def test_first_counts_the_run_over_several_fits() -> None:
    learner = toy_learner()
    seen: list[int] = []
    learner.after("update", first="3 batches")(lambda state: seen.append(state.updates))
    for _ in range(3):
        learner.fit(batches=2)
    assert seen == [1, 2, 3]


def test_when_is_asked_with_a_view_that_reads_everything() -> None:
    assert fired("fit/batch", when=lambda state: state.batch_index == 5 and state.epoch == 1) == [(1, 5)]
    assert fired("fit/batch", every="2 batches", when=lambda state: state.batch_index > 4) == [
        (0, 5),
        (0, 7),
        (1, 5),
        (1, 7),
    ]


def test_thinned_writer_is_told_to_write_only_sometimes() -> None:
    class Noise(TrainState):
        """Brings one field."""

        noise: float = field(scope="batch")

    @before("gradient", state=Noise, writes=("noise",), every="2 batches")
    def make() -> float:
        return 1.0

    @after("gradient", state=Noise)
    def use(noise: float) -> None: ...

    with pytest.raises(GraphError, match="may not have written by then: it runs only sometimes") as caught:
        toy_learner(callbacks=[make, use])
    assert caught.value.findings[0].kind == "written sometimes"


def test_thinned_hook_keeps_its_name_and_its_access() -> None:
    learner = toy_learner()
    learner.after("loss", every="2 batches", within=TrainingPhase, writes=("loss",))(lambda loss: loss * 2)
    (hung,) = [hung for place in learner.assembly.places for hung in place.after if hung.hook.name == "lambda"]
    assert (hung.access.reads, hung.access.writes, hung.hook.is_thinned) == (("loss",), ("loss",), True)
    learner.fit(batches=4)
    assert [change.position.batch for change in learner.log.where(actor="**:lambda", field="loss")] == [1, 3]


def test_fit_without_thinning_runs_each_time() -> None:
    assert len(fired("fit/batch")) == 16
    assert isinstance(Fit(), TrainingPhase)


def test_schema_conflict_does_not_hide_other_findings() -> None:
    class Other(State):
        loss: int = field(scope="batch")

    @after("updat")
    def misplaced(state: Any) -> None: ...

    @after("update", state=Other, reads=("losss",))
    def conflicting() -> None: ...

    with pytest.raises(GraphError) as caught:
        toy_learner(callbacks=[misplaced, conflicting])
    kinds = [finding.kind for finding in caught.value.findings]
    assert sorted(kinds) == ["schema conflict", "unknown field", "unmatched target"]
