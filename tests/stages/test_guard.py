"""The guard: when it looks, what raises, and what goes on record and is warned of."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from learner import Callback, Invariant, Learner, TrainState, before
from learner.testing import toy_learner
from stages import Forward, GuardWarning, UndeclaredChange
from stages.guard import EVERY, FIRST, Schedule
from state.changes import ABSENT

BATCH = "train/epoch/fit/batch"
DATA = [(torch.ones(4, 1), torch.ones(4, 1))]
LATER = FIRST + EVERY - 1


def meddle_from(batch: int, slot: str = "update", **settings: Any) -> Learner:
    """A Learner with an observer that changes the weight from one batch of the run on."""
    learner = toy_learner(**{"train": DATA * 2 * EVERY, "valid": None, **settings})

    @learner.after(slot)
    def meddle(state: Any) -> None:
        if state.batches_seen >= batch:
            state.model.weight.data.mul_(1.01)

    return learner


def found(learner: Learner, **wanted: Any) -> list[Any]:
    return list(learner.log.where(**wanted))


def due(*lengths: int) -> list[tuple[int, int]]:
    """Which rounds of passes of these lengths are looked at: (pass, index in it)."""
    schedule = Schedule()
    rounds = [(number, index) for number, length in enumerate(lengths) for index in range(length)]
    return [one for one in rounds if schedule.is_due(one[1])]


@pytest.mark.parametrize("length", [1, 10, 24, EVERY - 1, EVERY, EVERY + 1, 200, 1000])
def test_one_round_in_many_is_looked_at_whatever_the_length_of_a_pass(length: int) -> None:
    lengths = [length] * (25_600 // length)
    seen, total = due(*lengths), sum(lengths)
    assert abs(len(seen) - FIRST - total / EVERY) <= 2
    assert seen[:FIRST] == [(number // length, number % length) for number in range(FIRST)]


@pytest.mark.parametrize("length", [10, 24, EVERY - 1, EVERY])
def test_first_round_of_a_pass_is_preferred(length: int) -> None:
    seen = due(*[length] * 200)
    assert all(index == 0 for number, index in seen if number)


def test_first_and_middle_rounds_of_long_passes_are_both_looked_at() -> None:
    seen = due(*[1000] * 4)
    assert [one for one in seen if one[1] == 0] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert {number for number, index in seen if index} == {0, 1, 2, 3}


def test_schedule_is_the_same_every_time() -> None:
    assert due(7, 300, 2) == due(7, 300, 2)


@pytest.mark.parametrize("batch", range(FIRST))
def test_first_three_rounds_raise(batch: int) -> None:
    learner = meddle_from(batch)
    with pytest.raises(UndeclaredChange, match=r"'model\.params' \(weight; seen by contents\)") as caught:
        learner.fit(epochs=1)
    assert (learner.state.batches_seen, caught.value.actor) == (batch, f"{BATCH}/update:after:meddle")


def test_first_three_rounds_of_each_loop_raise() -> None:
    learner = toy_learner(train=DATA * 10)
    learner.fit(epochs=1)

    @learner.after("validate/batch/forward")
    def draw(state: Any) -> None:
        torch.rand(1)

    learner.fit(batches=1)
    with pytest.raises(UndeclaredChange, match="'rng'") as caught:
        learner.validate()
    assert caught.value.actor == "train/epoch/validate/batch/forward:after:draw"


def test_later_it_goes_on_record_under_the_culprit_and_is_warned_of_once() -> None:
    learner = meddle_from(FIRST)
    with pytest.warns(GuardWarning, match=r"meddle changed 'model\.params' .* warned of once") as caught:
        learner.fit(batches=FIRST + EVERY)
    assert len(caught) == 1
    assert learner.outcome.ok
    blamed = learner.log.blame("model.params")
    assert (blamed.actor, blamed.evidence, blamed.position.batch) == (
        f"{BATCH}/update:after:meddle",
        "undeclared",
        LATER,
    )
    assert blamed.after == "weight"
    with warnings.catch_warnings(action="error"):
        learner.fit(batches=2 * EVERY)
    assert [one.position.batch for one in found(learner, evidence="undeclared")] == [LATER, 0, 2 * EVERY - 1]


def test_later_the_slices_of_large_tensors_take_turns() -> None:
    """The one element that is changed past every counter lies in the third of five slices."""
    model, batches = nn.Linear(128, 160), [(torch.ones(4, 128), torch.ones(4, 160))] * 100
    learner = Learner(model, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1), train=batches, device="cpu")

    @learner.after("update")
    def meddle(state: Any) -> None:
        if state.batches_seen > FIRST:
            state.model.weight.data[70, 7] *= 1.01

    with pytest.warns(GuardWarning, match=r"meddle changed 'model.params' \(weight; seen by contents\)"):
        learner.fit(batches=8 * EVERY)
    rows = found(learner, actor=f"{BATCH}/update:after:meddle", evidence="undeclared")
    assert len(rows) == 2  # at the second and the seventh of eight looks


def test_invariant_compares_all_of_a_large_tensor_where_the_guard_reads_a_slice() -> None:
    told: list[tuple[str, ...]] = []

    def keep(changed: tuple[str, ...]) -> None:
        told.append(changed)

    rule = Invariant("compared", keep, around="update", compares=("*.params",), sampled=True)
    model, batches = nn.Linear(128, 160), [(torch.ones(4, 128), torch.ones(4, 160))] * 2 * EVERY
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    learner = Learner(model, nn.MSELoss(), optimizer, train=batches, device="cpu", invariants=[rule])

    @learner.after("update", reads=("batches_seen",), writes=("model.params",))
    def move(state: Any) -> None:
        if state.batches_seen >= FIRST:
            state.model.weight.data[159, 7] += 1

    learner.fit(epochs=1)
    assert told == [()] * FIRST + [("model.params.weight",)]


@pytest.mark.parametrize("what", ["mode", "hyper"])
def test_plain_values_are_compared_in_every_round(what: str) -> None:
    learner = toy_learner(train=DATA * 2 * EVERY, valid=None, invariants=())

    @learner.after("update")
    def flip(state: Any) -> None:
        if state.batch_index == 10:  # not looked at
            state.model.eval() if what == "mode" else state.optimizer.param_groups[0].update(lr=0.05)

    with pytest.warns(GuardWarning, match=rf"external changed '\w+\.{what}' .* learner\.debug\(\) finds out") as caught:
        learner.fit(batches=EVERY + FIRST + 1)  # and one more that is
    assert len(caught) == 1
    rows = [one for one in found(learner, actor="external") if what in one.field]
    assert [one.position.batch for one in rows] == [10]


class Two(TrainState):
    """A module that nobody in the tree changes."""

    other: nn.Module


def two() -> Learner:
    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    modules = {"model": model, "other": other}
    return Learner(modules, nn.functional.mse_loss, optimizer, train=DATA * 2 * EVERY, device="cpu")


def test_what_nobody_declares_is_found_after_rounds_that_were_not_looked_at() -> None:
    learner = two()

    @learner.after("update")
    def meddle(state: Any) -> None:
        if state.batch_index == 20:
            state.other.weight.data.add_(1)

    with pytest.warns(GuardWarning, match=r"external changed 'other\.params' \(weight; seen by contents\)") as caught:
        learner.fit(epochs=1)
    assert len(caught) == 1
    rows = [(one.field, one.position.batch, one.evidence) for one in found(learner, actor="external")]
    assert rows == [("other.params", LATER, "contents")]


def test_nobody_is_warned_of_what_a_person_changes_between_runs() -> None:
    learner = two()
    with warnings.catch_warnings(action="error"):
        for _ in range(8):
            learner.fit(batches=10)
            learner.state.other.weight.data.add_(1)
        with learner.inside("epoch/fit"):
            for _ in range(EVERY):
                learner.fit_batch(DATA[0])
                learner.state.other.weight.data.add_(1)


@pytest.mark.parametrize("part", ["model.params", "model.mode", "optimizer.hyper.lr", "optimizer.state"])
def test_a_change_between_two_fits_is_external(part: str) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    learner = Learner(model, nn.functional.mse_loss, optimizer, train=DATA * 3, device="cpu")
    learner.fit(epochs=1)
    {
        "model.params": lambda: model.weight.data.zero_(),
        "model.mode": lambda: model.eval(),
        "optimizer.hyper.lr": lambda: optimizer.param_groups[0].update(lr=0.2),
        "optimizer.state": lambda: optimizer.state.clear(),
    }[part]()
    learner.fit(epochs=1)
    rows = found(learner, actor="external")
    assert {one.field for one in rows} == {"model.mode.train" if part == "model.mode" else part}
    assert rows[0].position.update == 3


def test_debug_looks_at_every_batch_and_raises() -> None:
    learner = meddle_from(40)
    learner.debug()
    with pytest.raises(UndeclaredChange) as caught:
        learner.fit(epochs=1)
    assert (learner.state.batches_seen, caught.value.actor) == (40, f"{BATCH}/update:after:meddle")


def test_debug_is_kept_over_edits_until_it_is_switched_off() -> None:
    learner = meddle_from(5, guard="off")
    learner.debug()
    learner.after("epoch")(lambda state: None)
    learner.swap("forward", Forward())
    with pytest.raises(UndeclaredChange):
        learner.fit(epochs=1)
    learner.debug(False)
    learner.fit(epochs=1)
    assert learner.outcome.ok


def test_debug_tells_what_was_seen_to_change_of_what_is_declared() -> None:
    class Draws(Callback):
        @before("fit/batch", writes=("model.params", "model.buffers"), touches=("rng",))
        def draw(self, model: nn.Module) -> None:
            with torch.no_grad():
                model.weight.add_(torch.rand(()))

    learner = toy_learner(callbacks=[Draws()])
    learner.fit(batches=1)
    assert not learner.log.where(kind="seen", actor="*draw")
    learner.debug()
    learner.fit(batches=1)
    told = {(one.field, one.after) for one in learner.log.where(kind="seen", actor="*draw")}
    assert told == {("model.params", "weight"), ("rng", "torch")}
    assert {one.before for one in learner.log.where(kind="seen")} == {ABSENT}, "it tells of a write that is on record"


def test_debug_finds_who_flips_a_mode_in_any_batch() -> None:
    learner = toy_learner(train=DATA * 20)
    learner.after("update")(lambda state: state.batch_index == 10 and state.model.eval())
    learner.debug()
    with pytest.raises(UndeclaredChange, match=r"'model\.mode' \(training; seen by value\)") as caught:
        learner.fit(epochs=1)
    assert caught.value.actor.startswith(f"{BATCH}/update:after:")


def test_who_only_touches_what_an_optimizer_keeps_is_not_excused_for_its_parameters() -> None:
    learner = toy_learner()

    @learner.after("update", reads=("model",), touches=("optimizer.state",))
    def meddle(state: Any) -> None:
        state.model.weight.data.mul_(1.01)

    with pytest.raises(UndeclaredChange, match=r"meddle changed 'model\.params'"):
        learner.fit(batches=1)


def test_warning_points_at_the_code_of_who_did_it() -> None:
    learner = meddle_from(LATER)
    with pytest.warns(GuardWarning, match="meddle changed 'model.params'") as caught:
        learner.fit(epochs=1)
    (warning,) = caught
    line = int(str(warning.message).partition(f"{__file__}:")[2].partition(".")[0])
    assert (warning.filename, warning.lineno) == (__file__, line)
