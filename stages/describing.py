"""Describing: what the log is told of a tree before anything runs, so that its records have names."""

from stages.assembly import Assembly
from stages.check import actors, scopes_of
from state.fields import MISSING
from state.recording import Recording


def describe(recording: Recording, assembly: Assembly) -> None:
    """Tell the log the reserved actors, the fields, and the parts that somebody writes."""
    for actor in ("setup", "user", "external"):
        recording.actor(actor, "reserved", "")
    recording.field("tree", "run", "str", "edits of the tree", MISSING)
    scopes = scopes_of(assembly.places, assembly.names)
    for name, spec in assembly.names.items():
        default = spec.default if "." not in name else MISSING
        recording.field(name, scopes[name], spec.type_text if "." not in name else "part", spec.description, default)
    for _, access in actors(assembly.places):
        for name in (*access.writes, *access.restores):
            if name not in assembly.names:
                recording.field(name, "run", "part", "", MISSING)
