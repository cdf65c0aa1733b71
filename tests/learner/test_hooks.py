"""The hooks of a Learner: listed by name, taken out by name, object or function."""

from dataclasses import dataclass
from typing import Any

import pytest

from learner import ArgumentError, Callback, after, before
from learner.callbacks import Accuracy, ClipGradients, Mean
from learner.testing import toy_learner

OWN = ["Mean.add", "Mean.result", "RecordHistory.start", "RecordHistory.record"]


@dataclass
class Looks(Callback):
    """An observer with two hooks, which cannot be hashed."""

    seen: int = 0

    @before("update")
    def first(self, state: Any) -> None:
        self.seen += 1

    @after("update")
    def second(self, state: Any) -> None:
        self.seen += 1


def show(state: Any) -> None: ...


def test_hooks_are_listed_in_the_order_of_registration() -> None:
    learner = toy_learner(callbacks=[Looks(), ClipGradients(1.0)])
    learner.after("epoch")(show)
    assert list(learner.hooks) == [*OWN, "Looks.first", "Looks.second", "ClipGradients.clip", "show"]
    assert (len(learner.hooks), learner.hooks[-1], learner.hooks[4:6]) == (8, "show", ["Looks.first", "Looks.second"])
    assert "ClipGradients.clip" in learner.hooks


def test_repr_says_where_each_stands() -> None:
    learner = toy_learner(callbacks=[Looks(), ClipGradients(1.0)])
    lines = [line.split() for line in repr(learner.hooks).splitlines()]
    assert ["Looks.first", "before", "update", "observes"] in lines
    assert ["ClipGradients.clip", "before", "update"] in lines
    assert ["Mean.result", "after", "Phase"] in lines


@pytest.mark.parametrize("name", ["Looks", "Looks.first"])
def test_callback_is_taken_out_by_name_with_all_its_hooks(name: str) -> None:
    learner = toy_learner(callbacks=[Looks()])
    learner.hooks.remove(name)
    assert list(learner.hooks) == OWN
    learner.fit(batches=1)


def test_callback_is_taken_out_by_the_object() -> None:
    kept, gone = Looks(), Looks()
    learner = toy_learner(callbacks=[kept, gone])
    learner.hooks.remove(gone)
    learner.fit(batches=1)
    assert (kept.seen, gone.seen) == (2, 0)


def test_function_is_taken_out_by_itself_and_by_its_name() -> None:
    learner = toy_learner()
    learner.after("update")(show)
    learner.hooks.remove(show)
    assert "show" not in learner.hooks
    learner.after("update")(show)
    learner.hooks.remove("show")
    assert list(learner.hooks) == OWN


def test_decorated_function_is_taken_out_by_itself() -> None:
    note = after("update")(show)
    learner = toy_learner(callbacks=[note])
    learner.hooks.remove(note)
    assert list(learner.hooks) == OWN


def test_equal_callbacks_are_taken_out_one_at_a_time() -> None:
    learner = toy_learner(callbacks=[(ClipGradients(1.0), ClipGradients(1.0))])
    learner.hooks.remove("ClipGradients_2")
    assert list(learner.hooks)[4:] == ["ClipGradients.clip"]


def test_member_of_a_tuple_is_taken_out_and_the_rest_keeps_its_order() -> None:
    one, two, three = ClipGradients(1.0), ClipGradients(2.0), ClipGradients(3.0)
    learner = toy_learner(callbacks=[(three, two, one)])
    learner.hooks.remove(two)
    (update,) = [place for place in learner.assembly.places if place.path.endswith("fit/batch/update")]
    assert [hung.hook.callback for hung in update.before] == [three, one]


@pytest.mark.parametrize(("name", "told"), [("Look", r"Did you mean 'Looks'\?"), ("Mean", "stays"), (show, "stays")])
def test_what_is_not_there_is_refused_with_what_is(name: Any, told: str) -> None:
    learner = toy_learner(callbacks=[Looks()])
    with pytest.raises(
        ArgumentError, match=rf"hooks\.remove: no .* is there\. The callbacks are \['Looks'\].*{told}"
    ) as c:
        learner.hooks.remove(name)
    assert c.value.argument == "hook"
    assert len(learner.hooks) == 6


def test_hook_that_others_rest_on_stays() -> None:
    top = Mean("loss", name="again")
    learner = toy_learner(callbacks=[top])

    @learner.after("epoch")
    def use(train_again: float) -> None: ...

    with pytest.raises(Exception, match="reads 'train_again'"):
        learner.hooks.remove(top)
    assert "Mean_2.result" in learner.hooks
    learner.fit(epochs=1)


def test_removed_callback_leaves_no_column() -> None:
    batch_of_classes = [(0.0, 0)]
    assert batch_of_classes
    learner = toy_learner(callbacks=[Mean("loss", name="again")])
    assert "train_again" in learner.fit(epochs=1).names
    learner.hooks.remove("Mean_2")
    assert "train_again" not in learner.fit(epochs=1)[-1]
    assert Accuracy().name == "accuracy"
