"""The order of events is that of Composer's Trainer, but for the differences that the docs name.

The points come from the tables in docs/reference/events.md; the original is written down here, by its rules.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from learner import Learner, StageError
from learner.testing import toy_learner

Events = list[str]
HEADINGS = ("Fit", "Evaluation")
BATCHES = 2  # of each loader
END = "(the end has come)"  # somebody asked to stop, or fit has what it asked for
BEFORE_THE_LOOP = {"init", "before_load", "after_load"}


class Composer:
    """`Trainer.fit` and its kin. A request to stop, made at the `nth` time of an event, is looked at after a batch."""

    def __init__(
        self, interval: str = "epoch", *, sets: int = 1, microbatches: int = 1, stop: str = "", nth: int = 1
    ) -> None:
        self.events: Events = []
        self.interval, self.sets, self.microbatches, self.stop, self.left = interval, sets, microbatches, stop, nth
        self.epochs = self.batches = 0
        self.evaluated = -1  # the number of batches at the last evaluation
        self.is_over: Callable[[], bool] = bool

    def event(self, *names: str) -> None:
        for name in names:
            self.events.append(name)
            if name == self.stop:
                self.left -= 1
                if self.left == 0:
                    self.is_over = lambda: True
                    self.events.append(END)

    def fit(self, *, epochs: int = 0, batches: int = 0) -> Events:
        epochs_wanted, batches_wanted = self.epochs + epochs, self.batches + batches
        self.is_over = lambda: (
            (self.epochs if epochs else self.batches) >= (epochs_wanted if epochs else batches_wanted)
        )
        self.event("fit_start")
        while not self.is_over():
            self.epoch()
        self.event("fit_end")
        if self.batches != self.evaluated:
            self.evaluate()
        return self.events

    def epoch(self) -> None:
        self.event(*(["iteration_start"] if self.epochs % 3 == 0 else []), "epoch_start")
        for number in range(1, BATCHES + 1):
            self.event("before_dataloader", "after_dataloader", "batch_start", "before_train_batch")
            for _ in range(self.microbatches):
                self.event("before_forward", "after_forward", "before_loss", "after_loss")
                self.event("before_backward", "after_backward")
            self.event("after_train_batch")
            self.batches += 1
            self.event("batch_end")
            if self.interval == "batch":
                self.evaluate()
            self.event("batch_checkpoint")
            if self.is_over():
                self.events.append(END)
                if number < BATCHES:
                    return
                break
        else:
            self.event("before_dataloader")
        self.epochs += 1
        self.event("epoch_end")
        if self.interval == "epoch":
            self.evaluate()
        self.event("epoch_checkpoint")
        if self.epochs % 3 == 0:
            self.event("iteration_end", "iteration_checkpoint")

    def evaluate(self) -> None:
        self.evaluated = self.batches
        self.event("eval_before_all")
        self.evaluation()
        self.event("eval_after_all")

    def evaluation(self) -> None:
        for _ in range(self.sets):
            self.event("eval_start")
            for _ in range(BATCHES):
                self.event("eval_batch_start", "eval_before_forward", "eval_after_forward", "eval_batch_end")
            self.event("eval_end")

    def standalone(self) -> Events:
        self.event("eval_standalone_start")
        self.evaluation()
        self.event("eval_standalone_end")
        return self.events

    def predict(self) -> Events:
        self.event("predict_start")
        for _ in range(BATCHES):
            self.event("predict_batch_start", "predict_before_forward", "predict_after_forward", "predict_batch_end")
        self.event("predict_end")
        return self.events


def with_last_fetch(events: Events) -> Events:
    """Each `before_dataloader` has its after."""
    pairs = zip(events, [*events[1:], ""], strict=True)
    lacking = [now == "before_dataloader" and following != "after_dataloader" for now, following in pairs]
    return [one for now, lacks in zip(events, lacking, strict=True) for one in [now, "after_dataloader"][: 1 + lacks]]


def without_late_evaluation(events: Events) -> Events:
    """No evaluation begins once the end has come."""
    kept: Events = []
    has_ended = is_late = False
    for event in events:
        has_ended = event == END or (has_ended and event != "fit_start")
        is_late = (is_late or has_ended) if event == "eval_before_all" else is_late
        kept += [] if is_late else [event]
        is_late = is_late and event != "eval_after_all"
    return kept


@pytest.fixture(name="differences")
def differences_fixture(closed: Any) -> dict[str, Callable[[Events], Events]]:
    """Of the seven, those that concern Composer, each as a change of its sequence, in the order to apply them."""

    def with_ends(events: Events) -> Events:
        for pair in [("epoch_start", "epoch_end"), ("epoch_end", "epoch_checkpoint")]:
            events = closed(events, [("fit_start", "fit_end"), pair], {pair[1]})
        return events

    return {
        "The fetch that finds the data exhausted gets its after.": with_last_fetch,
        "No evaluation after the end of fit.": without_late_evaluation,
        "Epoch end and checkpoint fire after a stop.": with_ends,
    }


def changed(events: Events, differences: dict[str, Callable[[Events], Events]], *but: str) -> Events:
    """Their sequence with all differences, or all but one."""
    for name, change in differences.items():
        events = events if name in but else change(events)
    return [event for event in events if event != END]


def learner_of(peers: Any, watch: Any, interval: str, sets: tuple[str, ...] = ("valid",), **tree: Any) -> Learner:
    """A Learner of the tree on the page, with the observers of a watch."""
    batches = [(batch, 3 * batch) for batch in torch.randn(BATCHES, 8, 1)]
    names = peers.names
    stages = names["tree"](f"1 {interval}", sets=sets, **tree)
    callbacks = [names["fit_starts"], names["fit_ends"], *watch.callbacks]
    return toy_learner(stages=stages, callbacks=callbacks, train=batches, valid=dict.fromkeys(sets, batches))


def test_every_event_of_composer_has_its_row(peers: Any) -> None:
    mapped = [event for heading in (*HEADINGS, "Prediction") for event, _ in peers.points(heading)]
    outside = {row["event"] for row in peers.tables["Before the loop"]}
    oracle = Composer()
    assert set(mapped) == {*oracle.fit(epochs=3), *oracle.standalone(), *oracle.predict()}
    assert outside == BEFORE_THE_LOOP
    assert len(mapped) + len(outside) == 40


def test_one_epoch_of_two_batches_is_the_list_that_composer_printed() -> None:
    micro = ["before_forward", "after_forward", "before_loss", "after_loss", "before_backward", "after_backward"]
    batch = ["before_dataloader", "after_dataloader", "batch_start", "before_train_batch", *micro, *micro]
    batch += ["after_train_batch", "batch_end", "batch_checkpoint"]
    block = ["eval_batch_start", "eval_before_forward", "eval_after_forward", "eval_batch_end"]
    evaluation = ["eval_before_all", "eval_start", *block, *block, "eval_end", "eval_after_all"]
    printed = ["fit_start", "iteration_start", "epoch_start", *batch, *batch, "before_dataloader", "epoch_end"]
    printed += [*evaluation, "epoch_checkpoint", "fit_end"]
    assert Composer(microbatches=2).fit(epochs=1) == printed
    assert len(printed) + len(BEFORE_THE_LOOP) == 60


@pytest.mark.parametrize("interval", ["epoch", "batch"])
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("sets", [("valid",), ("clean", "noisy")], ids=len)
@pytest.mark.parametrize("epochs", [1, 4])
def test_composer_fires_the_same_events_in_the_same_order(
    interval: str, microbatches: int, sets: tuple[str, ...], epochs: int, peers: Any, watched: Any, differences: Any
) -> None:
    watch = watched(*HEADINGS)
    learner_of(peers, watch, interval, sets, microbatches=microbatches).fit(epochs=epochs)
    theirs = Composer(interval, sets=len(sets), microbatches=microbatches).fit(epochs=epochs)
    assert watch.seen == changed(theirs, differences)


@pytest.mark.parametrize("interval", ["epoch", "batch"])
@pytest.mark.parametrize("batches", [1, 2, 3])
def test_second_fit_for_some_batches_has_the_same_order(
    interval: str, batches: int, peers: Any, watched: Any, differences: Any
) -> None:
    watch, theirs = watched(*HEADINGS), Composer(interval)
    learner = learner_of(peers, watch, interval)
    theirs.fit(epochs=1)
    learner.fit(epochs=1)
    learner.fit(batches=batches)
    assert watch.seen == changed(theirs.fit(batches=batches), differences)


STOPS = ["fit_start", "batch_end", "batch_checkpoint", "epoch_end", "eval_end", "eval_after_all", "epoch_checkpoint"]


@pytest.mark.parametrize("interval", ["epoch", "batch"])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("event", STOPS)
def test_after_a_stop_composer_goes_on_as_we_do(
    event: str, nth: int, interval: str, peers: Any, watched: Any, differences: Any
) -> None:
    nth = 1 if event == "fit_start" else nth
    watch = watched(*HEADINGS, at=event, scope="run", nth=nth)
    learner = learner_of(peers, watch, interval)
    learner.fit(epochs=3)
    assert (learner.outcome.kind, learner.outcome.reason) == ("cancelled", event)
    assert watch.seen == changed(Composer(interval, stop=event, nth=nth).fit(epochs=3), differences)


@pytest.mark.parametrize("interval", ["epoch", "batch"])
@pytest.mark.parametrize(
    "difference",
    [
        "The fetch that finds the data exhausted gets its after.",
        "No evaluation after the end of fit.",
        "Epoch end and checkpoint fire after a stop.",
    ],
)
def test_without_this_difference_the_order_is_another(
    difference: str, interval: str, peers: Any, watched: Any, differences: Any
) -> None:
    watch = watched(*HEADINGS, at="batch_end", scope="run", nth=3)
    learner_of(peers, watch, interval).fit(epochs=3)
    theirs = Composer(interval, stop="batch_end", nth=3).fit(epochs=3)
    assert watch.seen == changed(theirs, differences)
    assert watch.seen != changed(theirs, differences, difference)


@pytest.mark.parametrize("sets", [("valid",), ("clean", "noisy")], ids=len)
@pytest.mark.parametrize("interval", ["epoch", "batch"])
def test_evaluation_on_its_own_has_the_events_of_composer(
    interval: str, sets: tuple[str, ...], peers: Any, watched: Any
) -> None:
    watch = watched(*HEADINGS)
    learner = learner_of(peers, watch, interval, sets)
    learner.run("evaluate")
    assert watch.seen == Composer(sets=len(sets)).standalone()
    watch.seen.clear()
    learner.validate()
    assert watch.seen == Composer(sets=len(sets)).standalone()[1:-1]


def test_prediction_has_the_events_of_composer(peers: Any, watched: Any) -> None:
    watch = watched("Prediction")
    batches = [batch for batch in torch.randn(BATCHES, 8, 1)]
    model = torch.nn.Linear(1, 1)
    learner = Learner(model, None, None, train=batches, stages=peers.names["prediction"](), callbacks=watch.callbacks)
    learner.run("predict")
    assert watch.seen == Composer().predict()


PAIRS = {
    "fit_start": "fit_end",
    "epoch_start": "epoch_end",
    "before_dataloader": "after_dataloader",
    "batch_start": "batch_end",
    "before_forward": "after_forward",
    "before_loss": "after_loss",
    "before_backward": "after_backward",
    "eval_before_all": "eval_after_all",
    "eval_start": "eval_end",
    "eval_batch_start": "eval_batch_end",
    "eval_before_forward": "eval_after_forward",
}
OUTSIDE = {  # the events at which a scope is not open, so that it cannot be cancelled
    "run": set(),
    "epoch": {"fit_start", "epoch_checkpoint", "fit_end"},
    "phase": {"fit_start", "epoch_checkpoint", "fit_end", "iteration_start"},
    "batch": {"fit_start", "epoch_checkpoint", "fit_end", "iteration_start"}
    | {"epoch_start", "epoch_end", "batch_checkpoint"},
}
OUTSIDE_BETWEEN_PHASES = {"phase": {"eval_before_all", "eval_after_all"}}
OUTSIDE_BETWEEN_PHASES["batch"] = OUTSIDE_BETWEEN_PHASES["phase"] | {"eval_start", "eval_end"}


@pytest.mark.parametrize("interval", ["epoch", "batch"])
@pytest.mark.parametrize("scope", OUTSIDE)
def test_at_whatever_event_a_cancel_comes_what_began_ends(scope: str, interval: str, peers: Any, watched: Any) -> None:
    outside = set()
    for event in dict.fromkeys(Composer(interval).fit(epochs=2)):
        watch = watched(*HEADINGS, at=event, scope=scope)
        learner = learner_of(peers, watch, interval)
        try:
            learner.fit(epochs=2)
        except StageError as error:
            assert "is not open" in str(error)
            outside.add(event)
        assert watch.left <= 0, f"{event} was never reached"
        count = Counter(watch.seen)
        assert not {begin: end for begin, end in PAIRS.items() if count[begin] != count[end]}, event
        if event not in outside:
            assert (watch.seen[0], watch.seen[-1]) == ("fit_start", "fit_end")
            if event != "fit_end":  # the run was over by then
                assert learner.outcome.kind == ("cancelled" if scope == "run" else "ok")
    assert outside == OUTSIDE[scope] | (OUTSIDE_BETWEEN_PHASES.get(scope, set()) if interval == "epoch" else set())
