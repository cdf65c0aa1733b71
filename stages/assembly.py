"""Assembly: a tree, its hooks and their schema put together and checked, before anything runs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from stages.callbacks import Hook
from stages.check import Finding, Severity, check_names, check_readiness, check_unused, order_finding
from stages.contract import Contract
from stages.errors import DeclarationError, GraphError, UnknownSlot
from stages.order import Edge, solve
from stages.phases import Phase
from stages.place import ROOT, HookPlace, Place, filled, lay_out, matches
from stages.stage import Stage
from state.access import Access
from state.errors import SchemaError, nearest, suggestion
from state.fields import MISSING, FieldSpec
from state.parts import is_saveable
from state.schema import Brought, compose, vocabulary
from state.scopes import SCOPES
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
    findings = list(_hang(hooks, places))
    composed, conflicts, left_out = _composed(_classes(schema, places, hooks), list(_brought(places, findings)))
    findings += conflicts
    names = {**{name: spec for cls in left_out for name, spec in cls.specs.items()}, **vocabulary(composed, state)}
    for place in places:
        place.access = _spelt_out(place.access, names)
        for hung in (*place.before, *place.after):
            hung.access = _spelt_out(hung.access, names)
    edges = []
    for place in places:
        for side in ("before", "after"):
            standing = getattr(place, side)
            if len(standing) > 1:
                ordered, reasons, unordered = solve(standing)
                setattr(place, side, ordered)
                edges.extend(reasons)
                findings.extend(order_finding(conflict, side, place) for conflict in unordered)
    findings.extend(check_names(places, names, _unplaced(hooks, places)))
    findings.extend(check_readiness(top, places, composed, names, _given(composed, state).union(given)))
    findings.extend(_endless(places))
    findings.extend(_unsaveable(composed))
    findings.extend(_unopened(composed, places))
    findings.extend(check_unused(places, names))
    findings.sort(key=lambda finding: ("error", "warning", "note").index(finding.severity))
    return Assembly(top, tuple(places), tuple(hooks), composed, names, tuple(findings), tuple(edges))


def _composed(
    classes: list[tuple[str, type[State]]], brought: list[tuple[str, Brought]]
) -> tuple[type[State], list[Finding], list[type[State]]]:
    """The schema; where it has conflicts, the one without those who cause them, and a finding for each of these.

    So that one conflict does not hide what else is wrong. The classes that were left out come last.
    """
    try:
        return compose(classes, brought), [], []
    except SchemaError:
        pass
    kept, left_out = classes[:1], []
    fitting: list[tuple[str, Brought]] = []
    found: list[Finding] = []
    for who, cls in classes[1:]:
        try:
            compose([*kept, (who, cls)])
            kept.append((who, cls))
        except SchemaError as error:
            found.append(Finding("error", "schema conflict", (who,), str(error)))
            left_out.append(cls)
    for who, fields in brought:
        for name, given in fields.items():
            try:
                compose(kept, [*fitting, (who, {name: given})])
                fitting.append((who, {name: given}))
            except SchemaError as error:
                found.append(Finding("error", "schema conflict", (who,), str(error)))
    return compose(kept, fitting), found, left_out


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
        meant -= {id(hung.hook.callback) for place in new.places for hung in (*place.before, *place.after)}
    found = []
    for place in old.places:
        for hung in (*place.before, *place.after):
            if place.path not in paths and id(hung.hook.callback) in meant:
                told = f"{hung.hook.name} stands at {place.path!r}, which {edit!r} takes away."
                ways = f"List inline=({place.slot!r},) in the new stage and enter it there, or remove the hook first."
                found.append(Finding("error", "orphaned hook", (hung.path,), f"{told} {ways}"))
    if found:
        errors = [finding for finding in new.findings if finding.severity == "error"]
        raise GraphError([*found, *(finding for finding in errors if finding.kind != "unmatched target")])


def _hang(hooks: list[Hook], places: list[Place]) -> Iterator[Finding]:
    """Put every hook to the places its target names; a finding for each that matches none."""
    by_slot: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_slot[place.slot].append(place)
    known: dict[str | type, list[Place]] = {}
    for hook in hooks:
        target, within = hook.point.target, hook.point.options.get("within")
        if target not in known:
            last = target.rpartition("/")[2] if isinstance(target, str) else "*"
            nearby = places[:1] if target == ROOT else places if "*" in last else by_slot.get(last, [])
            known[target] = [place for place in nearby if matches(place, target, None)]
        found = [place for place in known[target] if within is None or matches(place, target, within)]
        if not found:
            yield Finding("error", "unmatched target", (hook.name,), _unmatched(hook, places))
        for place in found:
            path = f"{place.path}:{hook.point.side}:{hook.name}"
            try:
                access = filled(hook.contract.access, place)
            except DeclarationError as error:
                yield Finding("error", "unmatched target", (path,), f"{hook.name}: {error}")
                continue
            getattr(place, hook.point.side).append(HookPlace(hook, path, access))


def _unplaced(hooks: list[Hook], places: list[Place]) -> Iterator[tuple[str, Access]]:
    """What hooks without a place declare of the fields of others."""
    placed = {id(hung.hook) for place in places for hung in (*place.before, *place.after)}
    for hook in hooks:
        if id(hook) not in placed:
            access, own = hook.contract.access, hook.callback.fields()
            names = [
                name for name in (*access.reads, *access.writes) if not ("{" in name or "*" in name or name in own)
            ]
            yield hook.name, Access(tuple(name for name in names if name.partition(".")[0] not in own))


def _unmatched(hook: Hook, places: list[Place]) -> str:
    target, within = hook.point.target, hook.point.options.get("within")
    if isinstance(target, type):
        return f"{hook.name} stands {hook.point.side} {target.__name__}, but the tree has no such phase."
    if any(matches(place, target, None) for place in places):
        inside = within.__name__ if isinstance(within, type) else within
        return f"{hook.name} stands {hook.point.side} {target!r} within {inside!r}, but that slot is not inside it."
    return str(UnknownSlot(target, [place.path for place in places], hook.name))


def _classes(schema: type[State], places: list[Place], hooks: list[Hook]) -> list[tuple[str, type[State]]]:
    """Who needs which State class; the user's own first."""
    classes = {schema: schema.__name__}
    for place in places:
        for cls in place.contract.classes:
            classes.setdefault(cls, place.path)
    for hook in hooks:
        for cls in hook.contract.classes:
            classes.setdefault(cls, hook.name)
    return [(who, cls) for cls, who in classes.items()]


def _brought(places: list[Place], findings: list[Finding]) -> Iterator[tuple[str, Brought]]:
    """The fields that stages and callbacks bring; names with `{phase}` once for each phase they stand in.

    Two callbacks that bring one field, which each takes for its own, go to `findings`.
    """
    shared: set[tuple[str, str]] = set()
    stages_seen: set[int] = set()
    bringers: dict[str, Hook] = {}
    for place in places:
        if place.kind == "stage" and id(place.stage) not in stages_seen:
            stages_seen.add(id(place.stage))
            if place.contract.brought:
                yield place.path, place.contract.brought
        for hung in (*place.before, *place.after):
            fields = hung.hook.callback.fields()
            word = place.phase.word if place.phase else "{phase}"
            named = {name.replace("{phase}", word): given for name, given in fields.items()}
            for name in named:
                other = bringers.setdefault(name, hung.hook)
                if other.callback is not hung.hook.callback and (other.name, hung.hook.name) not in shared:
                    shared.add((other.name, hung.hook.name))
                    told = f"{other.name} and {hung.hook.name} both bring the field {name!r}, and would share it."
                    ways = "Give one of them another name=, or remove it."
                    findings.append(Finding("error", "schema conflict", (hung.path,), f"{told} {ways}"))
            yield hung.path, {name: given for name, given in named.items() if "{" not in name}


def _spelt_out(access: Access, names: Mapping[str, FieldSpec]) -> Access:
    """`*.mode` as the mode of every component that has one."""

    spelt = {name for name in (*access.reads, *access.writes, *access.touches) if name.startswith("*.")}
    if not spelt:
        return access
    parts = {name: [known for known in names if known.count(".") == 1 and known.endswith(name[1:])] for name in spelt}

    def spell(given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(known for name in given for known in parts.get(name, [name])))

    optional = access.optional.union(*parts.values())  # whichever components there are
    reads, writes, touches = spell(access.reads), spell(access.writes), spell(access.touches)
    return replace(access, reads=reads, writes=writes, touches=touches, optional=optional)


def _given(schema: type[State], state: State | None) -> set[str]:
    """The fields that have a value before anything runs."""
    run = {name: spec for name, spec in schema.specs.items() if spec.scope == "run"}
    if state is None:
        return set(run)
    own = type(state).specs
    made = {name for name, spec in run.items() if spec.factory is not None or (name not in own and _has_default(spec))}
    return made | {name for name in run if name in state.__dict__}


def _endless(places: list[Place]) -> Iterator[Finding]:
    """Phases in which nothing takes a batch: their loop would never end."""
    for place in places:
        if place.kind == "stage" and type(place.stage).run is Phase.run:
            below = (child for top in place.children.values() for child in top.walk())
            if not any("batches" in child.access.reads for child in below if child.kind == "stage"):
                told = f"{place.path} would never end: no stage in it takes the next of 'batches'."
                ways = "Put Fetch() first, or derive a phase with a run of its own."
                yield Finding("error", "endless loop", (place.path,), f"{told} {ways}")


def _unopened(schema: type[State], places: list[Place]) -> Iterator[Finding]:
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


def _unsaveable(schema: type[State]) -> Iterator[Finding]:
    """Fields that are marked as saved and cannot be."""
    for spec in schema.specs.values():
        if spec.saved == "saved" and not is_saveable(spec.annotation):
            told = f"Field {spec.name!r} of {spec.owner} is a {spec.type_text}: no plain value, tensor or component."
            ways = "Give its class state_dict and load_state_dict, or mark it field(saved='volatile', because=...)."
            yield Finding("error", "cannot be saved", (spec.owner,), f"{told} {ways}")


def _has_default(spec: FieldSpec) -> bool:
    return spec.default is not MISSING
