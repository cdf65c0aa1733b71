"""Recipes: the trees they give."""

from typing import Any

import pytest
import torch

from learner.derived import predict
from learner.recipes import supervised, validate
from learner.testing import toy_learner
from stages import (
    Backward,
    Chain,
    ClearGradients,
    Composite,
    DeclarationError,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Loss,
    Microbatches,
    Predict,
    Train,
    Unpack,
    Update,
    Validate,
    stage,
)
from stages.binding import names_of
from stages.stage import paths_of, slot_of


def paths(tree: Composite) -> list[str]:
    return paths_of(tree, slot_of(tree))


def test_supervised_fits_and_then_validates() -> None:
    tree = supervised()
    assert list(tree.epoch.stages) == ["fit", "validate"]
    assert list(tree.epoch.fit.batch.stages) == ["unpack", "clear_gradients", "gradient", "update"]
    assert list(tree.epoch.fit.batch.gradient.stages) == ["forward", "loss", "backward"]


def test_supervised_without_validation() -> None:
    assert list(supervised(valid=False).epoch.stages) == list(supervised(valid=[]).epoch.stages) == ["fit"]


def test_several_validation_sets_have_a_phase_each() -> None:
    tree = supervised(valid=iter(["clean", "noisy"]))
    assert [tree.epoch.clean.loader, tree.epoch.noisy.loader] == ["clean_loader", "noisy_loader"]


def test_every_call_makes_stages_of_its_own() -> None:
    assert supervised().epoch.fit is not supervised().epoch.fit


def test_validate_may_stand_anywhere() -> None:
    made = validate("probe_loader")
    assert isinstance(made, Validate) and made.loader == "probe_loader"
    assert list(made.batch.stages) == ["unpack", "forward", "validate_loss"]


def test_predict_takes_the_inputs_of_any_batch() -> None:
    made = predict(supervised())
    assert isinstance(made, Predict)
    assert paths(made)[1:] == [
        "predict/fetch",
        "predict/batch",
        *(f"predict/batch/{s}" for s in ("unpack", "forward", "collect")),
    ]
    assert isinstance(made.batch.unpack, Unpack) and made.batch.unpack.rest


def test_predict_keeps_an_unpack_and_a_forward_of_ones_own() -> None:
    @stage(writes=("inputs",))
    def unpack(batch: Any) -> Any:
        return batch["x"]

    class Twice(Forward):
        """Applied twice."""

    tree = supervised(valid=False).swap("unpack", unpack).swap("gradient/forward", Twice())
    made = predict(tree)
    assert repr(made.batch.unpack) == "unpack"
    assert isinstance(made.batch.forward, Twice)


def test_forward_of_the_evaluation_wins_over_that_of_the_training() -> None:
    class Averaged(Forward):
        """What the evaluation uses."""

    tree = supervised().swap("validate/batch/forward", Averaged())
    assert isinstance(predict(tree).batch.forward, Averaged)


@stage(writes=("inputs",))
def noise(inputs: Any) -> Any:
    return inputs + 100


@pytest.mark.parametrize("order", [["fit", "validate"], ["validate", "fit"], ["fit"]])
def test_predict_takes_nothing_else_of_the_batch_of_the_training(order: list[str]) -> None:
    fit = Fit(Fetch(), FitBatch(Unpack(), noise, ClearGradients(), Forward(), Loss(), Backward(), Update()))
    phases = {"fit": fit, "validate": validate()}
    made = predict(Train(Epoch(**{slot: phases[slot] for slot in order})))
    assert list(made.batch.stages) == ["unpack", "forward", "collect"]


def test_predict_of_a_tree_without_either_uses_the_stock_ones() -> None:
    made = predict(supervised(valid=False).remove("gradient").remove("unpack"))
    assert type(made.batch.forward) is Forward and type(made.batch.unpack) is Unpack


def test_accumulation_gathers_batches_in_a_window_and_averages() -> None:
    fit = supervised(accumulate=4).epoch.fit
    assert list(fit.stages) == ["clear_gradients", "window", "average_gradients", "update"]
    assert (fit.each, fit.window.batches) == ("update", 4)
    assert list(fit.window.stages) == ["fetch", "batch"]
    assert list(fit.window.batch.stages) == ["unpack", "gradient"]


def test_microbatches_stand_in_the_slot_of_the_gradient() -> None:
    batch = supervised(microbatches=2).epoch.fit.batch
    assert list(batch.stages) == ["unpack", "clear_gradients", "gradient", "update"]
    assert isinstance(batch.gradient, Microbatches) and batch.gradient.parts == 2
    assert list(batch.gradient.stages) == ["forward", "loss", "backward"]


def test_both_may_stand_in_one_tree() -> None:
    tree = supervised(accumulate=3, microbatches=2, valid=["clean"])
    assert isinstance(tree.epoch.fit.window.batch.gradient, Microbatches)
    assert list(tree.epoch.stages) == ["fit", "clean"]


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "4", (2,)], ids=repr)
@pytest.mark.parametrize("which", ["accumulate", "microbatches"])
def test_number_that_is_none_is_refused(which: str, number: Any) -> None:
    with pytest.raises(DeclarationError, match=r"^(Window|Microbatches): got .* wants a positive whole number first"):
        supervised(**{which: number})


@pytest.mark.parametrize(
    "settings", [{"accumulate": 3}, {"microbatches": 3}, {"accumulate": 2, "microbatches": 5}], ids=str
)
def test_every_tree_is_sound_and_finds_the_line(settings: dict[str, int]) -> None:
    learner = toy_learner(stages=supervised(**settings))
    learner.fit(epochs=10)
    assert learner.check() == []
    assert learner.state.model.weight.item() == pytest.approx(3, abs=0.1)
    assert learner.state.batches_seen == 80
    assert learner.state.updates == {1: 80, 2: 40, 3: 30}[settings.get("accumulate", 1)]
    assert learner.predict([torch.ones(2, 1)]).shape == (2, 1)


def test_one_batch_for_each_update_and_one_part_are_the_plain_tree() -> None:
    plain, same = toy_learner(), toy_learner(stages=supervised(accumulate=1, microbatches=1))
    plain.fit(epochs=2)
    same.fit(epochs=2)
    assert torch.equal(plain.state.model.weight, same.state.model.weight)
    assert plain.history["valid_loss"] == same.history["valid_loss"]


@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"microbatches": 2}], ids=str)
def test_hooks_of_the_plain_tree_find_their_slots(settings: dict[str, int]) -> None:
    learner, seen = toy_learner(stages=supervised(**settings)), list[str]()
    learner.after("gradient/backward")(lambda state: seen.append("backward"))
    learner.after("update")(lambda state: seen.append("update"))
    learner.fit(batches=2)
    assert seen == ["backward", "backward", "update"] * (1 if "accumulate" in settings else 2)


def test_predict_works_on_the_names_that_the_tree_was_bound_to() -> None:
    tree = supervised().bind(model="net", inputs="pixels", outputs="scores", optimizer="other")
    made = predict(tree)
    assert names_of(made.batch.forward) == {"model": "net", "inputs": "pixels", "outputs": "scores"}
    assert names_of(made.batch.unpack) == {"inputs": "pixels"}
    assert names_of(made.batch.collect) == {"outputs": "scores"}
    inner = predict(supervised(valid=False).swap("gradient/forward", Forward().bind(model="critic")).bind(model="net"))
    assert names_of(inner.batch.forward) == {"model": "critic"}, "the inner bind wins here too"


def test_predict_binds_what_a_chain_of_ones_own_uses() -> None:
    tree = supervised().swap("validate/batch/forward", Chain(Forward())).bind(model="net", loss="x")
    assert names_of(predict(tree).batch.forward) == {"model": "net"}
