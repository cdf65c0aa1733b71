"""Metric: a torchmetrics metric per phase, in State."""

import builtins
from typing import Any

import pytest
import torch

from learner.callbacks import Accuracy, Metric
from learner.errors import ArgumentError
from state.errors import MissingExtra

torchmetrics = pytest.importorskip("torchmetrics", reason="needs the extra 'metrics'")


def micro() -> Any:
    return torchmetrics.classification.MulticlassAccuracy(3, average="micro")


def test_metric_agrees_with_accuracy_in_every_epoch(make: Any) -> None:
    history = make(Accuracy(), Metric(micro(), name="tm")).fit(epochs=3)
    assert [float(value) for value in history["valid_tm"]] == pytest.approx(history["valid_accuracy"])
    assert [float(value) for value in history["train_tm"]] == pytest.approx(history["train_accuracy"])


def test_metric_given_is_a_pattern_that_stays_as_it_is(make: Any) -> None:
    pattern = micro()
    pattern.update(torch.eye(3), torch.tensor([1, 2, 0]))  # wrong three times; must not leak into a phase
    history = make(Accuracy(), Metric(pattern, name="tm")).fit(epochs=1)
    assert float(pattern.compute()) == 0.0
    assert float(history["valid_tm"][0]) == pytest.approx(history["valid_accuracy"][0])


def test_metric_is_a_component_whose_state_is_a_part(make: Any) -> None:
    learner = make(Metric(micro()))
    kept: list[Any] = []
    learner.after("fit")(lambda state: kept.append(state.multiclass_accuracy_metric.state_dict()))
    learner.fit(epochs=1)
    assert int(kept[0]["tp"].sum()) <= 21
    assert "multiclass_accuracy_metric.state" in learner.assembly.names
    assert learner.log.blame("multiclass_accuracy_metric.state").actor.endswith("Metric.result")


def test_metric_that_keeps_outputs_holds_no_graph(make: Any) -> None:
    curve = torchmetrics.classification.MulticlassPrecisionRecallCurve(3)
    learner = make(Metric(curve, name="curve"))
    held: list[bool] = []
    learner.after("fit")(lambda state: held.append(any(scores.requires_grad for scores in state.curve_metric.preds)))
    learner.fit(epochs=1)
    assert held == [False]


def test_class_is_refused_with_the_call_to_write() -> None:
    with pytest.raises(ArgumentError, match=r"Give an object: MulticlassAccuracy\(\.\.\.\)") as caught:
        Metric(torchmetrics.classification.MulticlassAccuracy)
    assert caught.value.argument == "metric"


@pytest.mark.parametrize("given", ["accuracy", torch.nn.Linear(1, 1), None], ids=["text", "module", "none"])
def test_what_is_no_metric_is_refused(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"wants a torchmetrics\.Metric") as caught:
        Metric(given)
    assert caught.value.argument == "metric"


def test_collection_is_refused() -> None:
    with pytest.raises(ArgumentError, match="Give each metric a Metric") as caught:
        Metric(torchmetrics.MetricCollection([micro()]))
    assert caught.value.argument == "metric"


def test_without_torchmetrics_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name == "torchmetrics":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match=r"pip install 'staged-learner\[metrics\]'") as caught:
        Metric(object())  # type: ignore[arg-type]
    assert caught.value.extra == "metrics"
