"""Rules: what is wrong with a tree whoever runs it, found without walking through it in order."""

from collections.abc import Iterator
from itertools import combinations

from stages.binding import names_of
from stages.check import Finding, Severity, actors
from stages.order import covers, overlaps
from stages.phases import Phase
from stages.place import Place, filled, forbidden_at
from state.access import Access
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


def inside_themselves(places: list[Place]) -> Iterator[Finding]:
    """Stages that hold themselves, with the way from the outer one to the inner, which has no place."""
    for place in places:
        for slot, outer in place.left_out.items():
            trail = f"{place.path}/{slot}".split("/")[outer.path.count("/") :]
            told = f"{outer.path} holds itself: {' -> '.join(trail)}. Give the inner one a stage of its own."
            yield Finding("error", "stage inside itself", (outer.path,), told)


def forbidden_writes(places: list[Place]) -> Iterator[Finding]:
    """What a composite forbids and something inside it is there to do. What is only touched, the guard watches."""
    for place in places:
        forbidden = forbidden_at(place)
        if not forbidden:
            continue
        inside = [one for child in place.children.values() for one in child.walk()]
        for path, access in actors(inside):
            for name in access.writes:
                rule = next((rule for rule in forbidden if covers(rule, name) or covers(name, rule)), None)
                if rule is not None:
                    told = f"{path} writes {name!r}, which {place.path} forbids (forbids {rule!r})."
                    ways = "Take it out of there, or take the name out of forbids."
                    yield Finding("error", "forbidden write", (path, place.path), f"{told} {ways}")


def clashing_pairs(places: list[Place]) -> Iterator[Finding]:
    """Two hooks around one slot that restore one part: neither can know what the other gives back."""
    for place in places:
        for first, second in combinations(place.around, 2):
            for name in first.access.restores:
                if any(overlaps(name, other) for other in second.access.restores):
                    told = f"{first.hook.name} and {second.hook.name} both restore {name!r} around {place.path!r}."
                    ways = "Remove one, or put one of them around a slot inside or outside of that one."
                    yield Finding("error", "clashing pairs", (first.path, second.path), f"{told} {ways}")


def unsafe_actors(places: list[Place]) -> Iterator[Finding]:
    """Who may change everything, undeclared."""
    for path, access in actors(places):
        if access.unsafe:
            told = f"{path} is unsafe: it may read and change everything. Nothing that it does is checked."
            yield Finding("warning", "unsafe actor", (path,), told)


def unknown_binds(places: list[Place]) -> Iterator[Finding]:
    """Names that `bind` gives to a stage or callback that does not use them: a slip, most likely."""
    bound: dict[int, tuple[object, str, set[str]]] = {}
    for place in places:
        if place.kind == "stage" and names_of(place.stage):
            below = [one.contract for one in place.walk() if one.kind == "stage"]
            used = {name for one in below for name in (*_names(one.access), *one.brought)}
            bound.setdefault(id(place.stage), (place.stage, place.path, set()))[2].update(used)
        for hung in place.hooks:
            callback = hung.hook.callback
            if names_of(callback) and not hung.hook.observes:
                used = {*_names(filled(hung.hook.contract.access, place)), *callback.fields()}
                bound.setdefault(id(callback), (callback, hung.path, set()))[2].update(used)
    for thing, path, used in bound.values():
        owners = {name.partition(".")[0] for name in used}
        for own, other in names_of(thing).items():
            if own not in owners:
                told = f"{path}: bind({own}={other!r}) names a field that {type(thing).__name__} does not use."
                near = suggestion(nearest(own, owners))
                yield Finding("error", "unknown field", (path,), f"{told}{near} It uses {sorted(owners - {'*'})}.")


def _names(access: Access) -> tuple[str, ...]:
    return (*access.reads, *access.writes, *access.touches, *access.restores)
