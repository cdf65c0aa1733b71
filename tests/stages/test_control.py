"""Control: chains, repeats, conditions, counted rounds, and an evaluation in the middle of an epoch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from learner import Cancel, GraphError, Learner, TrainState, field, stage, supervised
from learner.recipes import validate
from learner.testing import events, toy_learner
from stages import (
    Chain,
    DeclarationError,
    Epoch,
    Every,
    Forward,
    Loss,
    Misuse,
    Repeat,
    Train,
    Update,
    When,
)


class Tally(TrainState):
    tally: int = field(default=0, description="how often `count` ran")


class Inner(Tally):
    once: int = field(scope="inner", default=0, description="begins anew in each round")
    product: Tensor = field(scope="inner", description="made in the round")


@stage(state=Tally, writes=("tally",))
def count(tally: int) -> int:
    return tally + 1


@stage(state=Inner, writes=("tally", "once", "product"))
def begin(tally: int, once: int) -> tuple[int, int, Tensor]:
    return tally + 1, once + 1, torch.tensor(once + 1)


@stage(state=Inner, writes=("once",))
def again(once: int, product: Tensor) -> int:
    return once + int(product)


def with_stage(made: Any, *, slot: str | None = None, **settings: Any) -> Learner:
    tree = supervised(valid=False).insert(made, after="fit/batch/gradient", slot=slot)
    return toy_learner(valid=None, stages=tree, **settings)


# Chain


def test_chain_runs_its_stages_in_order_under_one_name() -> None:
    tree = supervised(valid=False)
    gradient = tree.epoch.fit.batch.gradient
    chained = toy_learner(valid=None, stages=tree.swap("gradient", Chain(**gradient.stages)))
    plain = toy_learner(valid=None)
    seen = events(chained)
    assert chained.fit(epochs=1)["train_loss"] == plain.fit(epochs=1)["train_loss"]
    ran = [one.split()[1].rstrip(":") for one in seen if one.startswith("before")]
    assert ran[7:11] == ["gradient", "forward", "loss", "backward"]


def test_empty_chain_does_nothing() -> None:
    learner = with_stage(Chain())
    learner.fit(epochs=1)
    assert learner.state.updates == 8


def test_chain_opens_a_scope_for_as_long_as_it_runs() -> None:
    learner, seen = with_stage(Chain(begin, again, opens="inner")), list[bool]()
    learner.after("again")(lambda state: seen.append(state.once == 2 and state.ready("product")))
    learner.after("chain")(lambda state: seen.append(state.ready("product")))
    learner.before("update")(lambda state: seen.append(state.ready("once")))
    learner.fit(batches=2)
    assert seen == [True, True, False] * 2, "its after-hooks still are inside"


def test_cancel_of_the_scope_that_a_chain_opens_ends_the_chain_alone() -> None:
    learner = with_stage(Chain(begin, again, opens="inner"))

    @learner.before("again")
    def stop(state: Any) -> None:
        raise Cancel("inner", "enough")

    learner.fit(epochs=1)
    assert (learner.state.tally, learner.state.updates) == (8, 8)


# Repeat


@pytest.mark.parametrize("times", [1, 2, 5])
def test_repeat_runs_its_stages_so_often(times: int) -> None:
    learner = toy_learner(stages=supervised().swap("update", Repeat(times, Update())))
    learner.fit(batches=2)
    assert (learner.state.updates, learner.state.batches_seen) == (2 * times, 2)


def test_each_time_opens_the_scope_of_ones_own_anew() -> None:
    learner, seen = with_stage(Repeat(3, begin, again, each="inner")), list[Any]()
    learner.after("again")(lambda state: seen.append(state.once))
    learner.after("repeat")(lambda state: seen.append((state.ready("once"), state.ready("product"))))
    learner.fit(batches=2)
    assert seen == [2, 2, 2, (False, False)] * 2
    assert learner.state.tally == 6


def test_scope_of_ones_own_may_be_open_within_itself() -> None:
    deep = Repeat(2, other=Chain(begin), each="inner")
    learner, seen = with_stage(Repeat(2, begin, again, deep=deep, each="inner")), list[Any]()
    learner.after("other")(lambda state: seen.append(("deep", state.once)))
    learner.after("deep")(lambda state: seen.append(("outer", state.once)))
    learner.fit(batches=1)
    assert seen == [("deep", 1), ("deep", 1), ("outer", 2)] * 2, "the outer value is back"


def test_cancel_of_ones_own_scope_ends_one_time_and_no_more() -> None:
    learner = with_stage(Repeat(3, begin, again, each="inner"))
    seen: list[int] = []

    @learner.before("again")
    def stop(state: Any) -> None:
        seen.append(state.tally)
        if state.tally == 2:
            raise Cancel("inner", "the second")

    learner.after("again")(lambda state, outcome: seen.append(-state.tally if outcome.ok else 0))
    learner.fit(batches=1)
    assert seen == [1, -1, 2, 0, 3, -3] and learner.outcome.ok


def test_inner_loop_carries_a_value_from_time_to_time_by_a_wider_field() -> None:
    class Adapted(TrainState):
        fast: Tensor = field(scope="batch", description="weight that the inner loop moves")

    @stage(state=Adapted, writes=("fast",))
    def begin(model: Any) -> Tensor:
        return model.weight.detach().clone()

    @stage(state=Adapted, writes=("fast",))
    def step(fast: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return fast - 0.1 * (2 * (fast * inputs - targets) * inputs).mean()

    learner = with_stage(Chain(begin, Repeat(3, step, each="inner")))
    frame = learner.fit_batch((torch.ones(2, 1), 3 * torch.ones(2, 1)))
    assert frame.fast.item() == pytest.approx(3 - 3 * 0.8**3)


def test_value_of_a_time_cannot_be_read_after_it() -> None:
    @stage(state=Inner)
    def late(once: int) -> None: ...

    with pytest.raises(GraphError, match="late reads 'once', but .* write it in a scope 'inner', which is not open"):
        with_stage(Chain(Repeat(2, begin, again, each="inner"), late))


# When


@pytest.mark.parametrize(
    ("condition", "updates"),
    [
        (lambda: True, 8),
        (lambda: None, 0),
        (lambda batch_index: batch_index % 2 == 0, 4),
        (lambda updates, epoch: updates < 3 and epoch == 0, 3),
        (lambda valid_loss=None: valid_loss is None, 8),
        (lambda loss, valid_loss=None: loss > 1, 5),
    ],
    ids=["always", "never", "field", "two fields", "optional", "both"],
)
def test_when_runs_its_stages_if_the_condition_holds(condition: Any, updates: int) -> None:
    learner = toy_learner(valid=None, stages=supervised(valid=False).swap("update", When(condition, Update())))
    learner.fit(epochs=1)
    assert 0 < learner.state.batches_seen == 8
    if updates == 5:
        assert 0 < learner.state.updates < 8
    else:
        assert learner.state.updates == updates


def test_optional_field_of_a_condition_is_given_once_it_is_there() -> None:
    seen: list[Any] = []

    def look(valid_loss: Any = None) -> bool:
        seen.append(valid_loss)
        return False

    tree = Train(Epoch(first=When(look), validate=validate(), second=When(look)))
    toy_learner(stages=tree).fit(epochs=1)
    assert seen[0] is None and seen[1] > 0


def test_condition_is_what_a_when_reads() -> None:
    made = When(lambda loss, epoch=None: True, Update())
    assert made.reads == ("loss", "epoch?")
    row = next(row for row in with_stage(made, slot="sometimes").fields if row.name == "epoch")
    assert "train/epoch/fit/batch/sometimes" in row.read_by


@pytest.mark.parametrize(
    ("condition", "match"),
    [
        (3, "got 3 as its condition. It wants a function of fields first"),
        (None, "got None as its condition"),
        ("updates > 3", "got 'updates > 3' as its condition"),
        (Forward(), r"got Forward\(\) as its condition"),
        (Forward, "Forward'> as its condition"),
        (count, "count .* as its condition"),
        (lambda state: True, "takes 'state'. Name the fields it reads"),
        (lambda outcome: True, "takes 'outcome'. Name the fields it reads"),
        (lambda updates=3: True, "parameter 'updates' has the default 3. A parameter is a field"),
        (lambda *fields: True, r"takes \*fields. Its parameters are the fields it reads"),
        (lambda *, updates: True, "parameter 'updates' is keyword-only"),
        (print, r"takes \*args"),
    ],
)
def test_what_is_no_condition_is_refused(condition: Any, match: str) -> None:
    with pytest.raises(DeclarationError, match=f"^When: .*{match}"):
        When(condition, Update())


def test_field_of_a_condition_that_is_not_there_is_a_finding() -> None:
    with pytest.raises(GraphError, match="when declares 'lss', but State has no such field. Did you mean 'loss'"):
        with_stage(When(lambda lss: True))


def test_error_of_a_condition_is_told_as_one_of_its_stage() -> None:
    learner = with_stage(When(lambda updates: 1 / updates))
    with pytest.raises(ZeroDivisionError) as caught:
        learner.fit(epochs=1)
    assert caught.value.__notes__[0].startswith("In train/epoch/fit/batch/when at epoch 0, fit, batch 0, update 0.")


@pytest.mark.parametrize("made", [When(lambda epoch: epoch > 0, Loss()), Every("2 batches", Loss())], ids=repr)
def test_field_that_is_written_only_sometimes_and_then_read_is_a_finding(made: Any) -> None:
    with pytest.raises(GraphError, match="backward reads 'loss', which .*/loss may not have written by then"):
        toy_learner(stages=supervised().swap("gradient/loss", made))


# Every


def rounds(made: Any, *, at: str = "fit/batch", accumulate: int | None = None, epochs: int = 3) -> list[Any]:
    """(epoch, batches, updates) so far whenever `made` runs, in epochs of eight batches."""
    tree = supervised(valid=False, accumulate=accumulate).insert(made, after=at)
    learner, seen = toy_learner(valid=None, stages=tree), []
    learner.before("count")(lambda state: seen.append((state.epoch, state.batches_seen, state.updates)))
    learner.fit(epochs=epochs)
    return seen


@pytest.mark.parametrize(
    ("text", "at", "batches"),
    [
        ("3 batches", "fit/batch", [3, 6, 9, 12, 15, 18, 21, 24]),
        ("1 batch", "fit/batch", list(range(1, 25))),
        ("5 updates", "fit/batch", [5, 10, 15, 20]),
        ("2 epochs", "fit/batch", list(range(9, 17))),
        ("2 epochs", "epoch/fit", [16]),
        ("1 epoch", "epoch/fit", [8, 16, 24]),
        ("12 batches", "epoch/fit", [24]),
        ("100 batches", "fit/batch", []),
    ],
)
def test_every_runs_in_rounds_whose_number_in_the_run_is_a_multiple(text: str, at: str, batches: list[int]) -> None:
    seen = rounds(Every(text, count=Chain()), at=at)
    assert [(epoch, done) for epoch, done, _ in seen] == [((done - 1) // 8, done) for done in batches]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 updates", [(0, 6, 2), (1, 11, 4), (1, 16, 6), (2, 22, 8)]),
        ("2 batches", [(0, 6, 2), (0, 8, 3), (1, 14, 5), (1, 16, 6), (2, 22, 8), (2, 24, 9)]),
        ("3 epochs", [(2, 19, 7), (2, 22, 8), (2, 24, 9)]),
    ],
)
def test_every_after_a_window_sees_the_rounds_of_updates(text: str, expected: list[Any]) -> None:
    made = Every(text, count=Chain())
    assert rounds(made, at="fit/update", accumulate=3) == expected


@pytest.mark.parametrize(
    "text", [0, 3, None, True, "3", "", "0 batches", "-1 epochs", "1.5 batches", "2 minutes", Forward(), ["2 batches"]]
)
def test_what_is_no_number_of_rounds_is_refused(text: Any) -> None:
    with pytest.raises(DeclarationError, match=r"^Every: .* is no number of rounds. Write '100 batches'"):
        Every(text, Update())


# As parts of a tree


def test_settings_come_first_and_slots_by_name() -> None:
    made = Repeat(2, Forward(), last=Loss(), forbids=("model.params",))
    assert (made.times, list(made.stages), made.forbids) == (2, ["forward", "last"], ("model.params",))
    assert repr(made) == "Repeat(forward, last)"


@pytest.mark.parametrize("made", [Chain(), Repeat(2), When(lambda: True), Every("2 batches")], ids=repr)
def test_control_stage_is_edited_like_any_other(made: Any) -> None:
    learner = with_stage(made, slot="held")
    learner.swap("held", type(made)(*settings_of(made), count))
    learner.insert(Chain(), before="held/count")
    learner.remove("held/chain")
    assert settings_of(learner.stages.epoch.fit.batch.held) == settings_of(made)
    learner.fit(epochs=1)
    assert learner.state.tally == {Chain: 8, Repeat: 16, When: 8, Every: 4}[type(made)]


def settings_of(made: Any) -> list[Any]:
    names = {Repeat: "times", When: "condition", Every: "rounds"}
    if isinstance(made, Every):
        return ["2 batches"]
    return [getattr(made, names[type(made)])] if type(made) in names else []


def test_setting_of_a_bound_control_stage_is_frozen() -> None:
    made = Repeat(2, count)
    with_stage(made)
    with pytest.raises(Misuse, match="Repeat.times cannot be set: Repeat is bound to a Learner"):
        made.times = 3


def test_control_stages_draw_their_name() -> None:
    told = repr(with_stage(Repeat(2, When(lambda: True, Chain(count))), slot="held"))
    assert [line.split()[:2] for line in told.splitlines() if "held" in line or "when" in line] == [
        ["held", "Repeat"],
        ["when"],
    ]


def test_hooks_find_the_stages_inside_by_their_slots() -> None:
    seen: list[str] = []
    learner = with_stage(Chain(Chain(count), twice=Repeat(2, count)), slot="both")
    learner.after("count")(lambda state: seen.append("any"))
    learner.after("twice/count")(lambda state: seen.append("twice"))
    learner.after("count", within="chain")(lambda state: seen.append("chain"))
    learner.fit(batches=1)
    assert seen == ["any", "chain", "any", "twice", "any", "twice"]
