"""Where a callback stands when its user narrows it by `within`."""

from typing import Any

import pytest

from learner import Callback, EvaluationPhase, GraphError, Learner, TrainingPhase, after, before
from learner.testing import toy_learner
from stages import Backward, Chain, ClearGradients, DeclarationError, Forward, Gradient, Loss, Update


class Note(Callback):
    """Stands after every batch, and wherever else a subclass says."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @after("batch")
    def batch(self, state: Any) -> None:
        self.seen.append("batch")


class Narrow(Callback):
    """Narrowed by its author, to training."""

    @after("forward", within=TrainingPhase)
    def look(self, state: Any) -> None: ...


def places(learner: Learner) -> list[str]:
    """Where hooks of these tests stand."""
    return [
        hung.path
        for place in learner.assembly.places
        for hung in place.hooks
        if isinstance(hung.hook.callback, Note | Narrow)
    ]


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("fit", ["train/epoch/fit/batch"]),
        ("validate", ["train/epoch/validate/batch"]),
        ("epoch/validate", ["train/epoch/validate/batch"]),
        (TrainingPhase, ["train/epoch/fit/batch"]),
        (EvaluationPhase, ["train/epoch/validate/batch"]),
        ("epoch", ["train/epoch/fit/batch", "train/epoch/validate/batch"]),
    ],
    ids=str,
)
def test_within_leaves_the_places_inside_a_path_or_a_class_of_phases(inside: Any, expected: list[str]) -> None:
    learner = toy_learner(callbacks=[Note().within(inside)])
    assert places(learner) == [f"{path}:after:Note.batch" for path in expected]
    learner.fit(epochs=1)
    (callback,) = {hung.hook.callback for place in learner.assembly.places for hung in place.hooks} & set(
        learner._bound.callbacks
    )
    assert callback.seen == ["batch"] * sum(8 if "fit" in path else 2 for path in expected)


def test_within_gives_a_copy_and_leaves_the_callback_as_it_was() -> None:
    whole = Note()
    narrowed = whole.within("fit")
    assert narrowed is not whole
    assert len(places(toy_learner(callbacks=[whole]))) == 2
    assert len(places(toy_learner(callbacks=[narrowed]))) == 1


def test_two_copies_in_two_places_stand_side_by_side() -> None:
    learner = toy_learner(callbacks=[Note().within("fit"), Note().within("validate")])
    expected = ["train/epoch/fit/batch:after:Note.batch", "train/epoch/validate/batch:after:Note_2.batch"]
    assert places(learner) == expected


def test_a_callback_narrowed_by_its_author_and_by_its_user_stands_where_both_allow() -> None:
    allowed = ["train/epoch/fit/batch/gradient/forward:after:Narrow.look"]
    assert places(toy_learner(callbacks=[Narrow().within("gradient")])) == allowed
    with pytest.raises(GraphError, match="Narrow.look stands after 'forward' within 'TrainingPhase' and 'validate'"):
        toy_learner(callbacks=[Narrow().within("validate")])


def test_a_place_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        GraphError, match="Note.batch stands after 'batch' within 'critic', but that slot is not inside"
    ):
        toy_learner(callbacks=[Note().within("critic")])


@pytest.mark.parametrize("given", [None, 3, Backward, ("fit",)], ids=str)
def test_what_names_no_place_is_refused_at_once(given: Any) -> None:
    with pytest.raises(DeclarationError, match="Note: stands within .*neither text nor a class of phases"):
        Note().within(given)


def test_the_last_within_counts() -> None:
    learner = toy_learner(callbacks=[Note().within("fit").within("validate")])
    assert places(learner) == ["train/epoch/validate/batch:after:Note.batch"]


def test_within_and_bind_can_be_given_in_either_order() -> None:
    class Watch(Note):
        @before("batch", reads=("loss?",))
        def look(self, state: Any) -> None: ...

    for callback in (Watch().bind(loss="outputs").within("fit"), Watch().within("fit").bind(loss="outputs")):
        learner = toy_learner(callbacks=[callback])
        hung = [one for place in learner.assembly.places for one in place.hooks if one.hook.callback is callback]
        assert [one.path.partition(":")[0] for one in hung] == ["train/epoch/fit/batch"] * 2
        assert {"outputs"} == {name for one in hung for name in one.access.reads}


def test_within_a_composite_of_ones_own() -> None:
    learner = toy_learner()
    learner.swap(
        "update", Chain(first=Update(), rest=Chain(ClearGradients(), Gradient(Forward(), Loss(), Backward()), Update()))
    )

    class Count(Callback):
        @after("update")
        def note(self, state: Any) -> None: ...

    narrowed = toy_learner(stages=learner._bound.tree, callbacks=[Count().within("rest")])
    (path,) = [one.path for place in narrowed.assembly.places for one in place.hooks if "Count" in one.path]
    assert path == "train/epoch/fit/batch/update/rest/update:after:Count.note"
