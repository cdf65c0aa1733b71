"""Recipes: the trees they give."""

from typing import Any

from learner.recipes import predict, supervised, validate
from stages import Composite, Forward, Predict, Unpack, Validate, stage
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


def test_predict_of_a_tree_without_either_uses_the_stock_ones() -> None:
    made = predict(supervised(valid=False).remove("gradient").remove("unpack"))
    assert type(made.batch.forward) is Forward and type(made.batch.unpack) is Unpack
