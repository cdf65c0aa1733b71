"""Every ready-made callback, alone and with every other: it builds and runs clean, or is refused with a remedy."""

import importlib
import inspect
import io
import pkgutil
import re
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

import learner as package
from learner import Callback, GraphError, Learner, supervised
from learner.callbacks import (
    Accuracy,
    Autocast,
    Breakpoint,
    Capture,
    Checkpoint,
    ClipGradients,
    EarlyStopping,
    IsolateRng,
    Mean,
    Metric,
    ProgressBar,
    Schedule,
    StopOnNonFinite,
)
from learner.callbacks.capture import CaptureHit
from learner.errors import ArgumentError
from learner.history import History, RecordHistory

metrics = pytest.importorskip("torchmetrics.classification", reason="needs the extra 'metrics'")

MAKE: dict[type[Callback], Callable[..., Callback]] = {
    Accuracy: Accuracy,
    Autocast: Autocast,
    Breakpoint: lambda: Breakpoint(before="update", then=lambda stopped: None),
    Capture: lambda: Capture(epoch=1, batch=0),
    CaptureHit: lambda: CaptureHit("batch"),
    Checkpoint: lambda: Checkpoint(every="1 updates", keep=2),
    ClipGradients: lambda: ClipGradients(0.1),
    EarlyStopping: lambda **given: EarlyStopping(patience=5, **given),
    IsolateRng: IsolateRng,
    Mean: lambda name="mean": Mean("loss", name=name),
    Metric: lambda **given: Metric(metrics.MulticlassF1Score(3), **given),
    ProgressBar: lambda: ProgressBar(file=io.StringIO()),
    RecordHistory: lambda: RecordHistory(History()),
    Schedule: lambda **given: Schedule(lambda optimizer: StepLR(optimizer, 1, gamma=0.5), **given),
    StopOnNonFinite: StopOnNonFinite,
}

TWICE: dict[type[Callback], Callable[[], Any]] = {
    Accuracy: lambda: [Accuracy(), Accuracy(name="other")],
    ClipGradients: lambda: [(ClipGradients(0.1), ClipGradients(1.0))],
    EarlyStopping: lambda: [EarlyStopping(), EarlyStopping(name="other")],
    IsolateRng: lambda: [IsolateRng()],
    Mean: lambda: [Mean("loss", name="mean"), Mean("loss", name="other")],
    Metric: lambda: [MAKE[Metric](), MAKE[Metric](name="other")],
    Schedule: lambda: [(MAKE[Schedule](), MAKE[Schedule](name="other"))],
}
"""Those of which two objects are refused, with what the refusal proposes."""

SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "accumulate": {"stages": supervised(accumulate=2)},
    "microbatches": {"stages": supervised(microbatches=2)},
    "all": {"stages": supervised(accumulate=2, microbatches=2), "precision": "fp16"},
}


@pytest.fixture(autouse=True)
def directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ready_made() -> set[type[Callback]]:
    """All classes of callbacks that the package defines."""
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "learner.")]
    members = [kind for name in names for kind in vars(importlib.import_module(name)).values()]
    kinds = {kind for kind in members if inspect.isclass(kind) and issubclass(kind, Callback)}
    return {kind for kind in kinds if kind.__module__.startswith("learner.")}


def make_learner(callbacks: Iterable[Any], **settings: Any) -> Learner:
    """A classifier with dropout, two batches, the second one shorter, and an evaluation."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(11, 2), torch.randint(3, (11,))
    batches = list(zip(inputs.split(4), targets.split(4), strict=True))
    model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.2), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss_fn = nn.functional.cross_entropy
    data = {"train": batches[1:], "valid": batches[:1]}
    callbacks = list(callbacks)
    keeps = any(isinstance(one, Checkpoint) for one in callbacks)
    run_dir = "runs" if keeps else None
    return Learner(model, loss_fn, optimizer, **data, callbacks=callbacks, run_dir=run_dir, device="cpu", **settings)


def trained(callbacks: Iterable[Any], **settings: Any) -> list[Tensor]:
    """The parameters after two epochs in which everything is looked at. Warnings are errors in all our tests."""
    learner = make_learner(callbacks, **settings)
    learner.debug()
    learner.fit(epochs=2)
    assert learner.outcome.ok
    assert not learner.log.where(evidence="undeclared") and not learner.log.where(actor="external")
    return list(learner.state.model.parameters())


def name_of(value: object) -> str | None:
    return value.__name__ if isinstance(value, type) else None


def test_every_ready_made_callback_stands_in_the_table() -> None:
    assert ready_made() == set(MAKE)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", MAKE, ids=name_of)
def test_callback_runs_clean_in_every_recipe_and_precision(kind: type[Callback], setting: str) -> None:
    trained([MAKE[kind]()], **SETTINGS[setting])


@pytest.mark.parametrize(("first", "second"), list(combinations(MAKE, 2)), ids=name_of)
def test_pair_runs_clean_and_comes_to_the_same_in_both_orders(first: type[Callback], second: type[Callback]) -> None:
    one, other = trained([MAKE[first](), MAKE[second]()]), trained([MAKE[second](), MAKE[first]()])
    assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind not in {*TWICE, Checkpoint}], ids=name_of)
def test_callback_that_has_no_field_of_its_own_may_stand_twice(kind: type[Callback]) -> None:
    trained([MAKE[kind](), MAKE[kind]()])


def test_two_that_would_write_to_one_directory_are_refused_before_it_is_made() -> None:
    for given in ([Checkpoint(), Checkpoint()], [Accuracy(), (Checkpoint(), Checkpoint(best="valid_loss"))]):
        with pytest.raises(
            ArgumentError, match=r"each would drop what the other keeps. Give one, by the shorter every="
        ):
            make_learner(given)
    assert not Path("runs").exists()


@pytest.mark.parametrize("kind", TWICE, ids=name_of)
def test_two_that_would_share_what_they_write_are_refused_until_the_remedy_is_taken(kind: type[Callback]) -> None:
    with pytest.raises(GraphError) as caught:
        make_learner([MAKE[kind](), MAKE[kind]()])
    name = kind.__name__
    in_order = f"callbacks=[({name}(...), {name}(...))]"
    for finding in caught.value.findings:
        assert len(re.findall(rf"\b{name}(?:_\d)?\.\w+", finding.message)) == 2, finding.message
        ways = ("Give one of them another name=", in_order, "Remove one, or put one of them around a slot inside")
        assert any(way in finding.message for way in ways), finding.message
    assert trained(TWICE[kind]())
