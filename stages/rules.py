"""Rules: what is wrong with a tree whoever runs it, found without walking through it in order."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, ReduceLROnPlateau

from stages.binding import names_of
from stages.check import actors, key_of
from stages.control import Every, When, Window
from stages.finding import Finding, Severity
from stages.order import Conflict, overlaps
from stages.phases import Phase
from stages.place import Place, filled
from stages.stage import Composite
from state.errors import nearest, suggestion
from state.fields import FieldSpec
from state.parts import is_saveable, optimized, trained
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
    opened = {scope for place in places for scope in (place.opens, place.each) if scope}
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
            told = f"Field {spec.name!r} of {spec.owner} is no plain value, tensor or component, but: {spec.type_text}."
            ways = "Annotate it with what it holds, give that class state_dict and load_state_dict, or mark it "
            ways += "field(saved='volatile', because=...)."
            yield Finding("error", "cannot be saved", (spec.owner,), f"{told} {ways}")


def inside_themselves(places: list[Place]) -> Iterator[Finding]:
    """Stages that hold themselves, with the way from the outer one to the inner, which has no place."""
    for place in places:
        for slot, outer in place.left_out.items():
            trail = f"{place.path}/{slot}".split("/")[outer.path.count("/") :]
            told = f"{outer.path} holds itself: {' -> '.join(trail)}. Give the inner one a stage of its own."
            yield Finding("error", "stage inside itself", (outer.path,), told)


def forbidden_writes(places: list[Place], names: Mapping[str, FieldSpec]) -> Iterator[Finding]:
    """What a composite forbids and something inside it is there to do. What is only touched, the guard watches."""
    for place in places:
        if not place.forbids:
            continue
        inside = [one for child in place.children.values() for one in child.walk()]
        for path, access in actors(inside):
            for name in access.writes:
                rule = next((rule for rule in place.forbids if _means(rule, name, names)), None)
                if rule is not None:
                    told = f"{path} writes {name!r}, which {place.path} forbids (forbids {rule!r})."
                    ways = "Take it out of there, or take the name out of forbids."
                    yield Finding("error", "forbidden write", (path, place.path), f"{told} {ways}")


def forbidden_updates(places: list[Place], names: Mapping[str, FieldSpec], state: State | None) -> Iterator[Finding]:
    """Optimizers that hold what a composite forbids to be written, and that are stepped inside it."""
    optimizers = {} if state is None else state.components(Optimizer)
    for place in (one for one in places if one.forbids and optimizers):
        for path, access in actors(one for child in place.children.values() for one in child.walk()):
            if not any(key_of(name).endswith(".params") for name in access.writes):  # it may write the state alone
                continue
            for name in (one for one in access.writes if one.removesuffix(".state") in optimizers):
                held = _trained(state, optimizers[name.removesuffix(".state")])
                for rule in place.forbids:
                    if any(_means(rule, one, names) for one in access.writes):  # which is told already
                        continue
                    found = [one for one in held if _means(rule, one, names)]
                    if found:
                        told = f"{path} writes {name!r}: that optimizer updates {found[0]!r}"
                        told += f" and {len(found) - 1} more" if len(found) > 1 else ""
                        ways = "Make the optimizer without them, freeze them, or take the name out of forbids."
                        told += f", which {place.path} forbids (forbids {rule!r})."
                        yield Finding("error", "forbidden write", (path, place.path), f"{told} {ways}")


def schedules_before_updates(places: list[Place], schema: type[State], state: State | None) -> Iterator[Finding]:
    """Hooks and stages that move a scheduler in each round of a loop, before an update of that round, or without one.

    PyTorch wants `scheduler.step()` after `optimizer.step()`, since 1.1.0: the first rate would never be used. Whoever
    may write parameters, or is unsafe, may make an update.
    """
    values = {} if state is None else state.components(LRScheduler)
    kinds = {name: type(values[name]) if name in values else spec.annotation for name, spec in schema.specs.items()}
    others = (ReduceLROnPlateau, CosineAnnealingWarmRestarts)  # which may be told where they are
    moved = {f"{name}.state" for name, one in kinds.items() if _is_kind(one, LRScheduler) and not _is_kind(one, others)}
    for loop in places:
        if not moved or loop.each is None:
            continue
        inside = [one for child in loop.children.values() if child.kind == "stage" for one in child.walk()]
        steady = _steady(inside)
        updated: set[str] = set()
        for path, access in actors(inside):
            if access.unsafe or any(key_of(name).endswith(".params") for name in access.writes):
                break
            updated |= {name.removesuffix(".state") for name in (*access.writes, *access.touches)}
            rates = {name.partition(".")[0] for name in access.writes if ".hyper" in name}
            schedules = moved.intersection(access.writes) if path in steady else ()
            for schedule in schedules if rates and not rates & updated else ():
                name, rate = schedule.removesuffix(".state"), min(rates)
                told = f"{path} moves {name!r} in each round of {loop.path}, before an update of that round has used"
                told += f" its rate ('{rate}.hyper'), so the first one is never used."
                ways = (
                    "Hook it after the slot that updates: after('update'). Where it moves only sometimes, say when=; "
                )
                ways += "where step() is told the epoch or a metric, annotate the field with the scheduler's own class."
                yield Finding("error", "schedule before update", (path,), f"{told} {ways}")


def unknown_forbids(places: list[Place], names: Mapping[str, FieldSpec]) -> Iterator[Finding]:
    """Names in `forbids` that no field and no part has: a slip that would forbid nothing."""
    for place in places:
        for rule in place.forbids:
            known = any(name.endswith(rule[1:]) for name in names) if rule.startswith("*.") else key_of(rule) in names
            if not known:
                near = suggestion(nearest(rule, names))
                told = f"{place.path} forbids {rule!r}, but State has no such field.{near}"
                yield Finding("error", "unknown field", (place.path,), f"{told} Name a field or part that is there.")


def rounds_never_opened(places: list[Place]) -> Iterator[Finding]:
    """Composites with a scope for their rounds that run in no rounds."""
    for place in places:
        each = place.each
        if each is not None and type(place.stage).run in (Composite.run, When.run, Every.run):
            told = f"{place.path} has each={each!r} and runs in no rounds, so nothing opens that scope."
            ways = f"Take Repeat(1, ..., each={each!r}), or opens={each!r} for a scope while it runs."
            yield Finding("error", "unopened scope", (place.path,), f"{told} {ways}")


def windows_without_update(places: list[Place]) -> Iterator[Finding]:
    """Windows in a loop whose rounds are batches too: every batch would count twice."""
    for place in places:
        loops = (above for above in place.ancestors() if above is not place and above.each)
        around = next(loops, None)
        if isinstance(place.stage, Window) and place.kind == "stage" and around is not None:
            if around.each != "update":
                told = f"{place.path} gathers batches for one update, but each round of {around.path} is "
                told += f"a {around.each!r}."
                ways = f"Write {type(around.stage).__name__}(..., each='update')."
                ways = "Keep one of the two." if isinstance(around.stage, Window) else ways
                yield Finding("error", "window without update", (place.path, around.path), f"{told} {ways}")


def clashing_pairs(places: list[Place]) -> Iterator[Finding]:
    """Two hooks around one slot that restore one part: neither can know what the other gives back."""
    for place in places:
        for first, second in combinations(place.around, 2):
            for name in first.access.restores:
                if any(overlaps(name, other) for other in second.access.restores):
                    told = f"{first.hook.name} and {second.hook.name} both restore {name!r} around {place.path!r}."
                    ways = "Remove one, or put one of them around a slot inside or outside of that one."
                    yield Finding("error", "clashing pairs", (first.path, second.path), f"{told} {ways}")


def order_finding(conflict: Conflict, side: str, place: Place) -> Finding:
    """What to say of hooks that have no order."""
    hooks = conflict.hooks
    paths = tuple(f"{place.path}:{side}:{hook}" for hook in hooks)
    if conflict.kind == "cycle":
        shown = " -> ".join((*hooks, hooks[0]))
        whys = "; ".join(f"{edge.first.rpartition(':')[2]} {edge.reason}" for edge in conflict.edges)
        told = f"Hooks {side} {place.path!r} wait for each other: {shown} ({whys}). "
        told += "Take back one of these orders, or declare the order that you want by a tuple in callbacks=."
        return Finding("error", "cycle", paths, told)
    told = f"{hooks[0]} and {hooks[1]} both write {conflict.name!r} {side} {place.path!r} and have no order. "
    told += f"Put their callbacks into a tuple, callbacks=[({', '.join(conflict.callbacks)})], "
    told += "give one runs_before=, or remove one."
    return Finding("error", "unordered writers", paths, told)


def restored_and_written(places: list[Place]) -> Iterator[Finding]:
    """Who declares of one part that it gives it back and that it is there to change it."""
    for path, access in actors(places):
        for name in access.restores:
            written = next((other for other in access.writes if overlaps(name, other)), None)
            if written is not None:
                told = (
                    f"{path} restores {name!r} and writes {written!r}: it cannot both give a part back and change it."
                )
                ways = "Keep `writes` if it is another one afterwards, `restores` if only in between."
                yield Finding("error", "restored and written", (path,), f"{told} {ways}")


def updates_without_window(places: list[Place]) -> Iterator[Finding]:
    """Phases whose rounds are updates, and in which nothing counts the batches that a stage in them is told by."""
    for place in places:
        if place.kind != "stage" or not isinstance(place.stage, Phase) or place.stage.each == "batch":
            continue
        below = [one for child in place.children.values() for one in child.walk() if one.kind == "stage"]
        is_counted = any(one.counts[0] == "batch_index" for one in below)
        if not is_counted and any("batch_index" in one.access.reads for one in below):
            each, kind = place.stage.each, type(place.stage).__name__
            told = f"{place.path} has each={each!r}, and no stage in it has batches for its rounds, as a Window has."
            ways = f"Write {kind}(ClearGradients(), Window(4, Fetch(), FitBatch(...)), AverageGradients(), Update(), "
            ways += (
                f"each={each!r}), or leave each={each!r} out: then each round is a batch, and updates are counted all "
            )
            yield Finding("error", "update without window", (place.path,), f"{told} {ways}the same.")


def unsafe_actors(places: list[Place]) -> Iterator[Finding]:
    """Who may change everything, undeclared; of an unsafe composite, it alone and not all that it holds."""
    told = "is unsafe: it may read and change everything. Nothing that it does is checked."
    all_told = "is unsafe: all that runs inside may read and change everything. Nothing of it is checked."
    for place in places:
        if place.parent is None or not place.parent.access.unsafe:
            if place.access.unsafe:
                which = all_told if place.is_composite else told
                yield Finding("warning", "unsafe actor", (place.path,), f"{place.path} {which}")
            for hung in place.hooks:
                if hung.access.unsafe:
                    yield Finding("warning", "unsafe actor", (hung.path,), f"{hung.path} {told}")


def unknown_binds(places: list[Place]) -> Iterator[Finding]:
    """Names that `bind` gives to a stage or callback that does not use them: a slip, most likely."""
    bound: dict[int, tuple[object, str, set[str]]] = {}
    for place in places:
        if place.kind == "stage" and names_of(place.stage):
            used = {name for one in place.walk() if one.kind == "stage" for name in one.contract.fields}
            bound.setdefault(id(place.stage), (place.stage, place.path, set()))[2].update(used)
        for hung in place.hooks:
            callback = hung.hook.callback
            if names_of(callback) and not hung.hook.observes:
                contract = replace(hung.hook.contract, access=filled(hung.hook.contract.access, place))
                used = {*contract.fields, *callback.fields()}
                bound.setdefault(id(callback), (callback, hung.path, set()))[2].update(used)
    for thing, path, used in bound.values():
        for own, other in names_of(thing).items():
            if own not in used:
                told = f"{path}: bind({own}={other!r}) names a field that {type(thing).__name__} does not use."
                near = suggestion(nearest(own, used))
                yield Finding("error", "unknown field", (path,), f"{told}{near} It uses {sorted(used - {'*'})}.")


def _steady(places: list[Place]) -> set[str]:
    """Who acts in every round of the loop that these places are in: in no loop below it, and not only sometimes."""
    found = set()
    inner: set[int] = set()
    for place in places:
        is_inner = place.parent is not None and id(place.parent) in inner
        if is_inner or place.each is not None or place.runs.startswith("0"):
            inner.add(id(place))
        if not is_inner:
            found |= {place.path} | {hung.path for hung in place.hooks if not hung.hook.is_thinned}
    return found


def _trained(state: State | None, optimizer: Optimizer) -> list[str]:
    """What an optimizer has to train, as "model.params.0.weight"."""
    own = set(map(id, optimized(optimizer)))
    found = trained({} if state is None else state.components(nn.Module))
    return [f"{field}.params.{name}" for field, name, parameter in found if id(parameter) in own]


def _is_kind(annotation: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a field holds this kind of component, by its annotation."""
    return isinstance(annotation, type) and issubclass(annotation, kind)


def _means(rule: str, name: str, names: Mapping[str, FieldSpec]) -> bool:
    """Whether a name in `forbids`, which may be `*.params`, means what is written; no field without such a part."""
    spelt = name.partition(".")[0] + rule[1:] if rule.startswith("*.") else rule
    return overlaps(spelt, name) and (spelt == rule or spelt in names)
