"""Profile: where the time goes, by the stages and hooks that were timed, and what we take ourselves."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from state.position import Place
from state.records import Records

GUARD = "guard"
"""The actor whose exits tell how long the guard looked, and how long it took to ask an invariant."""

Sort = Literal["stage", "hook", "guard", "tree"]


class Spent(NamedTuple):
    """The time of one stage or hook, in the rounds that were timed: the first three of each loop, then some.

    The guard looks in the same rounds and in no others, and invariants are asked there: what they take is left out of
    the times of all others and has a row of its own. A stage's time has in it what the log takes to keep its writes:
    about a microsecond each, more at the levels "stats" and "full".

    Attributes:
        actor: the path of the stage or hook; of the other two sorts that of the loop whose rounds they are about.
        sort: "stage"; "hook"; "guard": its looks, and the invariants that were asked, a call each; "tree": what stages
            that only hold others take beside these and their hooks, which is to run them and to tell the log. Both are
            less in rounds that are not timed.
        calls: how often it was timed.
        mean_ms: of one call, in milliseconds, with all that runs inside it.
        own_ms: of one call, without the stages and hooks inside it. None for a loop, of whose rounds only some were
            timed.
        share: of the stage that it stands in, as a part of 1; in a loop of the stages that were timed in its rounds;
            of the guard, of these and its looks. None for the outermost stage.
    """

    actor: str
    sort: Sort
    calls: int
    mean_ms: float
    own_ms: float | None
    share: float | None


@dataclass
class _Times:
    """What was measured, in milliseconds."""

    calls: Counter[str] = field(default_factory=Counter)
    total: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # without the guard
    looks: Counter[str] = field(default_factory=Counter)  # of the guard, by the stage inside of which it looked
    looked: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    inside: dict[str, list[str]] = field(default_factory=dict)  # by the stage that holds them
    loops: set[str] = field(default_factory=set)  # of whose rounds only some were timed


def profile(records: Records) -> list[Spent]:
    """The stages in the order of the tree, each followed by its hooks and the stages in it, the longest first."""
    times = _times(records)
    declaring = {slot.actor for slot in records.slots if slot.kind in ("read", "write")}
    loops = times.loops
    rows: list[Spent] = []

    def add(actor: str, holder: str) -> None:
        calls, total, below = times.calls[actor], times.total[actor], times.inside.get(actor, ())
        own = None if actor in loops else max(total - sum(times.total[one] for one in below), 0.0) / calls
        sort: Sort = "hook" if ":" in actor else "stage"
        rows.append(Spent(actor, sort, calls, total / calls, own, share(actor, holder)))
        for child in sorted(below, key=lambda one: -times.total[one]):
            add(child, actor)
        if actor in loops or not holder:
            ours(actor)

    def whole(actor: str) -> float:
        """What was timed of a stage: of a loop, the stages in its rounds."""
        if actor not in loops:
            return times.total[actor]
        return sum(times.total[one] for one in times.inside[actor] if ":" not in one)

    def share(actor: str, holder: str) -> float | None:
        if not holder:
            return None
        of = times.total[holder] if ":" in actor else whole(holder)
        return times.total[actor] / of if of else None

    def ours(loop: str) -> None:
        """The rows of what is ours in the rounds of a loop, or in what stands in none."""
        here = {actor for actor in times.calls if _loop_of(times, actor) == loop}
        inside = here - loops | {loop}  # what the guard took in a loop beside its stages, it took in its rounds
        looks = sum(times.looks[actor] for actor in inside)
        if looks:
            looked = sum(times.looked[actor] for actor in inside)
            part = looked / (looked + whole(loop)) if looked else 0.0
            rows.append(Spent(loop, "guard", looks, looked / looks, looked / looks, part))
        plain = [one for one in rows if one.actor in here and one.sort == "stage" and one.own_ms is not None]
        plain = [one for one in plain if one.actor in times.inside and one.actor not in declaring]
        calls = sum(one.calls for one in plain)
        if calls:
            spent = sum(one.calls * (one.own_ms or 0.0) for one in plain)
            of = whole(loop)
            rows.append(Spent(loop, "tree", calls, spent / calls, spent / calls, spent / of if of else 0.0))

    for top in times.inside.get("", ()):
        add(top, "")
    return rows


def _times(records: Records) -> _Times:
    times = _Times()
    open_stages: list[tuple[str, Place]] = []
    guarded: list[float] = []  # of each of these, what the guard has taken so far
    for place, actor, duration_ns in records.timed():
        if duration_ns is None:
            if open_stages and _is_deeper(place, open_stages[-1][1]):
                times.loops.add(open_stages[-1][0])
            open_stages.append((actor, place))
            guarded.append(0.0)
            continue
        spent, taken = duration_ns / 1e6, 0.0
        if actor == GUARD:
            guarded = [taken + spent for taken in guarded]
            if open_stages:
                times.looks[open_stages[-1][0]] += 1
                times.looked[open_stages[-1][0]] += spent
            continue
        if any(one == actor for one, _ in open_stages):
            while open_stages.pop()[0] != actor:  # what was left without being timed
                guarded.pop()
            taken = guarded.pop()
        times.calls[actor] += 1
        times.total[actor] += spent - taken
    for actor in times.calls:
        times.inside.setdefault(_holder(actor, times.calls), []).append(actor)
    for holder, below in times.inside.items():
        if any(times.calls[one] != times.calls[holder] for one in below if holder and ":" not in one):
            times.loops.add(holder)
    return times


def _is_deeper(place: Place, around: Place) -> bool:
    """Whether an epoch or a batch has begun since."""
    return any(place[part] is not None and around[part] is None for part in (0, 2))


def _loop_of(times: _Times, actor: str) -> str:
    """The innermost loop round a stage, else the outermost stage."""
    while holder := _holder(actor, times.calls):
        if holder in times.loops:
            return holder
        actor = holder
    return actor


def _holder(actor: str, known: Counter[str]) -> str:
    """The nearest stage round it that was timed."""
    path, colon, _ = actor.partition(":")
    holder = path if colon else path.rpartition("/")[0]
    while holder and holder not in known:
        holder = holder.rpartition("/")[0]
    return holder
