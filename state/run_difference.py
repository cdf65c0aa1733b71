"""Where two runs part: in what they start from, in who acts, or in the first value that differs."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any, Literal

from state.changes import AS_WRITTEN, Change
from state.parts import RNG
from state.records import NamedSlot, Record, Records
from state.side_by_side import Pair, unlike
from state.sqlite import SqliteStore
from state.statistics import Summary

Kind = Literal["none", "start", "structure", "order", "value", "length"]

SETUP = "setup"
_RESERVED = (SETUP, "user", "external")

GRAPHS = (
    "Values were compared, and not the graphs behind them: look also at who made what a backward pass goes back to."
)
"""What is added where gradients are the first to differ."""

EDITS = "tree"
"""The field that edits of a tree are recorded as."""

TOLD_BY_PLACE = ("epoch", "batch_index", "updates")
"""Fields whose value the position tells."""

_TENSOR = re.compile(r"[a-z]+[0-9]*\[")
"""How the text of a tensor begins: "float32[8, 4]"."""

_END = 2**62
"""After the last record of any run."""


@dataclass(frozen=True)
class RunDifference:
    """The first thing in which two runs differ, in the order in which they ran.

    Attributes:
        kind: "start": what they start from, parameters first; "structure": stages, hooks or fields; "order": who writes
            what next; "value": a value; "length": one of them ends earlier; "none".
        told: what differs, one line each.
        ours, theirs: the records that differ, where there are some.
        inputs: what the actor of a value that differs had read: (name, how it is known to agree).
    """

    kind: Kind
    told: tuple[str, ...] = ()
    ours: Change | None = None
    theirs: Change | None = None
    inputs: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self.kind != "none"

    def __str__(self) -> str:
        if not self:
            return "The two runs wrote the same, as far as their logs tell."
        lines = [*self.told, *(f"  its input {name} {known}" for name, known in self.inputs)]
        if self.kind == "structure" and self.ours is None:
            lines.append(
                "Up to where their rounds are not the same ones, what both wrote is, as far as their logs tell."
            )
        if self.inputs and not any("differs" in known for _, known in self.inputs):
            lines.append(f"  {AS_WRITTEN}")
            if self.ours is not None and str(self.ours.field).endswith(".grads"):
                lines.append(f"  {GRAPHS}")
        return "\n".join(lines)

    __repr__ = __str__


def starts(ours: Records, theirs: Records) -> tuple[list[str], list[str]]:
    """What the runs start from that differs, parameters first; and what their generators were seeded with, if that."""
    one, other = (_setup(records) for records in (ours, theirs))
    names = sorted({*one, *other}, key=lambda name: (not name.endswith(".params"), name))
    told = []
    for name in names:
        if name in one and name in other and not _same(one[name], other[name], 0.0):
            if name.endswith(".params"):
                told.append(f"{name}: they start from other weights ({one[name]} and {other[name]})")
            else:
                told.append(f"{name}: {_shown(one[name])} and {_shown(other[name])} at the start")
    seeds = [line for line in told if line.startswith(f"{RNG}:")]
    return [line for line in told if line not in seeds], seeds


def structures(ours: Records, theirs: Records) -> list[str]:
    """Stages, hooks and fields that only one of the runs has, and declarations that differ."""
    told = []
    sides = (_declared(ours), _declared(theirs))
    for word, index in (("stage or hook", 0), ("field", 1)):
        one, other = sides[0][index], sides[1][index]
        for name in sorted({*one, *other}):
            if name not in one or name not in other:
                told.append(f"{word} {name}: only in {'the first' if name in one else 'the second'} run")
            elif one[name] != other[name]:
                told.append(f"{word} {name}: {one[name]} in the first run, {other[name]} in the second")
    ours_set, theirs_set = _settings(ours), _settings(theirs)
    for actor in sorted(ours_set.keys() & theirs_set.keys()):
        first = ", ".join(sorted(ours_set[actor] - theirs_set[actor]))
        second = ", ".join(sorted(theirs_set[actor] - ours_set[actor]))
        if first or second:
            told.append(f"settings of {actor}: {first or 'none'} in the first run, {second or 'none'} in the second")
    edits = [[str(record.value) for record in records.read(records.writes([EDITS]))] for records in (ours, theirs)]
    if edits[0] != edits[1] and not told:  # a stage in another place, say
        shown = ("; ".join(each) or "none" for each in edits)
        told.append("edits of the tree: {} in the first run, {} in the second".format(*shown))
    return told


def first_shared(ours: Records, theirs: Records, tolerance: float) -> tuple[Record, Record] | None:
    """The first value that an actor wrote differently in the same round of both, where the trees are not the same."""
    both = {(slot.actor, slot.field) for slot in ours.slots} & {(slot.actor, slot.field) for slot in theirs.slots}
    sides = (
        (one for one in _writes(side, None) if (one.slot.actor, one.slot.field) in both) for side in (ours, theirs)
    )
    one, two = (groupby(side, key=lambda record: record.place) for side in sides)
    for (place, here), (other_place, there) in zip(one, two, strict=False):
        if place != other_place:
            return None
        written: dict[tuple[str, str | None], list[Record]] = {}
        for record in there:
            written.setdefault((record.slot.actor, record.slot.field), []).append(record)
        for record in here:
            others = written.get((record.slot.actor, record.slot.field))
            if others and not _same(record.value, (other := others.pop(0)).value, tolerance):
                return record, other
    return None


def first_value(ours: Records, theirs: Records, tolerance: float) -> tuple[Record | None, Record | None] | None:
    """The first pair of writes that tell other things, with None for a run that has no more; None if none does."""
    since = _first_round(ours, theirs, tolerance) if ours.is_whole and theirs.is_whole else (None, None)
    if since is None:
        return None
    for one, other in zip_longest(_writes(ours, since[0]), _writes(theirs, since[1])):
        if one is None or other is None or _differ(one, other, tolerance):
            return one, other
    return None


def _first_round(ours: Records, theirs: Records, tolerance: float) -> tuple[int, int] | None:
    """The numbers of the first records of two rounds that may differ. None: all tell the same, and there are as many.

    Most rounds are stored by the same text, which is quick to see.
    """
    few, many = sorted((ours.texts(), theirs.texts()), key=len)
    texts_agree = many[: len(few)] == few  # so that a number stands for the same text in both
    agree: dict[tuple[int, int], bool] = {}
    for one, other in _pairs(ours, theirs, texts_agree):
        if one is None or other is None:
            return (_END if one is None else one[0]), (_END if other is None else other[0])
        pair = one[2], other[2]
        if pair not in agree:
            agree[pair] = ours.keys_of(pair[0]) == theirs.keys_of(pair[1])
        if agree[pair] and texts_agree and one[1:2] + one[3:] == other[1:2] + other[3:]:
            continue
        rounds = [
            [record for record in records.unfolded(template, values, place) if _is_counted(record.slot)]
            for records, (_, place, template, values) in ((ours, one), (theirs, other))
        ]
        if len(rounds[0]) != len(rounds[1]) or any(_differ(a, b, tolerance) for a, b in zip(*rounds, strict=True)):
            return one[0], other[0]
    return None


def _pairs(ours: Records, theirs: Records, texts_agree: bool) -> Iterator[Pair]:
    """The rounds of both in order; of stored runs without those that are seen to tell the same."""
    one, other = ours.store, theirs.store
    if not (texts_agree and isinstance(one, SqliteStore) and isinstance(other, SqliteStore)):
        return zip_longest(one.stored(), other.stored())
    if one.count() != ours.end():  # a round is missing, since the disk was full
        return zip_longest(one.stored(), other.stored())
    their_keys = {template: theirs.keys_of(template) for template in theirs.wanted()}
    agree = {}
    for template in ours.wanted():
        keys = ours.keys_of(template)
        same = next((number for number, theirs_of in their_keys.items() if theirs_of == keys), None)
        if same is not None:
            agree[template] = same
    return unlike(one, other, agree)


def is_order(one: Record, other: Record) -> bool:
    """Whether two records differ in who wrote what where, and not in the value alone."""
    return _place(one) != _place(other)


def agreement(ours: Records, theirs: Records, one: Record, other: Record) -> list[tuple[str, str]]:
    """What the actor of a record reads, and how it is known that it was the same in the other run."""
    found = []
    for name in dict.fromkeys(part for read in ours.reads(one.slot.actor) for part in _parts_of(ours, read)):
        if name in TOLD_BY_PLACE:
            continue
        pair = [_last(records, name, record.seq) for records, record in ((ours, one), (theirs, other))]
        found.append((name, _evidence(*pair, is_full=ours.is_full and theirs.is_full)))
    return found


def _parts_of(records: Records, name: str) -> list[str]:
    """What a module has its outputs from, where the log tells of that; else the name itself."""
    parts = [part for part in (f"{name}.params", f"{name}.buffers") if part in records.fields]
    return parts if f"{name}.params" in parts else [name]


def _evidence(one: Record | None, other: Record | None, *, is_full: bool) -> str:
    if one is None or other is None:
        return "was written by nobody" if one is other else "was written in one of the runs only"
    if isinstance(one.value, Summary) and one.value.fingerprint is not None:
        return "agrees by fingerprint" if one.value == other.value else "differs by fingerprint"
    if isinstance(one.value, Summary):
        return "agrees by its numbers" if one.value == other.value else "differs by its numbers"
    if isinstance(one.value, bool | int | float):
        return "agrees by value" if _same(one.value, other.value, 0.0) else "differs by value"
    if one.slot.actor == other.slot.actor == SETUP and (one.slot.field or "").endswith(".params"):
        return "agrees by fingerprint" if one.value == other.value else "differs by fingerprint"
    if isinstance(one.value, str) and not _TENSOR.match(one.value):
        return "cannot be measured"
    return "was not measured" if is_full else "was not measured: audit='full' would tell"


def _last(records: Records, name: str, before: int) -> Record | None:
    names = {field for field in records.fields if field == name or field.startswith(f"{name}.")}
    return next(records.read(records.writes(names), before=before, backward=True), None)


def _setup(records: Records) -> dict[str, Any]:
    chosen = {number for number in records.writes(records.fields) if records.slots[number].actor == SETUP}
    return {record.slot.field or "": record.value for record in records.read(chosen)}


def _declared(records: Records) -> tuple[dict[str, str], dict[str, str]]:
    """Of each actor its code, what it reads and writes; of each field its scope."""
    actors: dict[str, dict[str, set[str]]] = {}
    code: dict[str, str] = {}
    for slot in records.slots:
        if slot.kind in ("read", "write") and slot.field and slot.actor not in _RESERVED:
            actors.setdefault(slot.actor, {}).setdefault(slot.kind, set()).add(slot.field)
            code[slot.actor] = slot.source.partition(" ")[0]
    told = {
        actor: "; ".join(
            [code[actor], *(f"{kind}s {', '.join(sorted(names))}" for kind, names in sorted(kinds.items()))]
        )
        for actor, kinds in actors.items()
    }
    fields = {slot.field: slot.scope for slot in records.slots if slot.field and slot.actor not in _RESERVED}
    return told, fields


def _settings(records: Records) -> dict[str, set[str]]:
    """The settings of each actor: "max_norm=1.0"."""
    found: dict[str, set[str]] = {}
    for slot in records.slots:
        if slot.kind == "setting":
            found.setdefault(slot.actor, set()).add(slot.evidence)
    return found


def _writes(records: Records, since: int | None) -> Iterator[Record]:
    return records.read({number for number, slot in enumerate(records.slots) if _is_counted(slot)}, since=since)


def _is_counted(slot: NamedSlot) -> bool:
    return slot.kind == "write" and slot.actor != SETUP and slot.field != EDITS


def _differ(one: Record, other: Record, tolerance: float) -> bool:
    return _place(one) != _place(other) or not _same(one.value, other.value, tolerance)


def _place(record: Record) -> tuple[Any, ...]:
    return record.slot.actor, record.slot.field, record.slot.evidence, record.place


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, Summary) and isinstance(other, Summary) and tolerance:
        pairs = zip(one[1:5], other[1:5], strict=True)
        return one.text == other.text and all(_same(a, b, tolerance) for a, b in pairs)
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=tolerance) or (one != one and other != other)
    return bool(one == other)


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str | Summary) else repr(value)
