"""Describing: what the log is told of a tree: the names of its records before anything runs, and edits."""

from typing import Any

from stages.assembly import Assembly
from stages.check import actors, scopes_of
from state.fields import MISSING
from state.recording import Recording
from state.sources import caller

_PLAIN = (bool, int, float, str, type(None))


def settings_of(owner: object) -> dict[str, Any]:
    """The settings of a stage or callback that are plain values, by name."""
    return {key: value for key, value in vars(owner).items() if type(value) in _PLAIN and not key.startswith("_")}


def tell_edit(recording: Recording | None, what: str) -> None:
    """Log an edit of the tree, by the user."""
    if recording is not None:
        slot = recording.slot("user", "write", "tree", "write", caller())
        if slot is not None:
            recording.write(slot, what)
        recording.flush()


def describe(recording: Recording, assembly: Assembly) -> None:
    """Tell the log the reserved actors, the fields, and the parts that somebody writes."""
    for actor in ("setup", "user", "external"):
        recording.actor(actor, "reserved", "")
    recording.field("tree", "run", "str", "edits of the tree", MISSING)
    scopes = scopes_of(assembly.places, assembly.names)
    for name, spec in assembly.names.items():
        default = spec.first if "." not in name else MISSING
        recording.field(name, scopes[name], spec.type_text if "." not in name else "part", spec.description, default)
    for _, access in actors(assembly.places):
        for name in (*access.writes, *access.restores):
            if name not in assembly.names:
                recording.field(name, "run", "part", "", MISSING)
