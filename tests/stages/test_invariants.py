"""Invariants: checked at their slots, told with the last writer, refused where they cannot stand."""

import warnings
from collections.abc import Collection
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learner import Cancel, Invariant, InvariantBroken, InvariantWarning, Learner, TrainingPhase
from learner.invariants import defaults
from learner.testing import toy_learner
from stages.errors import DeclarationError, UnknownSlot
from stages.invariants import Writes, Wrong
from state.errors import UnknownField
from state.watch import Look, Watch

BATCH = "train/epoch/fit/batch"


def with_rule(*given: Invariant, **settings: Any) -> Learner:
    """A Learner with these invariants alone."""
    return toy_learner(invariants=given, **settings)


def test_invariant_that_holds_says_nothing_and_changes_nothing() -> None:
    asked: list[float] = []
    rule = Invariant("the loss is a number", lambda loss: asked.append(loss.item()), after="forward_and_loss")
    with pytest.raises(UnknownSlot, match="Invariant.'the loss is a number'. asks for 'forward_and_loss'"):
        with_rule(rule)
    plain, checked = toy_learner(invariants=()), with_rule(Invariant(rule.name, rule.check, after="fit/batch"))
    assert plain.fit(epochs=2)["valid_loss"] == checked.fit(epochs=2)["valid_loss"]
    assert len(asked) == 16, "once for each batch"
    assert torch.equal(plain.state.model.weight, checked.state.model.weight)
    assert not checked.log.violations()


def test_broken_invariant_raises_with_the_last_writer_of_what_it_reads() -> None:
    learner = with_rule(Invariant("the loss is below 100", lambda loss: loss < 100, after="fit/batch/gradient"))

    @learner.after("fit/batch/gradient/loss", reads=("loss", "batch_index"), writes=("loss",))
    def grow(loss: Tensor, batch_index: int) -> Tensor:
        return loss * 1000 if batch_index == 2 else loss

    with pytest.raises(InvariantBroken) as caught:
        learner.fit(epochs=1)
    error = caught.value
    assert str(error).startswith(f"{BATCH}/gradient/loss:after:grow wrote 'loss' last, and it does not hold at")
    assert "that the loss is below 100" in str(error) and error.path == f"{BATCH}/gradient"
    assert error.source.partition(" ")[2].startswith(__file__)
    assert learner.state.updates == 2, "the update of that batch did not run"
    (row,) = learner.log.where(kind="broken")
    assert (row.actor, row.evidence) == (error.actor, "the loss is below 100")
    assert [*learner.log.violations()] == [row]


def test_one_that_warns_warns_once_for_each_culprit_and_records_every_time() -> None:
    learner = with_rule(Invariant("never", lambda: False, after="fit/batch", then="warn"))
    with pytest.warns(InvariantWarning, match=f"^{BATCH}: it does not hold that never: its check says no.") as caught:
        learner.fit(epochs=1)
    assert len(caught) == 1 and len(learner.log.where(kind="broken")) == 8


def test_one_that_records_says_nothing_else() -> None:
    learner = with_rule(Invariant("never", lambda: "it was so", after="fit/batch", then="record"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.fit(batches=2)
    assert [row.after for row in learner.log.where(kind="broken")] == ["it was so"] * 2


def test_checks_run_outside_of_all_hooks_of_their_slot() -> None:
    order: list[str] = []
    rules = [
        Invariant("before", lambda: order.append("rule before"), before="fit/batch"),
        Invariant("after", lambda: order.append("rule after"), after="fit/batch"),
    ]
    learner = with_rule(*rules)
    learner.before("fit/batch")(lambda state: order.append("hook before"))
    learner.after("fit/batch")(lambda state: order.append("hook after"))
    learner.fit(batches=1)
    assert order == ["rule before", "hook before", "hook after", "rule after"]


def test_hooks_of_the_slot_are_left_out_where_they_do_not_count() -> None:
    order: list[str] = []
    note = lambda text: lambda changed: order.append(f"{text}: {len(changed)}")  # noqa: E731
    where: dict[str, Any] = {"around": "update", "compares": ("*.params",)}
    learner = with_rule(Invariant("all", note("all"), **where), Invariant("stage", note("stage"), **where, hooks=False))

    @learner.after("update", writes=("model.params",))
    def undo(model: nn.Linear) -> None:
        with torch.no_grad():
            model.weight.fill_(0.0)
            model.bias.fill_(0.0)

    learner.after("update")(lambda state: order.append("observer"))
    learner.fit(batches=1)
    assert order == ["stage: 2", "observer", "all: 0"]


@pytest.mark.parametrize("is_changed", [True, False])
def test_comparing_names_the_tensors_that_differ_bit_by_bit(is_changed: bool) -> None:
    seen: list[tuple[str, ...]] = []
    rule = Invariant("same", lambda changed: seen.append(changed), around="fit/batch", compares=("*.params",))
    learner = with_rule(rule)
    if not is_changed:
        learner.state.model.bias.requires_grad_(False)
    learner.fit(batches=1)
    assert seen == [("model.params.weight", "model.params.bias")[: 1 + is_changed]]


def test_check_is_left_out_where_a_field_it_reads_has_no_value_and_after_a_failure() -> None:
    asked: list[Any] = []
    learner = with_rule(
        Invariant("early", lambda loss: asked.append(loss), before="fit/batch"),
        Invariant("late", lambda: asked.append("late"), after="fit/batch"),
    )

    @learner.after("fit/batch/gradient/forward")
    def fail(state: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        learner.fit(batches=1)
    assert asked == []


def test_slot_that_did_not_end_well_is_not_asked() -> None:
    learner = with_rule(Invariant("never", lambda: False, after="train/epoch"))

    @learner.after("fit/batch")
    def stop(state: Any) -> None:
        raise Cancel("run", "enough")

    learner.fit(epochs=1)
    assert learner.outcome.kind == "cancelled" and not learner.log.violations()


def test_writers_are_found_by_what_they_declare_wherever_they_stand() -> None:
    paths: list[str] = []
    rule = Invariant("where", lambda place: paths.append(place.path), after=Writes("*.params", "*.state"))
    with_rule(rule).fit(batches=2)
    assert paths == [f"{BATCH}/update"] * 2
    silent = Invariant("nowhere", lambda place: paths.append(place.path), after=Writes("critic.params"))
    with_rule(silent).fit(batches=1)
    assert len(paths) == 2, "it stands nowhere, and is not refused"


def test_phase_class_and_within_narrow_where_it_stands() -> None:
    paths: list[str] = []
    note = lambda place: paths.append(place.path)  # noqa: E731
    with_rule(
        Invariant("phase", note, after=TrainingPhase), Invariant("in", note, after="forward", within=TrainingPhase)
    ).fit(epochs=1)
    assert paths == [f"{BATCH}/gradient/forward"] * 8 + ["train/epoch/fit"]


def test_check_of_many_elements_holds_where_all_of_them_do() -> None:
    rule = Invariant("outputs are small", lambda outputs: outputs.abs() < 1e-9, after="fit/batch/gradient")
    with pytest.raises(InvariantBroken, match="its check says no"):
        with_rule(rule).fit(batches=3)
    with_rule(Invariant("finite", lambda outputs: outputs.isfinite(), after="fit/batch/gradient")).fit(batches=3)


def test_check_that_fails_says_which_and_a_sampled_one_does_not_end_the_run() -> None:
    wrong = lambda loss: loss.no_such_thing  # noqa: E731
    with pytest.raises(AttributeError) as caught:
        with_rule(Invariant("typo", wrong, after="fit/batch")).fit(batches=1)
    assert "While Invariant('typo') was asked at train/epoch/fit/batch." in caught.value.__notes__
    learner = with_rule(Invariant("typo", wrong, after="fit/batch", sampled=True))
    with pytest.warns(InvariantWarning, match="Invariant.'typo'. cannot be asked at") as warned:
        learner.fit(batches=3)
    assert len(warned) == 1 and learner.state.updates == 3


def test_sampled_one_is_asked_when_the_guard_looks_and_never_without_it() -> None:
    asked: list[int] = []
    rule = Invariant("seldom", lambda batches_seen: asked.append(batches_seen), before="fit/batch", sampled=True)
    with_rule(rule).fit(epochs=1)
    assert asked == [0, 1, 2]
    learner = with_rule(rule, guard="off")
    learner.fit(epochs=1)
    assert asked == [0, 1, 2]
    learner = with_rule(rule)
    learner.debug()
    learner.fit(batches=5)
    assert asked == [0, 1, 2, 0, 1, 2, 3, 4]


def test_sampled_one_raises_only_in_the_first_rounds_and_warns_later() -> None:
    is_bad = lambda batches_seen: batches_seen < 8  # noqa: E731
    late = Invariant("first epoch only", is_bad, before="fit/batch", sampled=True)
    learner = with_rule(late)
    with pytest.warns(InvariantWarning, match="first epoch only"):
        learner.fit(epochs=2)
    with pytest.raises(InvariantBroken):
        with_rule(Invariant("no", lambda: False, before="fit/batch", sampled=True)).fit(epochs=1)


def test_without_a_log_the_place_is_named_and_what_asks_the_log_is_left_out() -> None:
    asked: list[object] = []
    learner = with_rule(Invariant("log", lambda log: asked.append(log), after="fit/batch"), audit="off")
    learner.fit(batches=1)
    assert asked == []
    with pytest.raises(InvariantBroken, match=f"^{BATCH}: it does not hold that never"):
        with_rule(Invariant("never", lambda loss: Wrong("so it is"), after="fit/batch"), audit="off").fit(batches=1)


def test_what_a_check_says_it_is_about_decides_who_is_named() -> None:
    learner = with_rule(Invariant("never", lambda: Wrong("look", ("inputs",)), after="fit/batch"))
    with pytest.raises(
        InvariantBroken, match=f"^{BATCH}/unpack wrote 'inputs' last, and .*: look. Its code: Unpack.run"
    ):
        learner.fit(batches=1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": " ", "after": "fit"}, "has no name"),
        ({"check": 3, "after": "fit"}, "its check is 3. It wants a function of fields"),
        ({}, "Say one of before=, after= and around="),
        ({"after": "fit", "before": "fit"}, "Say one of before=, after= and around="),
        ({"after": nn.Linear}, "is no place. Name a slot"),
        ({"around": "fit", "compares": "*.params"}, "with the comma"),
        ({"after": "fit", "within": 3}, "within=3 is no place. Name a class of phases, or a path"),
        ({"after": "fit", "within": nn.Linear}, "is no place. Name a class of phases"),
        ({"around": "fit"}, "around= and compares= belong together"),
        ({"after": "fit", "compares": ("*.params",)}, "around= and compares= belong together"),
        ({"after": "fit", "then": "rise"}, "then='rise' is none of"),
        ({"after": "fit", "check": lambda changed: None}, "takes 'changed', and nothing is compared"),
        ({"after": "fit", "check": max}, "its check does not tell its parameters"),
        ({"after": "fit", "check": lambda **given: None}, "takes .args, ..kwargs or keywords"),
    ],
)
def test_one_that_cannot_be_used_is_refused_when_it_is_made(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError, match=told):
        Invariant(**{"name": "always", "check": lambda: None, **arguments})


def test_one_that_fits_no_learner_is_refused_before_anything_has_changed() -> None:
    with pytest.raises(UnknownField, match=r"'los'. Did you mean 'loss'"):
        with_rule(Invariant("typo", lambda los: True, after="fit/batch"))
    with pytest.raises(UnknownSlot, match="asks for 'fitt'.* Did you mean 'fit'"):
        with_rule(Invariant("inside", lambda: True, after=Writes("loss"), within="fitt"))
    with pytest.raises(DeclarationError, match="Name what is written: Writes"):
        Writes()
    with pytest.raises(DeclarationError, match=r"Writes: it names '\*\.parms'.* Did you mean '\*\.params'"):
        Writes("*.parms")
    with pytest.raises(DeclarationError, match=r"compares names '\*\.grad'.* Did you mean '\*\.grads'"):
        Invariant("compared", lambda changed: True, around="update", compares=("*.grad",))
    with pytest.raises(UnknownField, match="teacher.params"):
        with_rule(Invariant("still", lambda changed: not changed, around="fit", compares=("teacher.params",)))
    with pytest.raises(DeclarationError, match="invariants: got 'loss > 0'. Write Invariant"):
        toy_learner(invariants=["loss > 0"])
    learner = with_rule(Invariant("there", lambda: True, after="fit/batch/update"))
    before = repr(learner)
    with pytest.raises(UnknownSlot, match="asks for 'fit/batch/update'"):
        learner.remove("update")
    assert repr(learner) == before
    assert learner.fit(batches=1) is not None and learner.state.updates == 1


def test_one_for_the_whole_tree_is_asked_when_the_run_reaches_its_limit_and_not_when_it_fails() -> None:
    asked: list[int] = []
    learner = with_rule(Invariant("all", lambda updates: asked.append(updates), after="train"))
    learner.fit(epochs=1)
    learner.fit(batches=2)
    assert asked == [8, 10]

    @learner.before("fit/batch/update")
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        learner.fit(epochs=1)
    assert asked == [8, 10]


@pytest.mark.parametrize("guard", ["parts", "contents"])
def test_those_that_compare_at_one_boundary_look_once_and_each_is_told_of_its_own(
    guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, tuple[str, ...]] = {}

    def kept(name: str, compares: tuple[str, ...], *, sampled: bool = False) -> Invariant:
        def keep(changed: tuple[str, ...]) -> None:
            told[name] = changed

        return Invariant(name, keep, around="fit/batch/update", compares=compares, hooks=False, sampled=sampled)

    given = [
        kept("all", ("*.params",)),
        kept("state", ("optimizer.state",)),
        kept("now and then", ("*.params",), sampled=True),
    ]
    learner = with_rule(*given, optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), guard=guard)
    looks: list[set[str]] = []

    class Counted(Watch):
        def look_at(self, names: Collection[str], *, contents: bool) -> Look:
            looks.append({*names})
            return super().look_at(names, contents=contents)

    monkeypatch.setattr(learner._bound.runner, "parts", Counted(learner.state))
    learner.fit(batches=1)
    params, both = {"model.params"}, {"model.params", "optimizer.state"}
    seen_by_guard = guard == "contents"  # it has read them at the same boundaries
    assert [one for one in looks if params <= one] == ([] if seen_by_guard else [both, params, both, params])
    assert told["all"] == told["now and then"] == ("model.params.weight", "model.params.bias")
    assert told["state"] and all(one.startswith("optimizer.state.") for one in told["state"])


def test_default_set_stands_in_the_default_tree_and_can_be_left_out() -> None:
    nodes = toy_learner()._bound.runner.nodes.values()
    standing = {rule.invariant.name for node in nodes for rule in (*node.outer_rules, *node.inner_rules)}
    assert standing == {one.name for one in defaults()}
    assert not any(
        node.outer_rules or node.inner_rules for node in toy_learner(invariants=())._bound.runner.nodes.values()
    )
