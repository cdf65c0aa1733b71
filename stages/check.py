"""The check: walks a tree in the order it will run and finds what cannot work, before anything runs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from stages.order import covers
from stages.place import CHECKPOINT, INLINE, HookPlace, Place
from state.access import Access
from state.errors import nearest, suggestion
from state.fields import MISSING, FieldSpec
from state.parts import RNG
from state.state import State

Severity = Literal["error", "warning", "note"]


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
    kind: str
    actors: tuple[str, ...]
    message: str


class Readiness:
    """One walk over a tree. What is ready only grows inside a loop's round, so walking a loop once is enough."""

    def __init__(self, schema: type[State], names: Mapping[str, FieldSpec], given: Iterable[str], places: list[Place]) -> None:
        self.specs = schema.specs
        self.names = names
        self.findings: dict[tuple[str, str, str], Finding] = {}
        self.ready = set(given)
        self.sometimes: set[str] = set()
        self.open: dict[str, int] = {}
        self.by_scope: dict[str, set[str]] = {}
        self.writers: dict[str, list[str]] = {}
        for spec in schema.specs.values():
            self.by_scope.setdefault(spec.scope, set()).add(spec.name)
        for path, access in actors(places):
            for name in access.writes:
                self.writers.setdefault(name, []).append(path)
        opened = {place.stage.opens for place in places} | {getattr(place.stage, "each", None) for place in places}
        grads = {name for name in names if name.count(".") == 1 and name.endswith(".grads")}
        self.by_scope.setdefault("update" if "update" in opened else "batch", set()).update(grads)
        self.written_below: dict[str, set[str]] = {}
        for place in reversed(places):
            written = self.written_below.setdefault(place.path, set())
            for access in (place.access, *(hook.access for hook in (*place.before, *place.after))):
                written.update(access.writes)
            if place.parent is not None:
                self.written_below.setdefault(place.parent.path, set()).update(written)

    def walk(self, place: Place) -> None:
        """Go through one place in the order it runs: scope, before-hooks, body, after-hooks."""
        opens = place.stage.opens if place.kind == "stage" else None
        hidden = self._open(opens) if opens else set()
        for hook in place.before:
            self._act(hook)
        if place.kind == "stage":
            self._body(place)
        elif place.kind == INLINE:
            self.ready.update(place.access.writes)
        for hook in place.after:
            self._act(hook)
        if opens:
            self._close(opens, hidden)

    def _body(self, place: Place) -> None:
        below = self.written_below[place.path] if place.children else set()
        self._reads(place.path, place.access, below)
        self.ready.update(name for name in place.access.writes if name in self.names)
        if not place.children:
            return
        runs = getattr(place.stage, "runs", "1")
        before = (set(self.ready), set(self.sometimes))
        each = getattr(place.stage, "each", None)
        hidden = self._open(each) if each else set()
        self.ready.update(name for name in getattr(place.stage, "counts", ()) if name in self.specs)
        for child in place.children.values():
            if child.kind != CHECKPOINT:
                self.walk(child)
        if each:
            self._close(each, hidden)
        if CHECKPOINT in place.children:
            self.walk(place.children[CHECKPOINT])
        if runs.startswith("0"):
            self.sometimes = (self.sometimes | (self.ready - before[0])) & (self.ready | self.sometimes)
            self.ready &= before[0]

    def _act(self, place: HookPlace) -> None:
        self._reads(place.path, place.access, set())
        written = {name for name in place.access.writes if name in self.names}
        if place.hook.is_thinned:
            self.sometimes |= written - self.ready
        else:
            self.ready |= written
            self.sometimes -= written

    def _reads(self, path: str, access: Access, below: set[str]) -> None:
        for name in access.reads:
            if name in access.optional or name not in self.names or self._has(name) or name in below:
                continue
            self._find(path, name)

    def _has(self, name: str) -> bool:
        """A field that is ready; a part if its field is, except gradients, which somebody must have written."""
        owner, _, part = name.partition(".")
        if part.partition(".")[0] == "grads":
            return name in self.ready
        return owner in self.ready or owner == RNG

    def _find(self, path: str, name: str) -> None:
        owner = self.names[name]
        writers = self.writers.get(name, [])
        told = ""
        if name in self.sometimes or owner.name in self.sometimes:
            kind = "written sometimes"
            told = f"which {_list(writers)} writes only sometimes. Hook it after that writer, "
            told += f"give the field a default, or read {name + '?'!r}."
        elif not writers:
            kind = "missing producer"
            told = f"which nobody in this tree writes and State was not given. {self._how(owner)}"
        elif all(_around(writer, path) for writer in writers):
            kind = "read before write"
            told = f"which only {_list(writers)} writes, later. Put the reader after it."
        elif not self.open.get(owner.scope, 0) and owner.scope != "run" and "." not in name:
            kind = "stale read"
            told = f"whose scope {owner.scope!r} is closed there; {_list(writers)} writes it. Read it inside that scope, "
            told += f"or write what you need to a field of a wider scope there, or read {name + '?'!r}."
        else:
            kind = "read before write"
            told = f"before {_list(writers)} writes it. Put the reader after it, or give the field a default."
        message = f"{path} reads {name!r}, {told}" if "which" in told or "whose" in told else f"{path} reads {name!r} {told}"
        self.findings[kind, path, name] = Finding("error", kind, (path, *writers), message)

    def _how(self, spec: FieldSpec) -> str:
        near = nearest(spec.name, (name for name in self.writers if name != spec.name))
        if spec.scope == "run":
            return f"Pass {spec.name}= to the State, or give the field a default."
        return f"Put a stage that writes {spec.name!r} before it.{suggestion(near)}"

    def _open(self, scope: str) -> set[str]:
        names = self.by_scope.get(scope, set())
        self.open[scope] = self.open.get(scope, 0) + 1
        hidden = names & self.ready
        self.ready -= names
        self.sometimes -= names
        specs = (self.specs[name] for name in names if name in self.specs)
        self.ready.update(spec.name for spec in specs if spec.default is not MISSING or spec.factory is not None)
        return hidden

    def _close(self, scope: str, hidden: set[str]) -> None:
        names = self.by_scope.get(scope, set())
        self.open[scope] -= 1
        self.ready -= names
        self.sometimes -= names
        if self.open[scope]:
            self.ready |= hidden


def check_readiness(
    root: Place, places: list[Place], schema: type[State], names: Mapping[str, FieldSpec], given: Iterable[str]
) -> list[Finding]:
    """Reads of what is not there: before it is written, after its scope closed, written only sometimes, or by nobody."""
    walk = Readiness(schema, names, given, places)
    walk.walk(root)
    return list(walk.findings.values())


def check_names(places: list[Place], names: Mapping[str, FieldSpec]) -> list[Finding]:
    """Names that no field and no part has."""
    found = []
    for path, access in actors(places):
        for name in (*access.reads, *access.writes, *access.touches):
            if name not in names and not is_below_a_part(name, names):
                near = suggestion(nearest(name, names))
                told = f"declares {name!r}, but State has no such field.{near}"
                more = "" if near else " Bring it by the State class that `state` is annotated with, or by fields()."
                found.append(Finding("error", "unknown field", (path,), f"{path} {told}{more}"))
    return found


def check_unused(places: list[Place], names: Mapping[str, FieldSpec], schema: type[State]) -> list[Finding]:
    """Fields that are written and never read; history and observers count as readers of run and epoch scopes."""
    if any(access.observer for _, access in actors(places)):
        return []
    reads = {name for _, access in actors(places) for name in access.reads}
    found = []
    for path, access in actors(places):
        for name in access.field_writes:
            spec = names.get(name)
            short_lived = spec is not None and spec.scope not in ("run", "epoch")
            if short_lived and not any(covers(name, read) or covers(read, name) for read in reads):
                found.append(Finding("note", "never read", (path,), f"{path} writes {name!r}, which nobody reads."))
    return found


def actors(places: Iterable[Place]) -> Iterator[tuple[str, Access]]:
    """Every stage and hook of a tree with its access, in the order they run."""
    for place in places:
        for hook in place.before:
            yield hook.path, hook.access
        if place.kind == "stage":
            yield place.path, place.access
        for hook in place.after:
            yield hook.path, hook.access


def is_below_a_part(name: str, names: Mapping[str, FieldSpec]) -> bool:
    """Whether `name` is spelt below a part that exists: `optimizer.hyper.lr`, `model.params.0.weight`."""
    owner, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    return "." in rest and f"{owner}.{part}" in names


def _around(writer: str, reader: str) -> bool:
    """Whether both stand under the same parent, so that their order is the whole story."""
    return writer.rpartition("/")[0] == reader.partition(":")[0].rpartition("/")[0]


def _list(paths: list[str]) -> str:
    if len(paths) <= 2:
        return " and ".join(paths)
    return f"{paths[0]}, {paths[1]} and {len(paths) - 2} more"
