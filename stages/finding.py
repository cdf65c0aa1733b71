"""Finding: one thing that is wrong with a tree, or worth knowing of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from stages.place import Place
from state.sources import code_of

Severity = Literal["error", "warning", "note"]

Kind = Literal[
    "cannot be saved",
    "carried over",
    "clashing pairs",
    "cycle",
    "endless loop",
    "forbidden write",
    "kept outside",
    "missing producer",
    "never read",
    "not built",
    "orphaned hook",
    "read before write",
    "restored and written",
    "schedule before update",
    "schema conflict",
    "shared memory",
    "stage inside itself",
    "stale read",
    "starved reader",
    "unknown field",
    "unmatched target",
    "unopened scope",
    "unordered writers",
    "unsafe actor",
    "update without window",
    "window without update",
    "written sometimes",
]


@dataclass(frozen=True)
class Finding:
    """One thing the check found.

    Attributes:
        severity: "error" keeps the tree from being built.
        kind: a fixed word, such as "read before write".
        actors: paths of the stages and hooks it is about.
        message: who, what, and how to put it right.
    """

    severity: Severity
    kind: Kind
    actors: tuple[str, ...]
    message: str


def located(findings: Iterable[Finding], places: Iterable[Place]) -> list[Finding]:
    """The same; errors tell where the code of their stages and hooks stands that is not of this library."""
    sources: dict[str, str] = {}
    for place in places:
        if place.has_own_code:
            sources[place.path] = place.contract.source
        sources |= {hung.path: hung.hook.contract.source for hung in place.hooks}
    return [
        replace(one, message=one.message + code_of([sources.get(path, "") for path in one.actors]))
        if one.severity == "error"
        else one
        for one in findings
    ]
