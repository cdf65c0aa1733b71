"""Rules: what is wrong with a tree whoever runs it, found without walking through it in order."""

from collections.abc import Iterator

from stages.check import Finding, Severity
from stages.phases import Phase
from stages.place import Place
from state.errors import nearest, suggestion
from state.parts import is_saveable
from state.scopes import SCOPES
from state.state import State


def endless_loops(places: list[Place]) -> Iterator[Finding]:
    """Phases in which nothing takes a batch: their loop would never end."""
    for place in places:
        if place.kind == "stage" and type(place.stage).run is Phase.run:
            below = (child for top in place.children.values() for child in top.walk())
            if not any("batches" in child.access.reads for child in below if child.kind == "stage"):
                told = f"{place.path} would never end: no stage in it takes the next of 'batches'."
                ways = "Put Fetch() first, or derive a phase with a run of its own."
                yield Finding("error", "endless loop", (place.path,), f"{told} {ways}")


def unopened_scopes(schema: type[State], places: list[Place]) -> Iterator[Finding]:
    """Fields in a scope of the user's that no stage opens: misspelt, or without its loop."""
    opened = {scope for place in places for scope in (place.stage.opens, getattr(place.stage, "each", None)) if scope}
    known = {*SCOPES, *opened}
    for spec in schema.specs.values():
        if spec.scope not in known:
            told = (
                f"Field {spec.name!r} of {spec.owner} has the scope {spec.scope!r}, which no stage of this tree opens."
            )
            near = nearest(spec.scope, known)
            severity: Severity = "error" if near else "warning"  # a slip, or a loop that this tree has not
            yield Finding(
                severity, "unopened scope", (spec.owner,), f"{told}{suggestion(near)} Open are {sorted(known)}."
            )


def unsaveable_fields(schema: type[State]) -> Iterator[Finding]:
    """Fields that are marked as saved and cannot be."""
    for spec in schema.specs.values():
        if spec.saved == "saved" and not is_saveable(spec.annotation):
            told = f"Field {spec.name!r} of {spec.owner} is a {spec.type_text}: no plain value, tensor or component."
            ways = "Give its class state_dict and load_state_dict, or mark it field(saved='volatile', because=...)."
            yield Finding("error", "cannot be saved", (spec.owner,), f"{told} {ways}")
