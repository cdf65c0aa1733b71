"""Where a recording goes and is read from: tables of names, segments of records, and a store in memory.

A *segment* is what was written between two scope boundaries, usually one round of a loop. It says which slots were
written only by the number of a template, so a round costs one row, however many records it holds. Record `i` of a
segment has the number `seq + i`.
"""

import json
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple, Protocol, TypeVar

from state.position import ANYWHERE, Asked, Place, is_within

Segment = tuple[int, int, Place, int, list[Any]]
"""(seq of its first record, unix time in ns, place, template, one value per slot of the template)."""

Wanted = Mapping[int, Sequence[int]]
"""By the number of a template the indices of the slots whose values are wanted."""

Bounds = tuple[float | None, float | None]
"""What a number is looked for above of, and below of; None for no bound."""

UNBOUND: Bounds = (None, None)

Row = TypeVar("Row")


class ActorRow(NamedTuple):
    """Who may write: a stage, a hook, or a reserved name; `source` is "qualname file:line"."""

    path: str
    kind: str
    source: str


class FieldRow(NamedTuple):
    """What may be written: a field or a part; `default` is JSON text, None where there is no default."""

    name: str
    scope: str
    type: str
    description: str
    default: str | None


class SlotRow(NamedTuple):
    """One kind of record: this actor writes this field and is known to by this evidence, or is entered or left."""

    actor: int
    kind: str
    field: int | None
    evidence: str


@dataclass(slots=True)
class Tables:
    """The names behind the numbers. Each table maps a row to its number, 0 first, and only ever grows."""

    actors: dict[ActorRow, int] = field(default_factory=dict)
    fields: dict[FieldRow, int] = field(default_factory=dict)
    slots: dict[SlotRow, int] = field(default_factory=dict)
    templates: dict[tuple[int, ...], int] = field(default_factory=dict)
    metas: dict[str, int] = field(default_factory=dict)

    def sizes(self) -> tuple[int, int, int, int, int]:
        """How many rows each table has."""
        return len(self.actors), len(self.fields), len(self.slots), len(self.templates), len(self.metas)

    def are_whole(self) -> bool:
        """Whether every number in a row is that of a row."""
        actors, fields, slots = len(self.actors), len(self.fields), len(self.slots)
        whole = [0 <= row.actor < actors and (row.field is None or 0 <= row.field < fields) for row in self.slots]
        return all(whole) and all(0 <= slot < slots for template in self.templates for slot in template)


def intern(table: dict[Row, int], row: Row) -> int:
    """The number of `row`, which is added to the table if it is new."""
    return table.setdefault(row, len(table))


class Store(Protocol):
    """What a recording is saved to and read back from."""

    name: str

    @property
    def dropped(self) -> int:
        """How many segments it held once and has let go of."""

    def write(self, tables: Tables, segments: Sequence[Segment]) -> None:
        """Add the segments and what is new in the tables: all of it or, with any exception, nothing."""

    def tables(self) -> Tables:
        """The tables as last written."""

    def segments(
        self,
        wanted: Wanted | None = None,
        *,
        since: int | None = None,
        before: int | None = None,
        backward: bool = False,
        nonfinite: bool = False,
        asked: Asked = ANYWHERE,
        beyond: Bounds = UNBOUND,
    ) -> Iterator[Segment]:
        """Those of the wanted templates that begin with record `since` or later, and before record `before`.

        In order, or from the last to the first. With `wanted` only the values at these indices, in their order. With
        `nonfinite` only segments in which some value is NaN or infinite, with `asked` only those at such places. With
        `beyond` at least those in which a wanted number, or one of a wanted `Summary`, is past a bound.
        """

    def times(self, asked: Asked = ANYWHERE, before: int | None = None) -> dict[int, int]:
        """How many segments each template has at such places, before record `before`."""

    def view(self) -> "Store":
        """What it holds now, to be read: later writes take nothing away from it."""

    def version(self) -> object:
        """What is another one after each write, whoever wrote; None where nobody has to know."""

    def stored(self) -> Iterator[tuple[int, Place, int, object]]:
        """Of each segment (seq, place, template, values), the values as they are stored: good to be compared."""

    def count(self) -> int:
        """How many records it holds."""

    def close(self) -> None:
        """Nothing is written after this. May be called twice."""


class MemoryStore:
    """The last segments of a run, in memory.

    Those of batches and all others are kept apart, `rounds` of each, so that a long epoch cannot push out the few
    that tell of set-up and of earlier epochs.
    """

    name = "memory"

    def __init__(self, rounds: int = 10_000) -> None:
        self._batches: deque[Segment] = deque(maxlen=rounds)
        self._others: deque[Segment] = deque(maxlen=rounds)
        self._tables = Tables()
        self._written = 0
        self._in_order: list[Segment] = []  # of a view only

    @property
    def dropped(self) -> int:
        """How many segments were pushed out by later ones."""
        return self._written - len(self._batches) - len(self._others)

    def write(self, tables: Tables, segments: Sequence[Segment]) -> None:
        """Keep the segments, and the tables themselves."""
        self._tables = tables
        of_batches = [segment for segment in segments if segment[2][2] is not None]
        others = [segment for segment in segments if segment[2][2] is None]
        for held, given in ((self._batches, of_batches), (self._others, others)):
            # A signal may fall between this and the recording's note of it; then the same segments come again.
            new = [segment for segment in given if not held or segment[0] > held[-1][0]]
            self._written += len(new)
            held.extend(new)

    def tables(self) -> Tables:
        """The tables of the recording that writes here."""
        return self._tables

    def segments(
        self,
        wanted: Wanted | None = None,
        *,
        since: int | None = None,
        before: int | None = None,
        backward: bool = False,
        nonfinite: bool = False,
        asked: Asked = ANYWHERE,
        beyond: Bounds = UNBOUND,
    ) -> Iterator[Segment]:
        """What is held at the time of the call; later writes do not disturb the reader. `beyond` leaves out nothing."""
        held = self._held()
        begin = 0 if since is None else bisect_left(held, since, key=_seq)
        end = len(held) if before is None else bisect_left(held, before, key=_seq)
        numbers = range(begin, end)
        for number in reversed(numbers) if backward else numbers:
            seq, t_ns, place, template, values = held[number]
            if (wanted is None or template in wanted) and (asked is ANYWHERE or is_within(place, asked)):
                if not (nonfinite and are_finite(values)):
                    chosen = values if wanted is None else [values[index] for index in wanted[template]]
                    yield seq, t_ns, place, template, chosen

    def times(self, asked: Asked = ANYWHERE, before: int | None = None) -> dict[int, int]:
        """How many segments each template has, of what is held at the time of the call."""
        return Counter(template for _, _, _, template, _ in self.segments(asked=asked, before=before))

    def view(self) -> "MemoryStore":
        """A copy that shares the segments."""
        copy = MemoryStore(self._batches.maxlen or 0)
        copy._batches, copy._others = self._batches.copy(), self._others.copy()
        copy._tables, copy._written = self._tables, self._written
        copy._in_order = copy._held()
        return copy

    def version(self) -> object:
        """Nothing: to look again is quick, and to keep what was seen would hold what is let go of."""
        return None

    def _held(self) -> list[Segment]:
        """All segments in order."""
        return self._in_order or sorted([*self._batches, *self._others], key=_seq)

    def stored(self) -> Iterator[tuple[int, Place, int, object]]:
        """What is held at the time of the call."""
        for seq, _, place, template, values in self.segments():
            yield seq, place, template, values

    def count(self) -> int:
        """How many records it holds."""
        return sum(len(values) for *_, values in [*self._batches, *self._others])

    def close(self) -> None:
        """Nothing to do: what is held can still be read."""


def _seq(segment: Segment) -> int:
    return segment[0]


_DECODER = json.JSONDecoder(object_hook=lambda pairs: float(pairs["f"]) if pairs.keys() == {"f"} else pairs)


def to_json(value: Any) -> str:
    """JSON text of a recorded value; NaN and the infinities, which JSON lacks, become {"f": "nan"} and so on."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"), default=str)


def from_json(text: str) -> Any:
    """The value behind JSON text that `to_json` wrote."""
    return _DECODER.decode(text)


def are_finite(value: Any) -> bool:
    """Whether a recorded value, or a list of such, has no NaN and no infinity in it."""
    return all(map(are_finite, value)) if isinstance(value, list) else not isinstance(value, float) or isfinite(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return {"f": repr(value)}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
