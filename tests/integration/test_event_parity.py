"""The order of events is that of FluxTraining, but for the differences that the docs name.

The points come from the table in docs/reference/events.md; the original is written down here, by its rules.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from learner import Learner, TrainingPhase, before, stage
from learner.recipes import supervised, validate
from learner.testing import toy_learner
from stages import (
    Backward,
    Chain,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Train,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
)

Events = list[str]
PHASES = {"TrainingPhase": 2, "ValidationPhase": 2}  # batches of each
SILENT_LOSS = "(loss)"  # where FluxTraining documents LossBegin and does not dispatch it
ESCAPES = "(an exception leaves fit)"


class Signal(Exception):
    """A signal of theirs."""


class FluxTraining:
    """`fit!`: a signal for a step skips its rest, one for an epoch is followed by EpochEnd, a third kind passes.

    It notes its events, and throws `signal` when it is at `place` for the `nth` time.
    """

    def __init__(self, place: str = "", signal: str = "", nth: int = 1) -> None:
        self.events: Events = []
        self.place, self.signal, self.left = place, signal, nth

    def event(self, name: str) -> None:
        self.events.append(name)
        self.work(name)

    def work(self, place: str) -> None:
        if place == self.place:
            self.left -= 1
            if self.left == 0:
                raise Signal(self.signal)

    def fit(self, epochs: int) -> Events:
        try:
            for _ in range(epochs):
                self.epoch("TrainingPhase", self.train)
                self.epoch("ValidationPhase", self.validate)
        except Signal:
            self.events.append(ESCAPES)
        return self.events

    def epoch(self, phase: str, step: Callable[[str], None]) -> None:
        try:
            self.event(f"{phase} EpochBegin")
            for _ in range(PHASES[phase]):
                try:
                    self.event(f"{phase} StepBegin")
                    step(phase)
                    self.event(f"{phase} StepEnd")
                except Signal as signal:
                    if str(signal) != "CancelStepException":
                        raise
            self.event(f"{phase} EpochEnd")
        except Signal as signal:
            if str(signal) != "CancelEpochException":
                raise
            self.event(f"{phase} EpochEnd")

    def train(self, phase: str) -> None:
        self.work(f"{phase} forward")
        self.event(f"{phase} LossBegin")
        self.work(f"{phase} loss")
        self.event(f"{phase} BackwardBegin")
        self.work(f"{phase} backward")
        self.event(f"{phase} BackwardEnd")
        self.work(f"{phase} update")

    def validate(self, phase: str) -> None:
        self.work(f"{phase} forward")
        self.event(SILENT_LOSS)
        self.work(f"{phase} validate_loss")


PAIRS = [
    (f"{phase} {level}Begin", f"{phase} {level}End") for level in ("Epoch", "Step", "Backward") for phase in PHASES
]


def once(events: Events) -> Events:
    """No end of an epoch directly follows itself."""
    return [now for last, now in zip(["", *events], events, strict=False) if last != now or "EpochEnd" not in now]


def without(mark: str, events: Events) -> Events:
    return [event for event in events if event != mark]


def with_loss_point(events: Events) -> Events:
    return ["ValidationPhase LossBegin" if event == SILENT_LOSS else event for event in events]


@pytest.fixture(name="differences")
def differences_fixture(closed: Any) -> dict[str, Callable[[Events], Events]]:
    """Of the seven, those that concern FluxTraining, each as a change of its sequence, in the order to apply them."""
    epochs = {end for _, end in PAIRS if "Epoch" in end}
    steps = {end for _, end in PAIRS} - epochs
    return {
        "A run cancel does not escape `fit`.": partial(without, ESCAPES),
        "A cancelled batch still gets its after-hooks.": partial(closed, pairs=PAIRS, ends=steps),
        "Epoch end and checkpoint fire after a stop.": partial(closed, pairs=PAIRS, ends=epochs),
        "An epoch's end fires once.": once,
        "The loss point exists in validation.": with_loss_point,
    }


def changed(events: Events, differences: dict[str, Callable[[Events], Events]], *but: str) -> Events:
    """Their sequence with all differences, or all but one."""
    for name, change in differences.items():
        events = events if name in but else change(events)
    return without(SILENT_LOSS, events)


def ours(watch: Any, epochs: int = 2) -> Events:
    """What the observers of a watch see of the default tree; in the slot of a stage stands also one that may cancel."""

    def slot(place: str, inside: Any) -> Chain:
        @stage()
        def may_cancel(state: Any) -> None:
            watch.at(place)

        return Chain(may_cancel, inside=inside)

    gradient = Gradient(
        forward=slot("TrainingPhase forward", Forward()),
        loss=slot("TrainingPhase loss", Loss()),
        backward=slot("TrainingPhase backward", Backward()),
    )
    update = slot("TrainingPhase update", Update())
    validation = ValidateBatch(
        Unpack(),
        forward=slot("ValidationPhase forward", Forward()),
        validate_loss=slot("ValidationPhase validate_loss", ValidateLoss()),
    )
    fit = Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), gradient, update=update))
    return run(learner_of(watch, Train(Epoch(fit, Validate(Fetch(), validation)))), watch, epochs)


def learner_of(watch: Any, tree: Train) -> Learner:
    batches = [(batch, 3 * batch) for batch in torch.randn(4, 8, 1)]
    return toy_learner(stages=tree, callbacks=watch.callbacks, train=batches[:2], valid=batches[2:])


def run(learner: Learner, watch: Any, epochs: int) -> Events:
    """What is seen of a fit, which returns in any case; one that was cancelled says so in its outcome."""
    learner.fit(epochs=epochs)
    assert watch.left <= 0 or not watch.place, f"{watch.place} was never reached"
    if watch.scope == "run":
        assert (learner.outcome.kind, learner.outcome.reason) == ("cancelled", watch.place)
    else:
        assert learner.outcome.ok
    seen: Events = watch.seen
    return seen


def test_fluxtraining_dispatches_the_same_events_in_the_same_order(watched: Any, differences: Any) -> None:
    theirs = FluxTraining().fit(2)
    assert ours(watched("FluxTraining.jl")) == changed(theirs, differences)
    assert len(without(SILENT_LOSS, theirs)) == 2 * (2 + 2 * 5 + 2 + 2 * 2)


IN_A_STEP = [
    "StepBegin",
    "forward",
    "LossBegin",
    "loss",
    "BackwardBegin",
    "backward",
    "BackwardEnd",
    "update",
    "StepEnd",
]
PLACES = [f"TrainingPhase {place}" for place in ["EpochBegin", *IN_A_STEP, "EpochEnd"]] + [
    f"ValidationPhase {place}"
    for place in ["EpochBegin", "StepBegin", "forward", "validate_loss", "StepEnd", "EpochEnd"]
]
CANCELS = [
    (place, signal)
    for place in PLACES
    for signal in ["CancelStepException", "CancelEpochException", "CancelFittingException"]
    if not ("Epoch" in place and signal == "CancelStepException")  # there is no step to cancel
]


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(("place", "signal"), CANCELS)
def test_after_a_cancel_fluxtraining_goes_on_as_we_do(
    place: str, signal: str, nth: int, peers: Any, watched: Any, differences: Any
) -> None:
    watch = watched("FluxTraining.jl", at=place, scope=peers.scope("FluxTraining.jl", signal), nth=nth)
    assert ours(watch) == changed(FluxTraining(place, signal, nth).fit(2), differences)


@pytest.mark.parametrize(
    ("difference", "place", "signal"),
    [
        ("A cancelled batch still gets its after-hooks.", "TrainingPhase BackwardBegin", "CancelStepException"),
        ("A cancelled batch still gets its after-hooks.", "ValidationPhase forward", "CancelStepException"),
        ("A run cancel does not escape `fit`.", "TrainingPhase StepEnd", "CancelFittingException"),
        ("An epoch's end fires once.", "TrainingPhase EpochEnd", "CancelEpochException"),
        ("Epoch end and checkpoint fire after a stop.", "TrainingPhase StepEnd", "CancelFittingException"),
        ("The loss point exists in validation.", "", "CancelStepException"),
    ],
)
def test_without_this_difference_the_order_is_another(
    difference: str, place: str, signal: str, peers: Any, watched: Any, differences: Any
) -> None:
    watch = watched("FluxTraining.jl", at=place, scope=peers.scope("FluxTraining.jl", signal))
    seen, theirs = ours(watch), FluxTraining(place, signal).fit(2)
    assert seen == changed(theirs, differences)
    assert seen != changed(theirs, differences, difference)


def test_differences_are_those_that_the_page_names(peers: Any, differences: Any) -> None:
    named = re.findall(r"^\d\. \*\*(.*?)\*\*", peers.text, flags=re.MULTILINE)
    assert len(named) == 7
    of_composer_alone = {
        "The fetch that finds the data exhausted gets its after.",
        "No evaluation after the end of fit.",
    }
    assert set(named) == differences.keys() | of_composer_alone


def test_fields_are_ready_where_the_page_says(peers: Any) -> None:
    fields = {"inputs", "targets", "outputs", "loss"}
    promised: dict[str, set[str]] = {}
    ready: set[str] = set()
    for row in peers.tables["FluxTraining.jl"]:
        if "event" in row:
            ready = set() if "Epoch" in row["event"] else ready | set(re.findall(r"\w+", row["ready from here on"]))
            promised[f"{row['phase']} {row['event']}"] = ready & fields
    found: dict[str, set[str]] = {}

    def looks(event: str) -> Any:
        return lambda state: found.update({event: {name for name in fields if state.ready(name)}})

    points = peers.points("FluxTraining.jl")
    toy_learner(callbacks=[point(looks(event)) for event, point in points]).fit(epochs=1)
    assert found == promised and fields in found.values()


class Pretrain(TrainingPhase):
    """A phase of a user's."""


def test_phase_of_a_user_has_the_events_of_the_class_it_derives_from(watched: Any, differences: Any) -> None:
    watch = watched("FluxTraining.jl")
    tree = Train(Epoch(Pretrain(Fetch(), supervised().epoch.fit.batch), validate()))
    assert run(learner_of(watch, tree), watch, 2) == changed(FluxTraining().fit(2), differences)


def test_hook_on_the_phase_of_a_user_stands_in_that_one_alone() -> None:
    first, second = supervised(), supervised()
    tree = Train(Epoch(Pretrain(Fetch(), first.epoch.fit.batch), Fit(Fetch(), second.epoch.fit.batch)))
    seen: Events = []
    callbacks = [
        before(Pretrain)(lambda state: seen.append("of the user's")),
        before("batch", within=Pretrain)(lambda state: seen.append("batch of the user's")),
        before(TrainingPhase)(lambda state: seen.append("of any")),
    ]
    toy_learner(stages=tree, callbacks=callbacks, train=[(torch.ones(2, 1), torch.ones(2, 1))]).fit(batches=2)
    assert seen == ["of the user's", "of any", "batch of the user's", "of any"]
