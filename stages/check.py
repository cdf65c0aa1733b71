"""The check: walks a tree in the order it will run and finds what cannot work, before anything runs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from stages.control import When
from stages.finding import Finding, Kind
from stages.place import CHECKPOINT, HookPlace, Place
from stages.spoiling import Spoiling
from state.access import Access
from state.errors import nearest, suggestion
from state.fields import MISSING, FieldSpec
from state.parts import RNG
from state.scopes import RUN
from state.state import State


class Readiness:
    """One walk over a tree: what has a value at each point, and who reads what has none.

    A loop is walked a second time if its round ended with less than it began with.
    """

    def __init__(
        self, places: Iterable[Place], schema: type[State], names: Mapping[str, FieldSpec], given: Iterable[str]
    ) -> None:
        self.specs = schema.specs
        self.names = names
        self.scope_of = scopes_of(places, names)
        self.in_scope: dict[str, set[str]] = defaultdict(set)
        for name, scope in self.scope_of.items():
            self.in_scope[scope].add(name)
        self.writers = writers_of(places)
        self.ready = set(given)
        self.sometimes: set[str] = set()
        self.spoiling = Spoiling()
        self.openers: dict[str, list[str]] = defaultdict(list)
        self.acted: set[str] = set()
        self.starving: set[tuple[str, str]] = set()  # who reads what it does not find
        self.faults: dict[tuple[Kind, str, str], list[str]] = defaultdict(list)

    @property
    def findings(self) -> list[Finding]:
        """One finding for each fault, with all its readers."""
        return [
            Finding(
                "error",
                kind,
                tuple(dict.fromkeys((*paths, *self.spoiling.spoilers[name], *self.writers.get(name, ())))),
                f"{_list(paths)} {_verb('read', paths)} {name!r}, {told}",
            )
            for (kind, told, name), paths in self.faults.items()
        ]

    def walk(self, place: Place) -> None:
        """Go through one place in the order it runs: scope, before-hooks, body, after-hooks."""
        opens = place.opens
        hidden = self._open(opens, place.path)
        for hook in place.before:
            self._hook(hook)
        for hook in place.around:
            self._read(hook.path, hook.access)
        if place.kind == "stage":
            self._body(place)
        for hook in (*reversed(place.around), *place.after):
            self._hook(hook)
        self._close(opens, hidden)

    def _body(self, place: Place) -> None:
        self._read(place.path, place.access, below=None if isinstance(place.stage, When) else place)
        written = self._write(place.path, place.access)
        in_rounds = written & self.in_scope[place.each or ""]
        self.ready |= written - in_rounds
        self.ready -= self.spoiling.spoil(place.path, place.access)
        self.acted.add(place.path)
        if not place.children:
            return
        runs, before, lost = place.runs, set(self.ready), self.spoiling.lost(self.ready)
        self._round(place, in_rounds)
        if runs.endswith("+") and not (before <= self.ready and self.spoiling.lost(self.ready) <= lost):
            self._round(place, in_rounds)
        if runs.startswith("0"):
            self.sometimes |= self.ready - before
            self.ready &= before

    def _round(self, place: Place, in_rounds: set[str]) -> None:
        """What a stage holds, once, in the scope of its rounds, with what it writes there itself."""
        hidden = self._open(place.each, place.path)
        self.ready |= in_rounds.union(name for name in place.counts if name is not None and name in self.specs)
        for child in place.children.values():
            if child.kind != CHECKPOINT:
                self.walk(child)
        self._close(place.each, hidden)
        if CHECKPOINT in place.children:
            self.walk(place.children[CHECKPOINT])

    def _hook(self, hook: HookPlace) -> None:
        self._read(hook.path, hook.access)
        written = self._write(hook.path, hook.access)
        if hook.hook.is_thinned:
            self.sometimes |= written - self.ready
        else:
            self.ready |= written
        self.acted.add(hook.path)

    def _write(self, path: str, access: Access) -> set[str]:
        """What an actor writes; what tells of something that it spoils thereby is not ready any more."""
        written = {key_of(name) for name in access.writes}
        self.ready -= self.spoiling.touch(path, access, written, self.ready, self._later)
        return written

    def _later(self, name: str) -> list[str]:
        """Who writes it after what has run, where that can be seen."""
        scope = self.scope_of.get(name, RUN)
        return [one for one in self.writers.get(name, ()) if one not in self.acted and self._shares(one, scope)]

    def _read(self, path: str, access: Access, below: Place | None = None) -> None:
        """Note what an actor uses and does not find; `below` a composite, its stages may provide it."""
        for declared in (*access.reads, *access.part_writes):
            name = key_of(declared)
            owner = name.partition(".")[0]
            spoilt = name in access.spoils and path in self.acted  # itself, in the round before
            if access.may_lack(declared, name in self.sometimes) or name not in self.names or owner == RNG or spoilt:
                continue
            is_asked = (name.endswith(".grads") or name in self.spoiling.why) and declared in access.reads
            needed = owner if owner not in self.ready else name if is_asked and name not in self.ready else ""
            is_new = needed and (path, needed) not in self.starving
            if is_new and not (below is not None and _writes_below(below, needed)):
                self.starving.add((path, needed))
                self.faults[(*self._why(path, needed), needed)].append(path)

    def _why(self, path: str, name: str) -> tuple[Kind, str]:
        """The kind of fault that `path` finds no value in `name`, and the rest of the sentence that says so."""
        scope, writers = self.scope_of.get(name, RUN), self.writers.get(name, [])
        default = "write it before that, " if "." in name else "give the field a default, "
        if name in self.spoiling.why and name not in self.sometimes:
            anew = [writer for writer in self._later(name) if writer != path]
            return "read before write", self.spoiling.text(name, anew)
        if not writers:
            others = (
                other for other, by in self.writers.items() if by != [path] and other.count(".") == name.count(".")
            )
            near = suggestion(nearest(name, others))
            if scope == RUN:
                told = "which State was not given and nobody writes."
                return "missing producer", f"{told} Pass {name}= to the State.{near}"
            told = "which nobody in this tree writes."
            return "missing producer", f"{told} Put a stage or hook before it that does.{near}"
        if name in self.sometimes:
            who = _list([writer for writer in writers if writer in self.acted])
            told = f"which {who} may not have written by then: it runs only sometimes. "
            return "written sometimes", told + f"Hook the reader after that writer, {default}or read {name + '?'!r}."
        later = self._later(name)
        if path in later and name.endswith(".grads"):
            told = "which nobody has cleared before: gradients of earlier batches would add up."
            return "read before write", f"{told} Put ClearGradients() first."
        if later == [path]:
            told = "which it writes itself, but only afterwards."
            return "read before write", f"{told} {default.capitalize()}or read {name + '?'!r}."
        if later:
            told = f"which {_list(later)} {_verb('write', later)} only afterwards. Put the reader after that, "
            return "read before write", told + f"{default}or read {name + '?'!r}."
        if not self.openers[scope] and writers == [path]:
            told = f"which only it writes, in a scope {scope!r} that is not open there."
            return "missing producer", told + " Give it a value first, or put a stage that writes it before."
        if not self.openers[scope]:
            told = f"but {_list(writers)} {_verb('write', writers)} it in a scope {scope!r}, which is not open there. "
            told += "Read it inside the scope, keep what you need in a field of a wider one, "
        elif self.acted.isdisjoint(writers):
            told = f"which nobody writes in this {scope!r}, only {_list(writers)} in another one. "
            return "missing producer", told + "Put a stage or hook before it that does."
        else:
            told = (
                f"but {_list(writers)} {_verb('write', writers)} it in another {scope!r}, with which the value ended. "
            )
            told += "Write it in this one too, keep what you need in a field of a wider scope, "
        return "stale read", told + f"or read {name + '?'!r}."

    def _shares(self, writer: str, scope: str) -> bool:
        """Whether what `writer` writes can be seen in the scope that is open now."""
        if scope == RUN:
            return True
        return bool(self.openers[scope]) and f"{writer}/".startswith(
            (f"{self.openers[scope][-1]}/", f"{self.openers[scope][-1]}:")
        )

    def _open(self, scope: str | None, path: str) -> tuple[set[str], set[str]]:
        """Open a scope, if there is one; the answer is for `_close`: what it hides."""
        if scope is None:
            return set(), set()
        self.openers[scope].append(path)
        names = self.in_scope[scope]
        hidden = (names & self.ready, names & self.sometimes)
        self.ready -= names
        self.sometimes -= names
        specs = (self.specs[name] for name in names if name in self.specs)
        self.ready.update(spec.name for spec in specs if spec.default is not MISSING or spec.factory is not None)
        return hidden

    def _close(self, scope: str | None, hidden: tuple[set[str], set[str]]) -> None:
        if scope is None:
            return
        self.openers[scope].pop()
        self.spoiling.forget(self.in_scope[scope])
        self.ready -= self.in_scope[scope]
        self.sometimes -= self.in_scope[scope]
        if self.openers[scope]:
            self.ready |= hidden[0]
            self.sometimes |= hidden[1]


def check_readiness(
    root: Place, places: list[Place], schema: type[State], names: Mapping[str, FieldSpec], given: Iterable[str]
) -> list[Finding]:
    """Reads of what is not there: written later, in a scope that has closed, only sometimes, or by nobody."""
    walk = Readiness(places, schema, names, given)
    walk.walk(root)
    return walk.findings


def check_names(
    places: list[Place], names: Mapping[str, FieldSpec], unplaced: Iterable[tuple[str, Access]] = ()
) -> list[Finding]:
    """Names that no field and no part has, each with who declares it, and the nearest name that somebody writes.

    `unplaced` are actors that stand nowhere, so that their other faults are found at once too.
    """
    unknown: dict[str, list[str]] = defaultdict(list)
    written: set[str] = set()
    everyone = [*actors(places), *unplaced]
    for path, access in everyone:
        written.update(name for name in access.writes if key_of(name) in names)
        for name in access.names:
            if key_of(name) not in names:
                unknown[name].append(path)
    found = []
    for name, paths in unknown.items():
        others = {written for path, access in everyone if path not in paths for written in access.writes}
        own = {written for path, access in everyone if path in paths for written in access.writes} - others
        near = suggestion(nearest(name, written - own) or nearest(name, names.keys() - own))
        told = "Bring it by the State class that annotates `state`, by fields(), or by the callback that writes it."
        message = f"{_list(paths)} {_verb('declare', paths)} {name!r}, but State has no such field.{near} {told}"
        found.append(Finding("error", "unknown field", tuple(paths), message))
    return found


def check_unused(places: list[Place], names: Mapping[str, FieldSpec]) -> list[Finding]:
    """Fields that are written and never read; history and observers count as readers of run and epoch scopes."""
    everyone = list(actors(places))
    if any(access.observer for _, access in everyone):
        return []
    read = {name for _, access in everyone for name in access.readable}
    unused: dict[str, list[str]] = defaultdict(list)
    for path, access in everyone:
        for name in access.field_writes:
            if name in names and names[name].scope not in (RUN, "epoch") and name not in read:
                unused[name].append(path)
    return [
        Finding(
            "note", "never read", tuple(paths), f"{_list(paths)} {_verb('write', paths)} {name!r}, which nobody reads."
        )
        for name, paths in unused.items()
    ]


def actors(places: Iterable[Place]) -> Iterator[tuple[str, Access]]:
    """Every stage and hook with its access, in the order they run. `places` are in the order of `Place.walk`."""
    entered: list[Place] = []
    for place in places:
        while entered and entered[-1] is not place.parent:
            yield from ((hook.path, hook.access) for hook in entered.pop().after)
        yield from ((hook.path, hook.access) for hook in (*place.before, *place.around))
        if place.kind == "stage":
            yield place.path, place.access
        entered.append(place)
    while entered:
        yield from ((hook.path, hook.access) for hook in entered.pop().after)


def writers_of(places: Iterable[Place]) -> dict[str, list[str]]:
    """Who writes each field and part, in the order they run."""
    writers: dict[str, list[str]] = defaultdict(list)
    for path, access in actors(places):
        for name in dict.fromkeys(map(key_of, access.writes)):
            writers[name].append(path)
    return dict(writers)


def scopes_of(places: Iterable[Place], names: Mapping[str, FieldSpec]) -> dict[str, str]:
    """The scope of each name. Gradients end with the update."""
    update = "update" if updates_open(places) else "batch"
    scopes = {name: "update" if name.endswith(".grads") else spec.scope for name, spec in names.items()}
    return {name: update if scope == "update" else scope for name, scope in scopes.items()}


def updates_open(places: Iterable[Place]) -> bool:
    """Whether something opens the scope "update"; else what has this scope ends with the batch."""
    return any("update" in (place.opens, place.each) for place in places)


def key_of(name: str) -> str:
    """A field, or a part: what `optimizer.hyper.lr` and `model.params.0.weight` are below."""
    return name if name.count(".") < 2 else ".".join(name.split(".")[:2])


def _writes_below(place: Place, name: str) -> bool:
    """Whether a stage or hook below `place` writes `name`."""
    below = (child for top in place.children.values() for child in top.walk())
    return any(name == key_of(written) for _, access in actors(below) for written in access.writes)


def _verb(verb: str, paths: list[str]) -> str:
    return verb if len(paths) > 1 else f"{verb}s"


def _list(paths: list[str]) -> str:
    if len(paths) <= 2:
        return " and ".join(paths)
    return f"{paths[0]}, {paths[1]} and {len(paths) - 2} more"
