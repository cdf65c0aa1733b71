"""EarlyStopping: patience, modes, NaN, and the record of it in State."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import Composite, supervised
from learner.callbacks import Accuracy, EarlyStopping
from learner.errors import ArgumentError
from stages import Callback, Cancel, Epoch, Every, GraphError, Outcome, after
from state import field

nan, inf = float("nan"), float("inf")


@dataclass(frozen=True)
class Script(Callback):
    """Writes a given value per epoch to `score`."""

    values: Sequence[Any]

    def fields(self) -> dict[str, Any]:
        return {"score": (float | Tensor, field(scope="epoch"))}

    @after("validate", writes=("score",))
    def write(self, epoch: int) -> Any:
        return self.values[epoch]


def epochs_until_stop(make: Any, values: Sequence[Any], **settings: Any) -> int:
    """How many epochs a run with these scores takes."""
    settings = {"patience": 2, "mode": "min"} | settings
    learner = make(EarlyStopping("score", **settings), Script(values))
    learner.fit(epochs=len(values))
    return int(learner.state.epochs_done)


@pytest.mark.parametrize(
    ("values", "settings", "epochs"),
    [
        ([3, 2, 2.5, 2.5, 1], {}, 4),
        ([3, 2, 2.5, 1, 1.5, 0], {}, 6),
        ([1, 2, 1.5, 1.5, 3], {"mode": "max"}, 4),
        ([3, 2.9, 2.8, 2.7], {"min_delta": 0.5}, 3),
        ([3, 2.4, 2.0, 1.8], {"min_delta": 0.5, "patience": 1}, 3),
        ([2, 2, 2], {}, 3),
        ([nan, nan, 1], {}, 2),
        ([3, nan, 2, nan, nan, 1], {}, 5),
        ([1, -inf, -inf, 0], {}, 3),
        ([1, inf, inf, 2], {"mode": "max"}, 3),
        ([torch.tensor(3.0), torch.tensor(4.0), torch.tensor(5.0), 0], {}, 3),
    ],
)
def test_run_ends_after_patience_epochs_without_improvement(
    make: Any, values: Sequence[Any], settings: dict[str, Any], epochs: int
) -> None:
    assert epochs_until_stop(make, values, **settings) == epochs


def test_fit_returns_and_the_outcome_says_why(make: Any) -> None:
    learner = make(EarlyStopping("score", patience=1, mode="min"), Script([1.0, 2.0, 0.0]))
    history = learner.fit(epochs=3)
    assert len(history["score"]) == 2
    assert learner.outcome.kind == "cancelled"
    assert learner.outcome.by == "train/epoch:after:EarlyStopping.judge"
    assert learner.outcome.reason == "score has not improved for 1 epoch: the best was 1, the last 2"


def test_metric_that_was_never_finite_is_told(make: Any) -> None:
    learner = make(EarlyStopping("score", patience=2, mode="min"), Script([nan, nan]))
    learner.fit(epochs=2)
    assert learner.outcome.reason.endswith("it was never finite, the last nan")


def test_best_value_and_bad_epochs_are_fields_of_state_on_the_record(make: Any) -> None:
    learner = make(EarlyStopping("score", patience=3, mode="min"), Script([3.0, 1.0, 2.0]))
    learner.fit(epochs=3)
    assert (learner.state.best_score, learner.state.bad_epochs_score) == (1.0, 1)
    assert learner.log.blame("best_score").actor == "train/epoch:after:EarlyStopping.judge"


def test_second_fit_goes_on_with_the_same_best(make: Any) -> None:
    learner = make(EarlyStopping("score", patience=2, mode="min"), Script([1.0, 2.0, 3.0, 4.0]))
    learner.fit(epochs=2)
    assert learner.outcome.ok
    learner.fit(epochs=2)
    assert learner.state.epochs_done == 3


def test_two_with_two_names_watch_one_field_apart(make: Any) -> None:
    strict = EarlyStopping("score", patience=5, mode="min")
    loose = EarlyStopping("score", patience=2, mode="min", min_delta=10.0, name="jump")
    learner = make(strict, loose, Script([5.0, 4.0, 3.0, 2.0]))
    learner.fit(epochs=4)
    assert learner.state.epochs_done == 3
    assert (learner.state.best_score, learner.state.best_jump) == (3.0, 5.0)
    assert learner.outcome.by == "train/epoch:after:EarlyStopping_2.judge"


def test_epoch_that_was_cancelled_is_not_judged(make: Any) -> None:
    @after("fit")
    def skip_the_second(state: Any) -> None:
        if state.epoch == 1:
            raise Cancel("epoch", "skipped")

    learner = make(EarlyStopping("score", patience=1, mode="min"), Script([1.0, None, 0.5]), skip_the_second)
    learner.fit(epochs=3)
    assert (learner.state.epochs_done, learner.state.bad_epochs_score) == (3, 0)


def test_metric_of_another_callback_is_there_in_time_whatever_the_order(make: Any) -> None:
    first = make(EarlyStopping("valid_accuracy", patience=1), Accuracy())
    last = make(Accuracy(), EarlyStopping("valid_accuracy", patience=1))
    first.fit(epochs=3)
    last.fit(epochs=3)
    assert first.state.best_valid_accuracy == last.state.best_valid_accuracy


@pytest.mark.parametrize(
    ("monitor", "kind", "told"),
    [
        ("valid_accurcy", "unknown field", "Did you mean 'valid_accuracy'"),
        ("test_accuracy", "unknown field", "Did you mean"),
    ],
)
def test_metric_that_no_field_has_is_refused_with_the_nearest(make: Any, monitor: str, kind: str, told: str) -> None:
    with pytest.raises(GraphError, match=told) as caught:
        make(Accuracy(), EarlyStopping(monitor, mode="max"))
    assert [finding.kind for finding in caught.value.findings] == [kind]


def test_metric_that_nobody_produces_is_refused_with_the_nearest(make: Any) -> None:
    with pytest.raises(GraphError, match="'valid_loss', which nobody in this tree writes.*'train_loss'") as caught:
        make(EarlyStopping("valid_loss"), valid=None)
    assert [finding.kind for finding in caught.value.findings] == ["missing producer"]


def every_second_epoch() -> Composite:
    """A tree that validates in every second epoch."""
    tree = supervised()
    return tree.swap("epoch", Epoch(tree.epoch.fit, Every("2 epochs", tree.epoch.validate)))


def test_epoch_without_a_new_value_is_not_judged(make: Any) -> None:
    stopping = EarlyStopping("score", patience=2, mode="min")
    learner = make(stopping, Script([9, 1.0, 9, 2.0, 9, 3.0, 9, 4.0]), stages=every_second_epoch())
    learner.fit(epochs=8)
    assert (learner.state.epochs_done, learner.state.best_score, learner.state.bad_epochs_score) == (6, 1.0, 2)
    assert learner.outcome.reason == "score has not improved for 2 epochs: the best was 1, the last 3"


def test_metric_of_a_scope_that_has_ended_is_refused(make: Any) -> None:
    with pytest.raises(GraphError, match="EarlyStopping.judge reads 'loss', but") as caught:
        make(EarlyStopping("loss"))
    assert [finding.kind for finding in caught.value.findings] == ["stale read"]


@pytest.mark.parametrize(
    ("monitor", "better"),
    [("valid_loss", "min"), ("clean_error", "min"), ("valid_accuracy", "max"), ("valid_macro_f1", "max")],
)
def test_name_of_the_metric_tells_the_mode(monitor: str, better: str) -> None:
    stopping = EarlyStopping(monitor)
    assert stopping._improves(1.0, 2.0) is (better == "min")
    assert stopping._improves(2.0, 1.0) is (better == "max")


@pytest.mark.parametrize(
    ("settings", "argument", "told"),
    [
        ({"monitor": "valid_thing"}, "mode", "Say mode='min' or mode='max'"),
        ({"monitor": "accuracy_loss"}, "mode", "does not tell"),
        ({"mode": "smaller"}, "mode", "It is 'min', 'max', or None"),
        ({"patience": 0}, "patience", "patience=0 cannot be used. It is a number of epochs, at least 1"),
        ({"patience": 2.5}, "patience", "at least 1"),
        ({"min_delta": -0.1}, "min_delta", "`mode` says in which direction"),
        ({"min_delta": nan}, "min_delta", "at least 0"),
    ],
)
def test_setting_is_refused_at_construction(settings: dict[str, Any], argument: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=told) as caught:
        EarlyStopping(**settings)
    assert caught.value.argument == argument


def test_value_that_is_no_number_is_refused(make: Any) -> None:
    learner = make(EarlyStopping("score", mode="min"), Script([torch.zeros(3)]))
    with pytest.raises(ArgumentError, match=r"'score' is float32\[3\]; it wants one number per epoch") as caught:
        learner.fit(epochs=1)
    assert caught.value.argument == "monitor"
    assert isinstance(learner.outcome, Outcome)
