"""Schedule: any scheduler of PyTorch, as the loop by hand moves it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR

from learner import supervised
from learner.callbacks import Accuracy, Schedule
from learner.errors import ArgumentError
from stages import Cancel, Epoch, Every, after, before


def test_schedule_per_update_is_the_loop_by_hand(make: Any, batches: Any) -> None:
    learner = make(Schedule(lambda optimizer: OneCycleLR(optimizer, max_lr=0.5, total_steps=9)))
    learner.fit(epochs=3)

    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=9)
    for _ in range(3):
        for inputs, targets in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
    assert torch.equal(learner.state.model.weight, model.weight)
    assert learner.state.schedule.state_dict()["last_epoch"] == scheduler.last_epoch == 9


def test_schedule_per_epoch_moves_once_an_epoch(make: Any) -> None:
    learner = make(Schedule(lambda optimizer: StepLR(optimizer, step_size=2, gamma=0.5), per="epoch"))
    rates: list[float] = []
    learner.before("epoch")(lambda state: rates.append(state.optimizer.param_groups[0]["lr"]))
    learner.fit(epochs=5)
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.025]


def test_plateau_waits_where_there_is_no_new_metric(make: Any) -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs")

    tree = supervised()
    tree = tree.swap("epoch", Epoch(tree.epoch.fit, Every("2 epochs", tree.epoch.validate)))
    learner = make(Schedule(plateau, per="epoch", monitor="valid_loss"), stages=tree)
    rates: list[float] = []
    learner.after("epoch")(lambda state: rates.append(state.optimizer.param_groups[0]["lr"]))
    learner.fit(epochs=6)
    assert rates == [0.1, 0.1, 0.1, 0.05, 0.05, 0.025], "the first value is the best, the others are no better"


def test_plateau_gets_the_monitored_metric(make: Any) -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)

    learner = make(Schedule(plateau, per="epoch", monitor="valid_loss"))
    history = learner.fit(epochs=4)

    by_hand = plateau(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    for loss in history["valid_loss"]:
        by_hand.step(loss)
    assert learner.state.schedule.state_dict() == by_hand.state_dict()
    assert learner.state.optimizer.param_groups[0]["lr"] == by_hand.get_last_lr()[0] < 0.1


def test_log_tells_how_far_the_schedule_was_before_and_after(make: Any) -> None:
    learner = make(Schedule(lambda optimizer: StepLR(optimizer, step_size=2)))
    learner.fit(batches=3)
    told = learner.log.history("schedule.state.last_epoch")
    assert [(change.before, change.after) for change in told][1:] == [(0, 1), (1, 2), (2, 3)]
    assert {change.actor for change in told[1:]} == {"train/epoch/fit/batch/update:after:Schedule.after_update"}
    assert learner.log.blame("schedule.state._last_lr").before == 0.1
    assert learner.log.blame("schedule.state.step_size").actor == "setup"
    assert not learner.log.unattributed()


def test_schedule_that_somebody_outside_moved_is_told_as_external(make: Any) -> None:
    learner = make(Schedule(lambda optimizer: StepLR(optimizer, step_size=2)))
    learner.fit(batches=1)
    learner.state.schedule.last_epoch = 7
    learner.fit(batches=1)
    (change,) = learner.log.where(actor="external", field="schedule.state.last_epoch")
    assert (change.before, change.after) == (1, 7)


def test_cancelled_batch_moves_no_schedule(make: Any) -> None:
    @after("gradient")
    def skip_the_second(state: Any) -> None:
        if state.batch_index == 1:
            raise Cancel("batch", "skipped")

    learner = make(Schedule(lambda optimizer: ExponentialLR(optimizer, 0.9)), skip_the_second)
    learner.fit(epochs=1)
    assert learner.state.updates == learner.state.schedule.last_epoch == 2


def test_update_that_is_cancelled_moves_no_schedule(make: Any) -> None:
    @before("update")
    def refuse(state: Any) -> None:
        raise Cancel("batch", "no update")

    learner = make(Schedule(lambda optimizer: ExponentialLR(optimizer, 0.9)), refuse)
    learner.fit(epochs=1)
    assert learner.state.schedule.last_epoch == 0


def test_log_knows_each_learning_rate_and_who_set_it(make: Any) -> None:
    learner = make(Schedule(lambda optimizer: ExponentialLR(optimizer, 0.5)))
    learner.fit(epochs=1)
    change = learner.log.blame("optimizer.hyper.lr")
    assert change.actor == "train/epoch/fit/batch/update:after:Schedule.after_update"
    assert (change.before, change.after) == (0.025, 0.0125)


def test_two_schedules_have_two_names_and_an_order(make: Any) -> None:
    halved = Schedule(lambda optimizer: StepLR(optimizer, 1, gamma=0.5), per="epoch")
    tenth = Schedule(lambda optimizer: StepLR(optimizer, 1, gamma=0.1), per="epoch", name="tenth")
    learner = make((halved, tenth))
    learner.fit(epochs=1)
    assert learner.state.schedule is not learner.state.tenth
    assert learner.state.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 * 0.1)


@pytest.mark.parametrize(
    ("settings", "argument", "told"),
    [
        ({"make": 3}, "make", "wants a function that makes one of the optimizer"),
        ({"make": StepLR, "per": "batch"}, "per", "neither 'update' nor 'epoch'"),
        ({"make": StepLR, "monitor": "valid_loss"}, "per", "Say per='epoch'"),
    ],
    ids=["number", "batch", "monitor per update"],
)
def test_setting_is_refused_at_construction(settings: dict[str, Any], argument: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=told) as caught:
        Schedule(**settings)
    assert caught.value.argument == argument


def test_scheduler_instead_of_a_function_is_refused_with_the_call_to_write() -> None:
    scheduler = StepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), 1)
    with pytest.raises(ArgumentError, match=r"Schedule\(lambda optimizer: StepLR\(optimizer, \.\.\.\)\)") as caught:
        Schedule(scheduler)  # type: ignore[arg-type]
    assert caught.value.argument == "make"


@pytest.mark.parametrize(
    ("schedule", "argument", "told"),
    [
        (Schedule(lambda o: None), "make", "made None"),  # type: ignore[arg-type, return-value]
        (Schedule(lambda o: ReduceLROnPlateau(o), per="epoch"), "monitor", "ReduceLROnPlateau needs a metric"),
        (Schedule(lambda o: StepLR(o, 1), per="epoch", monitor="valid_loss"), "monitor", "Leave monitor out"),
        (
            Schedule(lambda o: StepLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), 1)),
            "make",
            "a scheduler of another optimizer",
        ),
    ],
    ids=[
        "nothing",
        "plateau without metric",
        "metric without plateau",
        "other optimizer",
    ],
)
def test_what_make_makes_is_refused_when_the_learner_is_built(
    make: Any, schedule: Schedule, argument: str, told: str
) -> None:
    with pytest.raises(ArgumentError, match=told) as caught:
        make(schedule)
    assert caught.value.argument == argument


def test_plateau_that_takes_falling_accuracy_for_better_is_refused(make: Any) -> None:
    wrong = Schedule(lambda o: ReduceLROnPlateau(o), per="epoch", monitor="valid_accuracy")
    with pytest.raises(ArgumentError, match=r"'valid_accuracy' is better when great, .* Say mode='max'"):
        make(wrong, Accuracy())
    make(Schedule(lambda o: ReduceLROnPlateau(o, mode="max"), per="epoch", monitor="valid_accuracy"), Accuracy())
