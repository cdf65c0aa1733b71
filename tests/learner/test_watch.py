"""Watching: a run stops where a value is written that somebody waits for, by whoever writes it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import Learner
from learner.errors import ArgumentError
from learner.testing import toy_learner
from stages.errors import WatchHit
from stages.watching import Hit
from state.errors import UnknownField
from state.fields import MISSING
from state.train_state import Scratch

BATCH = "train/epoch/fit/batch"


def spoiling(at: int = 3, **settings: Any) -> Learner:
    """A Learner with a hook that spoils the outputs of one batch."""
    learner = toy_learner(**settings)

    @learner.after("fit/batch/gradient/forward", reads=("outputs", "batch_index"), writes=("outputs",))
    def spoil(outputs: Tensor, batch_index: int) -> Tensor:
        return outputs * math.nan if batch_index == at else outputs

    return learner


def test_run_stops_with_who_wrote_the_value_and_what_was_there_before() -> None:
    learner = spoiling()
    learner.watch("outputs", nonfinite=True)
    with pytest.raises(WatchHit, match=f"{BATCH}/gradient/forward:after:spoil at epoch 0, fit, batch 3") as caught:
        learner.fit(epochs=1)
    hit = caught.value.hit
    assert (hit.name, hit.told) == ("outputs", "is not finite")
    assert hit.source.partition(" ")[2].startswith(__file__)
    assert isinstance(hit.before, Tensor) and bool(hit.before.isfinite().all()), "what the forward wrote"
    assert learner.state.updates == 3, "the update of that batch did not run"


def test_stack_goes_through_the_writer() -> None:
    learner = toy_learner()
    seen: list[list[str]] = []

    @learner.after("fit/batch", writes=("scratch",))
    def write_it(state: Any) -> None:
        state.scratch = Scratch()

    def note(hit: Hit) -> None:
        import inspect

        seen.append([frame.function for frame in inspect.stack()])

    learner.watch("scratch", when=lambda value: True, then=note)
    learner.fit(batches=1)
    assert "write_it" in seen[0]


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        ("loss", {"above": 5}, "is above 5: 9.69715"),
        ("targets", {"below": -5}, "is below -5: -6.34566"),
        ("updates", {"above": 2}, "is above 2: 3"),
        ("loss", {"when": lambda loss: loss < 3}, "is what was waited for"),
    ],
)
def test_bound_holds_for_scalars_and_for_each_element(name: str, asked: dict[str, Any], told: str) -> None:
    learner, hits = toy_learner(), list[Hit]()
    learner.watch(name, **asked, then=hits.append)
    learner.fit(epochs=1)
    assert hits[0].told == told
    assert learner.outcome.ok, "a function of the Hit does not stop the run"


@pytest.mark.parametrize("name", ["model.params", "model.params.weight"])
def test_part_is_looked_at_where_a_stage_has_changed_it(name: str) -> None:
    learner, hits = toy_learner(), list[Hit]()
    learner.watch(name, above=1, then=hits.append)
    learner.fit(epochs=1)
    assert {(hit.name, hit.actor) for hit in hits} == {("model.params.weight", f"{BATCH}/update")}
    assert hits[0].before is MISSING and hits[0].value is learner.state.model.weight


def test_hyper_parameter_is_looked_at_where_a_schedule_sets_it() -> None:
    from learner.callbacks import Schedule

    steps = Schedule(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5))
    learner, hits = toy_learner(callbacks=[steps]), list[Hit]()
    learner.watch("optimizer.hyper.lr", below=0.06, then=hits.append)
    learner.fit(epochs=1)
    assert (hits[0].name, hits[0].value, hits[0].position.batch) == ("optimizer.hyper.lr", 0.05, 2)


def test_debugger_is_entered_with_the_hit_printed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    entered: list[None] = []
    monkeypatch.setattr("sys.breakpointhook", lambda: entered.append(None))
    learner = spoiling()
    learner.watch("loss", nonfinite=True, then="break")
    learner.fit(epochs=1)
    assert entered and "wrote loss, which is not finite" in capsys.readouterr().out


def test_unwatch_takes_one_back_or_all() -> None:
    learner, hits = toy_learner(), list[Hit]()
    one = learner.watch("loss", above=0, then=hits.append)
    learner.watch("updates", above=0, then=hits.append)
    learner.unwatch(one)
    learner.fit(batches=2)
    assert {hit.name for hit in hits} == {"updates"}
    learner.unwatch()
    hits.clear()
    learner.fit(batches=2)
    assert not hits


def test_watching_changes_no_bit_of_the_run() -> None:
    plain, watched = toy_learner(), toy_learner()
    watched.watch("model.grads", above=1e9)
    watched.watch("outputs", nonfinite=True)
    for learner in (plain, watched):
        learner.fit(epochs=2)
    assert torch.equal(plain.state.model.weight, watched.state.model.weight)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"name": "loss"}, "say above=, below= or nonfinite=True, or else when="),
        ({"name": "loss", "when": print, "above": 1}, "or else when="),
        ({"name": "loss", "above": 1, "then": "stop"}, "then='stop' is none of 'raise', 'break'"),
        ({"name": "device", "when": print}, "nobody in this tree writes 'device'"),
    ],
)
def test_question_that_cannot_be_asked_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        toy_learner().watch(**asked)


def test_slip_in_a_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownField, match="Did you mean 'loss'"):
        toy_learner().watch("los", above=1)


def test_hook_that_only_touches_a_part_is_watched_too() -> None:
    learner = toy_learner()

    @learner.after("fit/batch", touches=("model.params",))
    def grow(model: Any) -> None:
        model.weight.data.fill_(100.0)

    learner.watch("model.params.weight", above=50)
    with pytest.raises(WatchHit, match="fit/batch:after:grow at .* wrote model.params.weight, which is above 50: 100"):
        learner.fit(epochs=1)
