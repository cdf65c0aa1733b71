"""Finding: one thing that is wrong with a tree, or worth knowing of it."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from stages.place import Place

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

_ROOT = Path(__file__).parents[1]
_LIBRARY = tuple(f"{_ROOT / package}{os.sep}" for package in ("state", "stages", "learner"))


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


def is_of_library(source: str) -> bool:
    """Whether a stage or hook with this source, "qualname file:line", is one of this library."""
    return source.partition(" ")[2].startswith(_LIBRARY)


def code_of(sources: Sequence[str]) -> str:
    """The sentence that tells where the first two of these stand that are not of this library."""
    told = [one for one in dict.fromkeys(sources) if one and not is_of_library(one)][:2]
    return f" {'Their' if len(told) > 1 else 'Its'} code: {', '.join(told)}." if told else ""


def warn_at(source: str, warning: Warning, stacklevel: int) -> None:
    """Warn with the place of the code of a stage or hook of the user's; of one of this library, as `warnings.warn`."""
    file, _, line = source.partition(" ")[2].rpartition(":")
    if file and line.isdigit() and not is_of_library(source):
        warnings.warn_explicit(warning, type(warning), file, int(line))
    else:
        warnings.warn(warning, stacklevel=stacklevel)
