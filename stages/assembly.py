"""Assembly: a tree, its hooks and their schema put together and checked, before anything runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stages.callbacks import Hook
from stages.check import check_names, check_readiness, check_unused
from stages.composing import brought_of, classes_of, composed, freed, given_fields, spelt_out
from stages.contract import Contract
from stages.errors import GraphError
from stages.finding import Finding, located
from stages.hanging import hang, unplaced
from stages.order import Edge, solve
from stages.place import Place, lay_out
from stages.rules import (
    clashing_pairs,
    endless_loops,
    forbidden_updates,
    forbidden_writes,
    inside_themselves,
    order_finding,
    restored_and_written,
    rounds_never_opened,
    schedules_before_updates,
    unknown_binds,
    unknown_forbids,
    unopened_scopes,
    unsafe_actors,
    unsaveable_fields,
    updates_without_window,
    windows_without_update,
)
from stages.stage import Stage
from state.fields import FieldSpec
from state.schema import vocabulary
from state.state import State


@dataclass(frozen=True)
class Assembly:
    """A tree that has been put together: what `Runner` runs and `graph_of` draws.

    Attributes:
        root: the top place; the others hang below it.
        places: all of them, in the order they run.
        hooks: the hooks that stand in it.
        schema: the State class with the fields of all actors.
        names: every name an actor may declare, with its field.
        findings: what the check found, errors first.
        edges: why hooks of one point stand in the order they do.
    """

    root: Place
    places: tuple[Place, ...]
    hooks: tuple[Hook, ...]
    schema: type[State]
    names: Mapping[str, FieldSpec]
    findings: tuple[Finding, ...]
    edges: tuple[Edge, ...]

    def require_sound(self) -> None:
        """Raise all errors that were found together.

        Raises:
            GraphError: there are some.
        """
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if errors:
            raise GraphError(errors)


def assemble(
    root: Stage, hooks: Iterable[Hook], schema: type[State], state: State | None = None, given: Iterable[str] = ()
) -> Assembly:
    """Put a tree, hooks and the schema together, and check them.

    Args:
        root: the tree.
        hooks: in the order of registration.
        schema: the user's State class.
        state: the State it will run on, if there is one: its values are what is given. Nothing in it changes.
        given: names of fields that get a value before it runs.

    Raises:
        DeclarationError: a declaration that cannot be read at all.
    """
    contracts: dict[int, Contract] = {}
    top = lay_out(root, contracts)
    places = list(top.walk())
    hooks = list(hooks)
    findings = [*inside_themselves(places), *hang(hooks, places)]
    classes = classes_of(schema, places, hooks)
    made, conflicts, left_out = composed(classes, list(brought_of(places, classes, findings)))
    findings += conflicts
    names = {**{name: spec for cls in left_out for name, spec in cls.specs.items()}, **vocabulary(made, state)}
    for place in places:  # those above come first
        is_freed = place.parent is not None and place.parent.access.unsafe
        place.access = freed(spelt_out(place.access, names), is_freed)
        for hung in place.hooks:
            hung.access = freed(spelt_out(hung.access, names), is_freed)
    edges = []
    for place in places:
        for side in ("before", "around", "after"):
            standing = getattr(place, side)
            if len(standing) > 1:
                ordered, reasons, unordered = solve(standing)
                setattr(place, side, ordered)
                edges.extend(reasons)
                findings.extend(order_finding(conflict, side, place) for conflict in unordered)
    findings.extend(check_names(places, names, unplaced(hooks, places)))
    findings.extend(updates_without_window(places))
    findings.extend(check_readiness(top, places, made, names, given_fields(made, state).union(given)))
    findings.extend(endless_loops(places))
    findings.extend(unsaveable_fields(made))
    findings.extend(unopened_scopes(made, places))
    findings.extend(unknown_forbids(places, names))
    findings.extend(forbidden_writes(places, names))
    findings.extend(forbidden_updates(places, names, state))
    findings.extend(schedules_before_updates(places, made, state))
    for rule in (
        clashing_pairs,
        restored_and_written,
        rounds_never_opened,
        unknown_binds,
        unsafe_actors,
        windows_without_update,
    ):
        findings.extend(rule(places))
    findings.extend(check_unused(places, names))
    findings = located(findings, places)
    findings.sort(key=lambda finding: ("error", "warning", "note").index(finding.severity))
    return Assembly(top, tuple(places), tuple(hooks), made, names, tuple(findings), tuple(edges))


def refuse_orphans(
    old: Assembly, new: Assembly, edit: str, callbacks: Iterable[object], *, may_lose_places: bool = False
) -> None:
    """Refuse an edit that takes a place away from under a hook.

    Args:
        edit: what is done, for the message.
        callbacks: whose hooks are meant.
        may_lose_places: it is enough that a hook still stands somewhere.

    Raises:
        GraphError: a hook stood at a place that the new tree has not; with all else that keeps it from being built.
    """
    paths = {place.path for place in new.places}
    meant = set(map(id, callbacks))
    if may_lose_places:
        meant -= {id(hung.hook.callback) for place in new.places for hung in place.hooks}
    found = []
    for place in old.places:
        for hung in place.hooks:
            if place.path not in paths and id(hung.hook.callback) in meant:
                told = f"{hung.hook.name} stands at {place.path!r}, which {edit!r} takes away."
                ways = f"List inline=({place.slot!r},) in the new stage and enter it there, or remove the hook first."
                found.append(Finding("error", "orphaned hook", (hung.path,), f"{told} {ways}"))
    if found:
        errors = [finding for finding in new.findings if finding.severity == "error"]
        raise GraphError([*found, *(finding for finding in errors if finding.kind != "unmatched target")])
