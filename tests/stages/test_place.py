"""Places: what a tree is laid out to, and at which of them a target stands."""

from dataclasses import dataclass
from typing import Any

import pytest

from learner import Phase
from learner.recipes import supervised, validate
from learner.testing import toy_learner
from stages import (
    Composite,
    DeclarationError,
    EvaluationPhase,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Stage,
    Train,
    TrainingPhase,
    ValidateBatch,
    stage,
)
from stages.place import Place, filled, lay_out, matches
from state.access import Access


class Inline(Stage):
    """Enters two inline stages."""

    inline = ("first", "second")

    def run(self, state: Any) -> None: ...


class Holds(Composite):
    """Holds whatever is put into it later."""

    def hold(self, **stages: Stage) -> "Holds":
        object.__setattr__(self, "stages", stages)
        return self


def places(root: Stage) -> dict[str, Place]:
    return {place.path: place for place in lay_out(root, {}).walk()}


def at(target: str | type, within: str | type | None = None, root: Stage | None = None) -> list[str]:
    found = places(root or supervised())
    return [path for path, place in found.items() if matches(place, target, within)]


def test_default_tree_has_the_places_of_the_design_in_running_order() -> None:
    assert list(places(supervised())) == [
        "train",
        "train/epoch",
        "train/epoch/fit",
        "train/epoch/fit/fetch",
        "train/epoch/fit/batch",
        "train/epoch/fit/batch/unpack",
        "train/epoch/fit/batch/clear_gradients",
        "train/epoch/fit/batch/gradient",
        "train/epoch/fit/batch/gradient/forward",
        "train/epoch/fit/batch/gradient/loss",
        "train/epoch/fit/batch/gradient/backward",
        "train/epoch/fit/batch/update",
        "train/epoch/fit/checkpoint",
        "train/epoch/validate",
        "train/epoch/validate/fetch",
        "train/epoch/validate/batch",
        "train/epoch/validate/batch/unpack",
        "train/epoch/validate/batch/forward",
        "train/epoch/validate/batch/validate_loss",
        "train/epoch/validate/checkpoint",
        "train/checkpoint",
    ]


def test_checkpoint_is_a_point_of_rounds_that_are_counted() -> None:
    found = places(supervised())
    points = [path for path, place in found.items() if place.kind == "checkpoint"]
    assert points == ["train/epoch/fit/checkpoint", "train/epoch/validate/checkpoint", "train/checkpoint"]

    found = places(supervised(accumulate=4, valid=False))
    points = [path for path, place in found.items() if place.kind == "checkpoint"]
    assert points == ["train/epoch/fit/window/checkpoint", "train/epoch/fit/checkpoint", "train/checkpoint"]

    found = places(supervised(accumulate=4).insert(validate(), after="fit/window"))
    assert "train/epoch/fit/validate/checkpoint" not in found, "it is inside an update"

    class Again(Composite):
        """A loop that counts nothing."""

        each = "turn"

    assert list(places(Again(Forward()))) == ["again", "again/forward"]


def test_inline_slots_are_places_of_their_own() -> None:
    found = places(Composite(Inline()))
    assert [(path, place.kind) for path, place in found.items()][2:] == [
        ("composite/inline/first", "inline"),
        ("composite/inline/second", "inline"),
    ]
    assert not found["composite/inline"].is_composite


def test_inline_stages_of_a_function_are_places_too() -> None:
    @stage(inline=("peek",))
    def look(state: Any) -> None: ...

    assert list(places(Composite(look))) == ["composite", "composite/look", "composite/look/peek"]


def test_one_object_in_several_slots_has_a_place_in_each() -> None:
    shared = Forward()
    found = places(Composite(one=Composite(shared), two=Composite(shared)))
    assert found["composite/one/forward"].stage is found["composite/two/forward"].stage
    assert found["composite/one/forward"].contract is found["composite/two/forward"].contract


def test_slot_that_a_loop_keeps_for_itself_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"has a stage in the slot 'checkpoint', which it keeps for itself"):
        lay_out(Train(checkpoint=Forward()), {})


def test_stage_inside_itself_has_no_place_there() -> None:
    inner = Holds()
    outer = Holds().hold(middle=inner)
    inner.hold(again=outer, forward=Forward())
    found = places(outer)
    assert list(found) == ["holds", "holds/middle", "holds/middle/forward"]
    assert found["holds/middle"].left_out == {"again": found["holds"]}


def test_stage_directly_inside_itself_has_no_place_there() -> None:
    loop = Holds()
    found = places(Composite(loop=loop.hold(own=loop)))
    assert list(found) == ["composite", "composite/loop"]
    assert found["composite/loop"].left_out == {"own": found["composite/loop"]}


def test_phase_of_a_place_is_the_innermost_one() -> None:
    found = places(supervised())
    assert found["train/epoch"].phase is None
    assert isinstance(found["train/epoch/fit"].phase, TrainingPhase)
    assert isinstance(found["train/epoch/validate/batch/forward"].phase, EvaluationPhase)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("update", ["train/epoch/fit/batch/update"]),
        ("fit/batch", ["train/epoch/fit/batch"]),
        ("batch", ["train/epoch/fit/batch", "train/epoch/validate/batch"]),
        ("train/epoch", ["train/epoch"]),
        ("*/batch", ["train/epoch/fit/batch", "train/epoch/validate/batch"]),
        ("clear_*", ["train/epoch/fit/batch/clear_gradients"]),
        ("fit/checkpoint", ["train/epoch/fit/checkpoint"]),
        (Phase, ["train/epoch/fit", "train/epoch/validate"]),
        (EvaluationPhase, ["train/epoch/validate"]),
        ("epoc", []),
    ],
)
def test_target_stands_at_every_place_it_names(target: str | type, expected: list[str]) -> None:
    assert at(target) == expected


@pytest.mark.parametrize(
    ("within", "expected"),
    [
        (TrainingPhase, ["train/epoch/fit/batch/gradient/forward"]),
        (EvaluationPhase, ["train/epoch/validate/batch/forward"]),
        ("fit", ["train/epoch/fit/batch/gradient/forward"]),
        ("validate/batch", ["train/epoch/validate/batch/forward"]),
        ("gradient", ["train/epoch/fit/batch/gradient/forward"]),
        ("update", []),
    ],
)
def test_within_narrows_a_target(within: str | type, expected: list[str]) -> None:
    assert at("forward", within) == expected


def test_phase_class_as_target_may_be_narrowed_by_a_path() -> None:
    tree = supervised(valid=["clean", "noisy"])
    assert at(EvaluationPhase, "noisy", tree) == ["train/epoch/noisy"]


def test_phase_in_a_name_is_the_word_of_the_phase() -> None:
    access = Access.of(reads=("{phase}_loss?", "loss"), writes=("{phase}_best",), touches=("model.buffers",))
    found = places(supervised(valid=["clean", "noisy"]))
    noisy = filled(access, found["train/epoch/noisy"])
    assert noisy.reads == ("noisy_loss", "loss")
    assert noisy.optional == frozenset({"noisy_loss"})
    assert noisy.writes == ("noisy_best",)
    assert filled(access, found["train/epoch/fit/batch"]).writes == ("train_best",)


def test_access_without_a_phase_in_it_is_left_alone() -> None:
    access = Access.of(reads=("loss",))
    assert filled(access, places(supervised())["train/epoch"]) is access


def test_phase_in_a_name_outside_of_any_phase_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"is in no phase, so \{phase\} .*Add within=Phase") as caught:
        filled(Access.of(reads=("{phase}_loss",)), places(supervised())["train/epoch"])
    assert caught.value.owner == "train/epoch"


def test_word_of_a_phase_follows_from_its_loader() -> None:
    words = [Fit(Fetch()).word, Fit(Fetch(), loader="noisy_loader").word, Fit(Fetch(), loader="pairs").word]
    assert words == ["train", "noisy", "pairs"]


def test_ancestors_lead_to_the_root() -> None:
    place = places(Train(Fit(FitBatch(Forward()), second=ValidateBatch())))["train/fit/batch/forward"]
    assert [above.path for above in place.ancestors()] == [
        "train/fit/batch/forward",
        "train/fit/batch",
        "train/fit",
        "train",
    ]


def test_settings_of_a_leaf_are_no_declarations_of_a_loop() -> None:
    @dataclass(frozen=True)
    class Scale(Stage):
        counts: int = 3
        runs: int = 2
        each: str = "batch"
        writes = ("inputs",)

        def run(self, inputs: Any) -> Any:
            return inputs * self.counts

    learner = toy_learner()
    learner.insert(Scale(), after="fit/batch/unpack")
    learner.fit(epochs=1)
    place = next(place for place in learner.assembly.places if place.slot == "scale")
    assert (place.counts, place.runs, place.each) == ((None, None), "1", None)
