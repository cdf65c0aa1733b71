"""Tallies: how often what is written, and by whom, beside what was declared."""

from collections import Counter
from hashlib import sha256
from typing import NamedTuple

from state.position import Place
from state.records import NamedSlot, Records

_BATCHES, _UPDATES = "batches_seen", "updates"
_RESERVED = ("setup", "user", "external")
_SHORT = ("batch", "update")  # what lives longer may be there for whoever asks


class Rate(NamedTuple):
    """How often a field or part was written.

    Attributes:
        field: its name.
        writes: how many records say so.
        per_batch, per_update: beside the training batches and the updates in the log; None where it has none.
        writers: who did it, the most frequent first.
    """

    field: str
    writes: int
    per_batch: float | None
    per_update: float | None
    writers: tuple[str, ...]


class Use(NamedTuple):
    """Who declares to write, to touch and to read a field or part, and who wrote it.

    Attributes:
        field: its name.
        declared: who declares to write it, in the order of the tree.
        wrote: who did, with the number of times, the most frequent first: "train/epoch/fit/batch/update (24)".
        touchers: who else declares to touch it: it may change on the way, of which there is no record.
        readers: who declares to read it.
        told: what is odd about it: "never written", "never read", "undeclared"; "" if nothing.
    """

    field: str
    declared: tuple[str, ...]
    wrote: tuple[str, ...]
    touchers: tuple[str, ...]
    readers: tuple[str, ...]
    told: str


def counted(records: Records) -> "Counter[NamedSlot]":
    """How many records each slot has."""
    if not records.is_whole:
        return Counter(record.slot for record in records.read())
    found: Counter[NamedSlot] = Counter()
    for template, times in records.store.times().items():
        for slot in records.slots_in(template):
            found[slot] += times
    return found


def digest(records: Records) -> str:
    """Sixty-four hexadecimal digits for what was written, by whom, where and in which order; times do not count."""
    found = sha256()
    told = records.wanted({number for number, slot in enumerate(records.slots) if slot.kind != "exit"})
    kinds, forms, texts = {}, {}, records.texts()
    are_all = records.is_whole
    where: Place | None = None
    for template, indices in told.items():
        slots = [records.slots_in(template)[index] for index in indices]
        kinds[template] = [slot.kind for slot in slots]
        forms[template] = "".join(f"{(*slot[:3], slot.evidence)!r}".replace("%", "%%") + "%r" for slot in slots)
    for seq, _, place, template, values in records.store.segments(told):
        if are_all or records.counts(seq):
            if place != where:  # not for each segment: a round is cut in two by who reads the log meanwhile
                where = place
                found.update(repr(place).encode())
            shown = [
                value
                if type(value) is not list
                else texts[value[0]]  # the most frequent kind of list, without a call
                if kind == "write" and len(value) == 1
                else records.value(kind, value)
                for kind, value in zip(kinds[template], values, strict=True)
            ]
            found.update((forms[template] % tuple(shown)).encode())
    return found.hexdigest()


def rates(records: Records) -> list[Rate]:
    """What was written after the set-up, the most often written first."""
    writes: dict[str, Counter[str]] = {}
    for slot, times in counted(records).items():
        if slot.kind == "write" and slot.field and slot.actor != "setup":
            writes.setdefault(slot.field, Counter())[slot.actor] += times
    batches, updates = (sum(writes.get(name, Counter()).values()) for name in (_BATCHES, _UPDATES))
    rows = []
    for field, by in writes.items():
        total = sum(by.values())
        per = (total / batches if batches else None, total / updates if updates else None)
        rows.append(Rate(field, total, *per, tuple(actor for actor, _ in by.most_common())))
    return sorted(rows, key=lambda row: (-row.writes, row.field))


def uses(records: Records) -> list[Use]:
    """Of each field and part, who was to write it and who did."""
    slots = [
        slot for slot in records.slots if slot.field and not slot.actor.endswith("/checkpoint")
    ]  # no stage of its own
    undeclared = {slot.field for slot in slots if slot.evidence == "undeclared" or slot.actor == "external"}
    counts = counted(records)
    rows = []
    for field in sorted({slot.field or "" for slot in slots} - {"tree"}):
        here = [slot for slot in slots if slot.field == field]
        may = [one for one in here if one.kind in ("write", "may write") and one.evidence != "undeclared"]
        declared = dict.fromkeys(one.actor for one in may)
        who = tuple(actor for actor in declared if actor not in _RESERVED)
        touchers, readers = (
            tuple(dict.fromkeys(slot.actor for slot in here if slot.kind == kind)) for kind in ("touch", "read")
        )
        by = Counter[str]()
        for slot in here:
            by[slot.actor] += counts[slot] if slot.kind == "write" else 0
        wrote = tuple(f"{actor} ({times:,})" for actor, times in by.most_common() if times)
        if field in undeclared:
            told = "undeclared"
        elif who and not wrote:
            told = "never written"
        else:
            told = "never read" if who and here[0].scope in _SHORT and not _is_read(field, slots) else ""
        others = tuple(actor for actor in touchers if actor not in declared)
        rows.append(Use(field, who, wrote, others, readers, told))
    return rows


def _is_read(field: str, slots: list[NamedSlot]) -> bool:
    """Whether somebody declares to read it, the component that it is a part of, or what lies below it."""
    names = {slot.field or "" for slot in slots if slot.kind == "read"}
    return field in names or field.partition(".")[0] in names or any(name.startswith(f"{field}.") for name in names)
