"""What differs between the state at two positions of one run."""

from collections.abc import Mapping
from typing import NamedTuple

from state.fields import MISSING
from state.position import Position
from state.records import Record
from state.statistics import Summary


class Differing(NamedTuple):
    """A field or part that is not the same at two positions.

    Attributes:
        field: its name.
        there, here: its value at the first position and at the second one; ABSENT where it had none.
        known: "by value", "by its numbers", "by fingerprint"; "it was written" where the log has nothing that tells
            whether it is another one; "ready here only" or "ready there only".
        actor: who wrote it last, of what stands at the later of the two positions that have it.
        position: where that was.
    """

    field: str
    there: object
    here: object
    known: str
    actor: str
    position: Position


def differences(there: Mapping[str, Record], here: Mapping[str, Record]) -> list[Differing]:
    """The fields whose last valid writes at two positions do not tell the same, by name."""
    found = []
    for name in sorted({*there, *here}):
        one, other = there.get(name), here.get(name)
        known = _told(one, other)
        record = max((each for each in (one, other) if each is not None), key=lambda each: each.seq)
        if known:
            before, after = (MISSING if each is None else each.value for each in (one, other))
            found.append(Differing(name, before, after, known, record.slot.actor, Position(*record.place)))
    return found


def _told(one: Record | None, other: Record | None) -> str:
    """How it is known that two writes do not tell the same; "" if they do."""
    if one is None or other is None:
        return "ready here only" if one is None else "ready there only"
    if one.seq == other.seq:
        return ""
    values = one.value, other.value
    if all(isinstance(value, bool | int | float) for value in values):
        return "" if values[0] == values[1] or all(value != value for value in values) else "by value"
    if any(isinstance(value, Summary) for value in values):  # at set-up a part is told by its fingerprint alone
        one_print, other_print = (value.fingerprint if isinstance(value, Summary) else value for value in values)
        if one_print is not None and other_print is not None:
            return "" if one_print == other_print else "by fingerprint"
        return "by its numbers" if values[0] != values[1] else "it was written"
    return "by value" if values[0] != values[1] and None not in values else "it was written"
