"""Finding: one thing that is wrong with a tree, or worth knowing of it."""

from dataclasses import dataclass
from typing import Literal

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
