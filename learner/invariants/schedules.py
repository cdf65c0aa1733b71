"""What is so of schedules: they move an optimizer of State, their rates are used, and they move by what they count."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, PolynomialLR, SequentialLR

from learner.invariants.standing import warned
from stages import Invariant, TrainingPhase, Writes
from stages.check import actors
from stages.invariants import Wrong
from stages.place import ROOT, Place
from state import Change, ChangeLog

LATEST = 1_000
"""So many rates, and updates, are looked back at."""


def invariants() -> tuple[Invariant, ...]:
    """What is so of rates and schedules."""
    return (
        warned("a scheduler moves an optimizer of State", refers_to_what_is_held, before=Writes("*.state")),
        warned(
            "a hyper-parameter is used before its writer replaces it", used_rates, after=TrainingPhase, then="record"
        ),
        warned("a scheduler does not set back what another one sets", undone_rates, after=ROOT, sampled=False),
        warned("a schedule is planned in what it moves by", planned_in_its_unit, after=ROOT, sampled=False),
    )


def refers_to_what_is_held(state: Any) -> Wrong | None:
    """The optimizer that a scheduler moves is one of State, so that its rates are used."""
    values = state.values_of("run")
    held = {id(value) for value in values.values() if isinstance(value, Optimizer)}
    for name, value in values.items():
        if isinstance(value, LRScheduler) and id(value.optimizer) not in held:
            kind = type(value.optimizer).__name__
            told = f"{name!r} moves an optimizer, a {kind}, that is not in State any more, and nothing uses its rates"
            return Wrong(told, tuple(field for field, one in values.items() if isinstance(one, Optimizer)))
    return None


def used_rates(place: Place, log: ChangeLog) -> Wrong | None:
    """Who sets a rate sets it again after an update has used it; who stands around a slot may give it back."""
    root = place.root
    if not any(".hyper" in name for _, access in actors(root.walk()) for name in access.writes):
        return None  # without a question to the log
    rates, updates = log.where(field="*.hyper.*")[-LATEST:], log.where(field="*.state")[-LATEST:]
    if not rates:
        return None
    begin = updates[0].seq if len(updates) == LATEST else 0  # before that some updates are not among these
    rows = sorted([*(row for row in rates if row.seq >= begin), *updates], key=lambda row: row.seq)
    waiting: dict[tuple[str, str], Change] = {}
    for row in rows:
        owner, _, part = str(row.field).partition(".")
        if part == "state":
            waiting = {key: one for key, one in waiting.items() if not key[1].startswith(f"{owner}.")}
        elif row.actor not in ("setup", "external", "user") and ":around:" not in row.actor:
            key = (row.actor, str(row.field))
            if key in waiting:
                told = f"{row.field} = {waiting[key].after} was replaced by {row.after} before an update used it"
                return Wrong(told, (str(row.field),))
            waiting[key] = row
    return None


def undone_rates(state: Any, place: Place, log: ChangeLog) -> Wrong | None:
    """A rate that one actor has changed is not set, by a scheduler, to the very value that it had before.

    Asked at the end of a run. Within a batch somebody may have lent it.
    """
    writers = {path: access for path, access in actors(place.root.walk()) if ".hyper" in " ".join(access.writes)}
    held = {f"{name}.state" for name in state.components(LRScheduler)}
    movers = {path for path, access in writers.items() if not held.isdisjoint(access.writes)}
    if len(writers) < 2 or not movers:
        return None  # without a question to the log
    latest: dict[str, list[Change]] = {}
    for row in log.where(field="*.hyper.*")[-LATEST:]:
        rows = latest.setdefault(str(row.field), [])
        if len(rows) > 1:
            first, second = rows[-2:]
            is_undone = row.after == first.after != second.after and row.actor == first.actor != second.actor
            is_later = (row.position.epoch, row.position.batch) != (second.position.epoch, second.position.batch)
            if is_undone and is_later and row.actor in movers and second.actor in writers:
                told = f"{second.actor} set {row.field} from {second.before} to {second.after}, and {row.actor} set it"
                return Wrong(
                    f"{told} back to {row.after}, {row.position}: they do not know of each other", (str(row.field),)
                )
        rows.append(row)
    return None


def planned_in_its_unit(state: Any) -> Wrong | None:
    """A schedule that is as long as the run in batches, updates or epochs moves once for each of these.

    Whoever counts it in batches and moves it by updates, or in epochs and moves it by either, is told at the end of the
    run. That is asked of those that end: OneCycleLR, CosineAnnealingLR, PolynomialLR, and a SequentialLR with one of
    these at its end. One that moves by epochs may be longer than the run.
    """
    counted = {"epochs_done": "epochs", "updates": "updates", "batches_seen": "batches"}
    values = state.values_of("run")
    run = {word: values[name] for name, word in counted.items() if isinstance(values.get(name), int)}
    for name, schedule in state.components(LRScheduler).items():
        moves = getattr(schedule, "last_epoch", None)  # a ChainedScheduler has none
        if moves is None:
            continue
        units = [word for word, count in run.items() if count == moves]
        planned = _length(schedule)
        for word, count in run.items():
            is_another = planned == count and units and word not in units and min(count, moves) > 1
            if is_another and (count < moves or units[0] != "epochs"):
                told = f"{name!r} is planned over {planned}, the {word} of this run, and moved {moves} times"
                return Wrong(f"{told}, by {units[0]}: plan it in {units[0]}", (f"{name}.state",))
    return None


def _length(schedule: LRScheduler) -> int | None:
    """How often a schedule is to move until its end, if it has one."""
    if isinstance(schedule, SequentialLR):
        last = _length(schedule._schedulers[-1])
        return None if last is None else schedule._milestones[-1] + last
    names = {OneCycleLR: "total_steps", CosineAnnealingLR: "T_max", PolynomialLR: "total_iters"}
    length = next((getattr(schedule, name) for kind, name in names.items() if isinstance(schedule, kind)), None)
    return length if isinstance(length, int) else None
