"""Profile: where the time goes, by the stages that were timed."""

from typing import NamedTuple

from state.records import Records


class Spent(NamedTuple):
    """The time of one stage, in the rounds that were timed: the first three of each loop, then some.

    Attributes:
        actor: the path of the stage.
        calls: how often it was timed.
        mean_ms: of one call, in milliseconds, with all that runs inside it.
        own_ms: of one call, without the stages inside it: its own code, its hooks, and what we take ourselves.
        share: of the whole stage that it stands in, as a part of 1; None for the outermost.
    """

    actor: str
    calls: int
    mean_ms: float
    own_ms: float
    share: float | None


def profile(records: Records) -> list[Spent]:
    """The stages in the order of the tree, each followed by those inside it.

    A stage counts only in rounds in which the one round it was timed as well, so that shares add up.
    """
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
        mean = total / calls
        below = sum(totals[child][1] for child in inside.get(actor, ()))
        own = max(mean - below / calls, 0.0)
        share = None if not holder else totals[actor][1] / totals[holder][1] if totals[holder][1] else None
        rows.append(Spent(actor, calls, mean, own, share))
        for child in sorted(inside.get(actor, ()), key=lambda one: -totals[one][1]):
            add(child, actor)

    for top in inside.get("", ()):
        add(top, "")
    return rows


def _holder(actor: str, known: dict[str, tuple[int, float]]) -> str:
    """The nearest stage round it that was timed."""
    holder = actor.rpartition("/")[0]
    while holder and holder not in known:
        holder = holder.rpartition("/")[0]
    return holder
