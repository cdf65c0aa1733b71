"""Errors of `stages`: a declaration, a tree or a batch that is refused.

StageError
|-- DeclarationError   a stage or hook whose declaration cannot be used
|-- UnknownSlot        a slot, path or target that no place in the tree has
|-- AmbiguousSlot      a name that fits several places where one is needed
|-- GraphError         all findings that keep a tree from being built
|-- ContractBroken     a stage or hook that did not do what it declares
|   `-- UndeclaredChange   one that changed in place what it does not declare
|-- Misuse             a stage run, set or entered where that has no meaning
|-- InvariantBroken    something that is always so, and is not
|-- WatchHit           a value that `learner.watch` waited for, or a slot with a breakpoint
|-- LimitError         a `fit` that could not end (also a ValueError)
`-- BatchError         a loader or a batch that cannot be used (also a ValueError)

GuardWarning           an undeclared change in a round where it does not raise (a UserWarning)
InvariantWarning       an invariant that does not hold and warns, or a tree that nobody means (a UserWarning)
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from state.errors import nearest, suggestion

if TYPE_CHECKING:
    from stages.finding import Finding
    from stages.watching import Hit, Stopped
    from state.watch import Moved


class StageError(Exception):
    """Anything `stages` refuses. Catch it to catch all of this package's errors."""


class DeclarationError(StageError, TypeError):
    """A stage, hook or callback whose declaration cannot be used.

    Attributes:
        owner: the class or function.
    """

    def __init__(self, owner: str, problem: str) -> None:
        self.owner = owner
        super().__init__(f"{owner}: {problem}")


class UnknownSlot(StageError):
    """A slot, path or target that no place in the tree has.

    Attributes:
        slot: what was asked for.
        nearest: the existing slot most like it, or None.
    """

    def __init__(self, slot: str, known: Iterable[str], who: str = "") -> None:
        self.slot = slot
        paths = list(known)
        self.nearest = _nearest_slot(slot, paths)
        asks = f"{who} asks for {slot!r}, but" if who else f"No place is called {slot!r};"
        slots = sorted({path.rpartition("/")[2] for path in paths})
        super().__init__(f"{asks} the tree has the slots {slots}.{suggestion(self.nearest)}")


class AmbiguousSlot(StageError):
    """A name that fits several places where one is needed.

    Attributes:
        slot: what was asked for.
        paths: the places it fits.
    """

    def __init__(self, slot: str, paths: Sequence[str]) -> None:
        self.slot = slot
        self.paths = tuple(paths)
        places = "".join(f"\n  {path}" for path in self.paths)
        super().__init__(f"{slot!r} fits {len(self.paths)} places. Name one by more of its path:{places}")


class GraphError(StageError):
    """The tree cannot be built: every error that `check()` found, each with its remedy.

    Attributes:
        findings: those errors.
    """

    def __init__(self, findings: "Sequence[Finding]") -> None:
        self.findings = tuple(findings)
        count = "1 finding" if len(self.findings) == 1 else f"{len(self.findings)} findings"
        super().__init__(f"The tree cannot run, {count}:" + "".join(f"\n- {f.message}" for f in self.findings))


class ContractBroken(StageError):
    """A stage or hook ended well without doing what it declares.

    Attributes:
        actor: its path.
    """

    def __init__(self, actor: str, problem: str) -> None:
        self.actor = actor
        super().__init__(f"{actor} {problem}")


class UndeclaredChange(ContractBroken):
    """A stage or hook changed in place what it does not declare, or may not change there.

    Attributes:
        actor: its path; "external" where nobody of the tree ran.
        source: where its code stands.
        moves: what changed, each with its part, the names inside, and how it is known.
    """

    def __init__(self, actor: str, source: str, moves: "Sequence[Moved]", problem: str) -> None:
        self.source = source
        self.moves = tuple(moves)
        changed = " and ".join(f"{one.name!r} ({listed(one.inside, '', '; ')}seen by {one.evidence})" for one in moves)
        code = f" Its code: {source}." if source else ""
        super().__init__(actor, f"changed {changed} in place, undeclared. {problem}{code}")


class Misuse(StageError):
    """A stage run, set or entered where that has no meaning."""


class LimitError(StageError, ValueError):
    """A `fit` without one clear end."""


class BatchError(StageError, ValueError):
    """A loader or a batch that cannot be used."""


class GuardWarning(UserWarning):
    """Something was changed in place, undeclared, in a round where that is recorded and does not raise."""


class InvariantWarning(UserWarning):
    """An invariant does not hold, or a tree is put together as hardly anybody means it; the run goes on."""


def listed(names: Sequence[str], before: str = "", after: str = "", limit: int = 3) -> str:
    """The first of these names, and how many more there are; nothing for none."""
    if not names:
        return ""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{before}{', '.join(names[:limit])}{more}{after}"


def _nearest_slot(slot: str, paths: Sequence[str]) -> str | None:
    """The path tail with as many parts as `slot` that is most like it."""
    parts = slot.count("/") + 1
    return nearest(slot, sorted({"/".join(path.split("/")[-parts:]) for path in paths}))


class WatchHit(StageError):
    """A write that `learner.watch(...)` waited for, or a slot with a `learner.breakpoint(...)`.

    Attributes:
        hit: what was written, by whom, where; or the slot, and where in the run.
    """

    def __init__(self, hit: "Hit | Stopped") -> None:
        self.hit = hit
        super().__init__(str(hit))


class InvariantBroken(StageError):
    """Something that is always so is not.

    Attributes:
        invariant: its name.
        actor: who wrote last what it is about; else the place where it does not hold.
        source: where the code of that stands.
        told: what is wrong.
        path: the place where it does not hold.
    """

    def __init__(self, invariant: str, actor: str, source: str, did: str, told: str, path: str) -> None:
        self.invariant, self.actor, self.source, self.told, self.path = invariant, actor, source, told, path
        wrote = f" {did}, and" if did else ":"
        at = f" at {path}" if did and path != actor else ""
        ending = "" if told.endswith((".", "?", "!")) else "."
        code = f" Its code: {source}." if source else ""
        super().__init__(f"{actor}{wrote} it does not hold{at} that {invariant}: {told}{ending}{code}")
