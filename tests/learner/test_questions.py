"""Questions to the log of a whole run: the first bad value and what it was made of; where two runs part."""

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from learner import ChangeLog, Learner
from learner.testing import toy_learner
from stages.errors import WatchHit
from state.errors import StateError, UnknownField
from state.recording import Recording
from state.run_difference import RunDifference
from state.runs import LOG_FILE
from state.statistics import Summary
from state.stores import MemoryStore

UNPACK = "fit/batch/unpack"
BATCH = "train/epoch/fit/batch"


def run(
    changes: Callable[[Tensor], Tensor] | None = None,
    at: tuple[int, int] = (1, 2),
    slot: str = UNPACK,
    field: str = "inputs",
    **settings: Any,
) -> Learner:
    """A run of two epochs, in which a hook changes a field of one batch."""
    learner = toy_learner(**{"audit": "full", **settings})

    @learner.after(slot, reads=(field, "epoch", "batch_index"), writes=(field,))
    def meddle(state: Any) -> None:
        value = getattr(state, field)
        is_due = changes is not None and (state.epoch, state.batch_index) == at
        setattr(state, field, changes(value) if changes is not None and is_due else value)

    learner.fit(epochs=2)
    return learner


def spoilt(value: Tensor) -> Tensor:
    return value * math.nan


def next_up(value: Tensor) -> Tensor:
    """One element by one unit in the last place."""
    value = value.clone()
    value.view(-1)[3] = torch.nextafter(value.view(-1)[3], torch.tensor(9.0))
    return value


@pytest.mark.parametrize("audit", ["summary", "stats", "full"])
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "file"])
def test_first_write_that_is_not_finite_is_found_with_what_it_was_made_of(
    audit: str, stored: bool, tmp_path: Path
) -> None:
    learner = run(spoilt, slot="fit/batch/gradient/forward", field="outputs", audit=audit, run_dir=tmp_path / "runs")
    learner.close()
    found = (ChangeLog.open(tmp_path / "runs") if stored else learner.log).first_nonfinite()
    assert found is not None
    culprit = f"{BATCH}/gradient/forward:after:meddle"
    place = (found.change.position.epoch, found.change.position.batch)
    assert place == (1, 2)
    if audit == "summary":  # of tensors only scalars are kept, so that the loss is the first that tells
        assert (found.change.actor, found.change.field) == (f"{BATCH}/gradient/loss", "loss")
        assert found.upstream[0].actor == culprit, "the last write of what the loss reads"
    else:
        assert (found.change.actor, found.change.field) == (culprit, "outputs")
        assert found.upstream[0].actor == f"{BATCH}/gradient/forward"
    assert {"train/epoch/fit/fetch", f"{BATCH}/unpack"} <= {change.actor for change in found.upstream}
    assert str(found).splitlines()[0] == str(found.change)


def test_run_without_a_bad_value_has_no_first_one() -> None:
    learner = run(audit="stats")
    assert learner.log.first_nonfinite() is None
    assert learner.log.first_nonfinite("model.params") is None
    assert learner.log.first("loss", above=1e9) is None


def test_part_tells_which_of_its_tensors_is_not_finite() -> None:
    found = run(spoilt, audit="stats").log.first_nonfinite("model.params")
    assert found is not None and found.change.actor == f"{BATCH}/update"
    assert "weight is not finite" in str(found.change.after)
    assert any(change.field == "model.grads" for change in found.upstream)


@pytest.mark.parametrize("bounds", [{"above": 50.0}, {"below": -50.0}])
def test_first_value_past_a_bound_is_found_also_in_one_element(bounds: dict[str, float]) -> None:
    def huge(value: Tensor) -> Tensor:
        value = value.clone()
        value[0] = 1000.0 if "above" in bounds else -1000.0
        return value

    found = run(huge, audit="stats").log.first("inputs", **bounds)
    assert found is not None and found.change.actor == f"{BATCH}/unpack:after:meddle"


def test_question_about_numbers_that_were_not_kept_says_how_to_keep_them() -> None:
    log = run(audit="summary").log
    for ask in (lambda: log.first("inputs", above=1), lambda: log.first_nonfinite("model.params")):
        with pytest.raises(StateError, match="keeps no numbers of .* audit='stats'"):
            ask()
    with pytest.raises(StateError, match="keeps no numbers: at level"):
        only_names().first_nonfinite()
    with pytest.raises(StateError, match="has no bound"):
        log.first("loss")
    with pytest.raises(UnknownField, match="Did you mean 'loss'"):
        log.first_nonfinite("los")


def only_names() -> ChangeLog:
    """A log with one write, of which no value was kept."""
    store = MemoryStore()
    recording = Recording(store, "writes")
    recording.actor("train", "stage", "")
    recording.field("loss", "batch", "Tensor", "")
    slot = recording.slot("train", "write", "loss", "write")
    assert slot is not None
    recording.write(slot, math.nan)
    recording.flush()
    return ChangeLog(store)


def test_two_runs_of_one_program_do_not_differ(tmp_path: Path) -> None:
    run(run_dir=tmp_path / "a").close()
    difference = run().log.diff(tmp_path / "a")
    assert not difference
    assert str(difference) == "The two runs wrote the same, as far as their logs tell."


@pytest.mark.parametrize("place", [(0, 0), (0, 3), (1, 0), (1, 7)])
def test_one_element_by_one_unit_in_the_last_place_is_where_two_runs_part(
    place: tuple[int, int], tmp_path: Path
) -> None:
    run(run_dir=tmp_path / "a").close()
    run(next_up, place, run_dir=tmp_path / "b").close()
    for one, other in (("a", "b"), ("b", "a")):
        found = ChangeLog.open(tmp_path / one).diff(tmp_path / other)
        assert found.kind == "value" and found.ours is not None and found.theirs is not None
        assert found.ours.actor == found.theirs.actor == f"{BATCH}/unpack:after:meddle"
        assert (found.ours.position.epoch, found.ours.position.batch) == place
        assert dict(found.inputs)["inputs"] == "agrees by fingerprint"


def test_input_that_no_level_measures_is_said_to_be_so(tmp_path: Path) -> None:
    ours, theirs = run(), run(next_up)
    known = dict(ours.log.diff(theirs.log).inputs)
    assert "agrees by fingerprint" in known.values() and not any("would tell" in one for one in known.values())


def test_with_a_tolerance_what_is_close_does_not_differ() -> None:
    ours, theirs = run(), run(next_up)
    assert ours.log.diff(theirs.log).kind == "value"
    assert ours.log.diff(theirs.log, tolerance=1e-3).kind == "none"


def test_what_was_not_measured_is_said() -> None:
    ours, theirs = (run(change, audit="summary").log for change in (None, torch.neg))
    found = ours.diff(theirs)
    assert found.ours is not None and found.ours.field == "loss"
    assert dict(found.inputs)["targets"] == "was not measured: audit='full' would tell"


def start(difference: RunDifference) -> str:
    assert difference.kind == "start"
    return difference.told[0]


def test_other_starting_weights_are_the_first_thing_told() -> None:
    def model(weight: float) -> nn.Module:
        made = nn.Linear(1, 1)
        nn.init.constant_(made.weight, weight)
        return made

    def with_weight(weight: float, lr: float) -> Learner:
        made = model(weight)
        data = [(torch.ones(4, 1), torch.ones(4, 1))]
        return Learner(
            made, nn.functional.mse_loss, torch.optim.SGD(made.parameters(), lr=lr), train=data, device="cpu"
        )

    ours, theirs = with_weight(0.1, 0.1), with_weight(0.2, 0.2)
    assert start(ours.log.diff(theirs.log)).startswith("model.params: they start from other weights")
    torch.manual_seed(0)
    ours = with_weight(0.1, 0.1)
    torch.manual_seed(0)
    theirs = with_weight(0.1, 0.2)
    assert start(ours.log.diff(theirs.log)) == "optimizer.hyper.lr: 0.1 and 0.2 at the start"


def test_another_hook_or_stage_is_told_before_any_value() -> None:
    plain = toy_learner(audit="full")
    plain.fit(epochs=2)
    found = plain.log.diff(run().log)
    assert found.kind == "structure"
    assert found.told == (f"stage or hook {BATCH}/unpack:after:meddle: only in the second run",)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda log: log.first("loss", above="x"), "wants a number, and above='x'"),
        (lambda log: log.where(batch=[1, 2]), r"batch=\[1, 2\] is no number. Give a number or a range"),
        (lambda log: log.diff(log, tolerance=-1), "tolerance=-1 is no part of a number"),
        (lambda log: log.upstream("loss"), "wants a Change, such as blame"),
        (lambda log: log.tail(-1), r"tail\(-1\) wants how many records"),
        (lambda log: log.history(3), "wants a name as text, and got 3"),
        (lambda log: log.where(actor=3), r"where\(actor=3\) wants a name as text"),
        (lambda log: log.where(actor="train/epoch/fit/batch/updat"), "no actor .*Did you mean '.*/update'"),
        (lambda log: log.at(epoch="1"), "epoch='1' is no number"),
        (lambda log: log.at("0:fit:1", batch=1), "not both"),
    ],
)
def test_question_with_an_argument_of_another_kind_is_refused(ask: Any, told: str) -> None:
    learner = toy_learner()
    learner.fit(batches=2)
    with pytest.raises(StateError, match=told):
        ask(learner.log)


def test_longer_run_goes_on_where_the_other_one_ends() -> None:
    short, long = toy_learner(), toy_learner()
    short.fit(epochs=1)
    long.fit(epochs=2)
    found = short.log.diff(long.log)
    assert found.kind == "length" and found.ours is None and found.theirs is not None
    assert found.theirs.position.epoch == 1
    assert str(found).startswith("The first run has no more. The other one goes on: ")


def test_log_that_forgot_its_first_rounds_is_not_compared() -> None:
    def forgetful(rounds: int) -> ChangeLog:
        store = MemoryStore(rounds)
        recording = Recording(store)
        recording.actor("train", "stage", "")
        recording.field("loss", "batch", "Tensor", "")
        slot = recording.slot("train", "write", "loss", "write")
        assert slot is not None
        for batch in range(5):
            recording.position = (0, "fit", batch, batch)
            recording.write(slot, 1.0)
            recording.cut()
        recording.flush()
        return ChangeLog(store)

    assert forgetful(9).diff(forgetful(9)).kind == "none"
    with pytest.raises(StateError, match="compared from their beginning"):
        forgetful(9).diff(forgetful(3))


def test_what_was_measured_can_be_asked_for_in_sql(tmp_path: Path) -> None:
    learner = run(spoilt, run_dir=tmp_path / "runs")
    learner.close()
    assert learner.run_dir is not None
    with closing(sqlite3.connect(learner.run_dir / LOG_FILE)) as connection:
        rows = connection.execute("SELECT seq, actor, field, high, norm, fingerprint FROM measured").fetchall()
        found = "SELECT actor, field, high, not_finite FROM measured WHERE not_finite IS NOT NULL ORDER BY seq"
        bad = connection.execute(found).fetchall()
    told = {change.seq: change for change in learner.log.where() if isinstance(change.after, Summary)}
    assert len(rows) == len(told) > 50
    assert bad[0] == (f"{BATCH}/unpack:after:meddle", "inputs", None, "inputs")
    assert {one[3] for one in bad if one[1] == "model.params"} == {"weight"}
    for seq, actor, field, high, norm, fingerprint in rows:
        after: Any = told[seq].after
        assert (actor, field, fingerprint) == (told[seq].actor, told[seq].field, after.fingerprint)
        assert (high, norm) == (after.high, after.norm) or not after.is_finite


def test_writes_can_be_asked_for_in_sql_with_what_was_before(tmp_path: Path) -> None:
    learner = toy_learner(run_dir=tmp_path / "runs", valid=None)
    learner.fit(epochs=1)
    learner.close()
    assert learner.run_dir is not None
    with closing(sqlite3.connect(learner.run_dir / LOG_FILE)) as connection:
        found = "SELECT seq, before, after, source FROM written WHERE field = 'updates'"
        rows = connection.execute(found).fetchall()
    told = learner.log.history("updates")
    assert [row[0] for row in rows] == [change.seq for change in told]
    assert [row[1:] for row in rows[1:]] == [(each.before, each.after, each.source) for each in told[1:]]
    assert len(rows) > 5 and rows[0][1] is None


def test_value_of_one_parameter_group_past_a_bound_is_found() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    groups = [{"params": one.parameters(), "lr": rate} for one, rate in zip(model, (0.1, 0.2), strict=True)]
    data = [(torch.ones(2, 1), torch.ones(2, 1))] * 3
    learner = Learner(model, nn.MSELoss(), torch.optim.SGD(groups), train=data, device="cpu")

    @learner.before("update", reads=("batch_index",), writes=("optimizer.hyper",))
    def bump(state: Any) -> None:
        state.optimizer.param_groups[1]["lr"] = 0.5 if state.batch_index == 1 else 0.2

    learner.fit(epochs=1)
    found = learner.log.first("optimizer.hyper.lr", above=0.3)
    assert found is not None and found.change.after == "0.1, 0.5" and found.change.position.batch == 1
    assert learner.log.first("optimizer.hyper.lr", above=0.6) is None
    learner.watch("optimizer.hyper.lr", above=0.3)
    with pytest.raises(
        WatchHit, match="bump at epoch 1, fit, batch 1, .* wrote optimizer.hyper.lr, which is above 0.3"
    ):
        learner.fit(epochs=1)


def test_ten_runs_of_one_seed_have_one_digest_and_another_seed_has_another() -> None:
    def seeded(seed: int) -> str:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))
        data = DataLoader(TensorDataset(torch.randn(20, 2), torch.randn(20, 1)), batch_size=4, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters())
        learner = Learner(model, nn.MSELoss(), optimizer, train=data, device="cpu", seed=seed, audit="full")
        learner.fit(epochs=2)
        return learner.log.digest()

    digests = {seeded(1) for _ in range(10)}
    assert len(digests) == 1 and len(digests.pop()) == 64
    assert seeded(2) != seeded(1)
