"""Stages and composites as objects: slots, edited copies of a tree, what is refused, and when settings are frozen."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest

from learner import Callback, before, supervised
from learner.testing import run_stage, toy_learner
from stages import (
    AmbiguousSlot,
    Backward,
    Chain,
    Composite,
    DeclarationError,
    Epoch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Misuse,
    Stage,
    StageError,
    Train,
    UnknownSlot,
    Update,
    ValidateBatch,
    stage,
)
from stages.slots import find_one, fits, snake_case
from stages.stage import as_stage, paths_of, slot_of
from state import State


class Scale(Stage):
    """A stage with a setting that is no dataclass field."""

    writes = ("inputs",)

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def run(self, inputs: float) -> float:
        return inputs * self.factor


@dataclass(frozen=True)
class Shift(Stage):
    """A stage with a setting that is a dataclass field."""

    by: float = 1.0
    writes = ("inputs",)

    def run(self, inputs: float) -> float:
        return inputs + self.by


@stage(writes=("inputs",))
def halve(inputs: float) -> float:
    return inputs / 2


def small_tree() -> Train:
    return Train(Epoch(Fit(FitBatch(Gradient(Forward(), Loss(), Backward()), Update()))))


@pytest.mark.parametrize(
    ("given", "slot"),
    [(Gradient(), "gradient"), (FitBatch(), "batch"), (ValidateBatch(), "batch"), (halve, "halve"), (Shift(), "shift")],
)
def test_slot_is_the_class_or_function_name_unless_the_class_says_another(given: Any, slot: str) -> None:
    assert slot_of(as_stage(given)) == slot
    assert list(Composite(given).stages) == [slot]


def test_snake_case_keeps_acronyms_together() -> None:
    assert [snake_case(name) for name in ("ClearGradients", "Loss", "FitGAN")] == ["clear_gradients", "loss", "fit_gan"]


def test_keywords_name_slots_after_the_positional_ones() -> None:
    tree = Composite(Shift(), second=Shift(), third=halve)
    assert list(tree.stages) == ["shift", "second", "third"]
    assert tree.second is tree.stages["second"]


def test_two_stages_in_one_slot_are_refused_with_the_way_out() -> None:
    with pytest.raises(DeclarationError, match=r"two stages fill the slot 'shift'.*other_shift=") as caught:
        Composite(Shift(), Shift(2))
    assert caught.value.owner == "Composite"


@pytest.mark.parametrize("shared", [Scale(2), halve])
def test_one_object_twice_under_one_parent_is_refused(shared: Any) -> None:
    with pytest.raises(DeclarationError, match=r"holds one .* twice\. Give the second its own object") as caught:
        Epoch(first=shared, second=shared)
    assert caught.value.owner == "Epoch"


def test_equal_stages_are_two_objects() -> None:
    assert list(Composite(first=Shift(), second=Shift()).stages) == ["first", "second"]


def test_one_object_may_fill_slots_of_several_parents() -> None:
    shared = Shift()
    tree = Composite(one=Composite(shared), two=Composite(shared))
    assert tree.one.shift is tree.two.shift
    assert run_stage(tree, inputs=1.0).inputs == 3.0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Shift, r"got the class Shift\. Give an object: Shift\(\.\.\.\)\."),
        (len, r"got the function len, which declares nothing\. Put @stage"),
        (3, r"got 3, which is no stage"),
        ("forward", r"got 'forward', which is no stage"),
    ],
)
def test_what_is_no_stage_is_refused_with_the_way_out(given: Any, told: str) -> None:
    with pytest.raises(DeclarationError, match=told) as caught:
        Composite(given)
    assert caught.value.owner == "Composite"


@pytest.mark.parametrize("name", ["a/b", "a:b", "*", "two words"])
def test_slot_with_a_sign_of_paths_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match=r"cannot call a slot .*named as a variable is") as caught:
        Composite(Shift()).insert(Shift(), after="shift", slot=name)
    assert caught.value.owner == "insert"


def test_function_stage_stays_the_function_it_was() -> None:
    assert halve(4.0) == 2.0
    assert run_stage(halve, inputs=4.0).inputs == 2.0


def test_setting_may_change_until_the_stage_is_bound() -> None:
    scale = Scale(2)
    scale.factor = 3
    assert run_stage(scale, inputs=1.0).inputs == 3.0
    with pytest.raises(Misuse, match=r"Scale\.factor cannot be set: Scale is bound.*field of State") as caught:
        scale.factor = 4
    assert isinstance(caught.value, StageError)
    assert scale.factor == 3


def test_frozen_dataclass_is_frozen_from_the_beginning() -> None:
    with pytest.raises(FrozenInstanceError):
        Shift().by = 2.0  # type: ignore[misc]


def test_stages_of_a_composite_cannot_be_exchanged_in_place() -> None:
    tree = Composite(Shift())
    with pytest.raises(TypeError):
        tree.stages["shift"] = Shift(2)  # type: ignore[index]
    assert tree.shift.by == 1.0


def test_swap_leaves_the_original_as_it_was() -> None:
    tree = small_tree()
    new = Scale(2)
    edited = tree.swap("gradient/loss", new)
    assert edited.epoch.fit.batch.gradient.stages["loss"] is new
    assert isinstance(tree.epoch.fit.batch.gradient.loss, Loss)
    assert edited.epoch.fit.batch.update is tree.epoch.fit.batch.update
    assert paths_of(edited, "train") == paths_of(tree, "train")


def test_insert_makes_a_slot_of_its_own_before_or_after() -> None:
    tree = small_tree()
    after, ahead = tree.insert(Shift(), after="forward"), tree.insert(Shift(), before="forward", slot="move")
    assert list(after.epoch.fit.batch.gradient.stages) == ["forward", "shift", "loss", "backward"]
    assert list(ahead.epoch.fit.batch.gradient.stages) == ["move", "forward", "loss", "backward"]
    assert list(tree.epoch.fit.batch.gradient.stages) == ["forward", "loss", "backward"]


def test_remove_leaves_the_original_as_it_was() -> None:
    tree = small_tree()
    assert list(tree.remove("batch/update").epoch.fit.batch.stages) == ["gradient"]
    assert list(tree.epoch.fit.batch.stages) == ["gradient", "update"]


@pytest.mark.parametrize("where", [{}, {"before": "loss", "after": "loss"}])
def test_insert_takes_exactly_one_place(where: dict[str, str]) -> None:
    with pytest.raises(DeclarationError, match="exactly one of before= and after=") as caught:
        small_tree().insert(Shift(), **where)
    assert caught.value.owner == "insert"


def test_insert_into_a_slot_that_is_taken_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"the slot 'loss' is taken there\. Give another by slot=") as caught:
        small_tree().insert(Loss(), before="loss")
    assert caught.value.owner == "insert"


def test_the_whole_tree_is_no_slot_to_edit() -> None:
    with pytest.raises(DeclarationError, match="is the whole tree") as caught:
        small_tree().remove("train")
    assert caught.value.owner == "train"


def test_misspelt_slot_offers_the_nearest() -> None:
    with pytest.raises(UnknownSlot, match=r"Did you mean 'gradient/loss'\?") as caught:
        small_tree().swap("gradient/los", Loss())
    assert caught.value.nearest == "gradient/loss"


def test_name_that_fits_several_places_lists_them() -> None:
    tree = Composite(one=Composite(Shift()), two=Composite(Shift()))
    with pytest.raises(AmbiguousSlot, match=r"'shift' fits 2 places") as caught:
        tree.swap("shift", Scale(2))
    assert caught.value.paths == ("composite/one/shift", "composite/two/shift")
    assert tree.swap("two/shift", Scale(2)).two.shift.factor == 2


def test_edited_copy_of_a_bound_composite_may_be_set_again() -> None:
    class Settable(Composite):
        """A composite with a setting."""

        times = 1

    tree = Settable(Shift())
    run_stage(tree, inputs=1.0)
    with pytest.raises(Misuse, match="Settable"):
        tree.times = 2
    copy = tree.insert(Scale(2), after="shift")
    copy.times = 2
    assert (copy.times, tree.times) == (2, 1)


def test_composite_runs_its_stages_in_order() -> None:
    assert run_stage(Composite(Shift(1), Scale(10)), inputs=1.0).inputs == 20.0
    assert run_stage(Composite(Scale(10), Shift(1)), inputs=1.0).inputs == 11.0


def test_composite_with_a_run_of_its_own_calls_what_it_holds() -> None:
    class Twice(Composite):
        """Its stages, twice."""

        def run(self, state: Any) -> None:
            super().run(state)
            self.shift(state)

    assert run_stage(Twice(Shift(1)), inputs=1.0).inputs == 3.0


def test_stage_called_with_a_plain_state_is_refused() -> None:
    with pytest.raises(Misuse, match=r"Shift was called with a State; only a composite runs it\. Use learner\.run"):
        Shift()(State())


def test_stage_called_by_one_that_does_not_hold_it_is_refused() -> None:
    class Stranger(Composite):
        """Calls what it does not hold."""

        def run(self, state: Any) -> None:
            Shift()(state)

    with pytest.raises(Misuse, match=r"stranger runs Shift\(by=1\.0\), which it does not hold\. It holds \['scale'\]"):
        run_stage(Stranger(Scale(2)), inputs=1.0)


def test_stage_called_from_a_hook_is_refused() -> None:
    class Runs(Callback):
        """A hook that runs a stage."""

        @before("update")
        def go(self, state: Any) -> None:
            Update()(state)

    learner = toy_learner(callbacks=[Runs()])
    with pytest.raises(Misuse, match="Update was called with a View; only a composite runs it"):
        learner.fit(batches=1)
    assert learner.outcome.kind == "failed"
    assert learner.state.updates == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tree: pickle.loads(pickle.dumps(tree))])
def test_deep_copy_of_a_tree_is_a_tree_of_its_own(copied: Any) -> None:
    shared = Scale(2.0)
    tree = supervised(accumulate=3).bind(model="critic").swap("window/batch/unpack", Composite(shared, Chain(shared)))
    made = copied(tree)
    assert paths_of(made, "train") == paths_of(tree, "train")
    assert vars(made)["_names"] == {"model": "critic"}
    window, before = made.epoch.fit.window, tree.epoch.fit.window
    assert window is not before and window.batches == 3
    assert window.batch.unpack.scale is window.batch.unpack.chain.scale is not shared
    with pytest.raises(TypeError):
        window.stages["batch"] = shared
    assert made.remove("validate").epoch.stages.keys() == {"fit"} and "validate" in made.epoch.stages


def test_copy_of_a_bound_tree_is_not_bound_and_trains_as_the_first() -> None:
    tree = supervised()
    learner = toy_learner(stages=tree)
    variant = copy.deepcopy(tree)
    variant.note = "anew"  # type: ignore[attr-defined]
    other = toy_learner(stages=variant)
    assert learner.fit(epochs=2)["valid_loss"] == other.fit(epochs=2)["valid_loss"]
    with pytest.raises(Misuse, match="Train.note cannot be set"):
        variant.note = "late"  # type: ignore[attr-defined]


def test_missing_attribute_of_a_composite_names_it() -> None:
    with pytest.raises(AttributeError, match="Composite has no attribute and holds no slot 'shft'"):
        _ = Composite(Shift()).shft


@pytest.mark.parametrize(
    ("pattern", "fitting"),
    [
        ("update", ["a/b/update"]),
        ("b/update", ["a/b/update"]),
        ("a/*", ["a/b"]),
        ("b/up*", ["a/b/update"]),
        ("b", ["a/b"]),
    ],
)
def test_pattern_fits_the_end_of_a_path_slot_by_slot(pattern: str, fitting: list[str]) -> None:
    assert [path for path in ("a", "a/b", "a/b/update") if fits(path, pattern)] == fitting


def test_pattern_never_fits_part_of_a_slot() -> None:
    with pytest.raises(UnknownSlot) as caught:
        find_one("date", ["a/update"])
    assert caught.value.slot == "date"
