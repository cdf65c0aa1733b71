"""Profile: where the time goes, by the stages that were timed."""

from typing import NamedTuple

from state.records import Records


class Spent(NamedTuple):
    """The time of one stage, in the rounds that were timed: the first three of each loop, then some.

    Attributes:
        actor: the path of the stage.
        calls: how often it was timed.
        mean_ms: of one call, in milliseconds, with all that runs inside it.
        own_ms: of one call, without the stages inside it: its own code, its hooks, and what we take ourselves. None for
            a loop, of whose rounds only some were timed.
        share: of the stage that it stands in, as a part of 1; in a loop of all that was timed in its rounds. None for
            the outermost.
    """

    actor: str
    calls: int
    mean_ms: float
    own_ms: float | None
    share: float | None


def profile(records: Records) -> list[Spent]:
    """The stages in the order of the tree, each followed by those inside it, the longest first."""
    totals: dict[str, tuple[int, float]] = {}
    for actor, duration_ns in records.durations():
        calls, total = totals.get(actor, (0, 0.0))
        totals[actor] = calls + 1, total + duration_ns / 1e6
    inside: dict[str, list[str]] = {}
    for actor in totals:
        inside.setdefault(_holder(actor, totals), []).append(actor)
    rows: list[Spent] = []

    def add(actor: str, holder: str) -> None:
        calls, total = totals[actor]
        below = [totals[child] for child in inside.get(actor, ())]
        is_loop = any(times != calls for times, _ in below)
        own = None if is_loop else max(total - sum(spent for _, spent in below), 0.0) / calls
        rows.append(Spent(actor, calls, total / calls, own, _share(actor, holder)))
        for child in sorted(inside.get(actor, ()), key=lambda one: -totals[one][1]):
            add(child, actor)

    def _share(actor: str, holder: str) -> float | None:
        if not holder:
            return None
        siblings = [totals[child] for child in inside[holder]]
        calls, whole = totals[holder]
        if any(times != calls for times, _ in siblings):
            whole = sum(spent for _, spent in siblings)
        return totals[actor][1] / whole if whole else None

    for top in inside.get("", ()):
        add(top, "")
    return rows


def _holder(actor: str, known: dict[str, tuple[int, float]]) -> str:
    """The nearest stage round it that was timed."""
    holder = actor.rpartition("/")[0]
    while holder and holder not in known:
        holder = holder.rpartition("/")[0]
    return holder
