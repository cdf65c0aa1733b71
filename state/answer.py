"""Answer: the changes that match a question, read from the log and made as they are looked at."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import overload

from state.changes import Change
from state.latest import Latest, change_of, with_before
from state.position import ANYWHERE, Asked, is_within
from state.records import Record, Records

_RARE = 100
"""In a pass over all, so many records are read while one is looked back from."""


class Answer(Sequence[Change]):
    """The changes of some slots at some places, as many as there were when the question was asked.

    How many there are is counted, and that is all. Single ones are read by themselves, and what they replaced is looked
    for by going back from them; whoever looks at many of them gets all in one pass, which finds the same.
    """

    def __init__(self, records: Records, chosen: set[int] | None = None, asked: Asked = ANYWHERE) -> None:
        """Count the changes of the `chosen` slots, by default of all."""
        self._records, self._chosen, self._asked = records, chosen, asked
        self._end = records.end()
        in_one = {template: len(row) for template, row in records.wanted(chosen).items()}
        times = records.times(asked, self._end)
        self._length = sum(in_one[template] * number for template, number in times.items() if template in in_one)
        self._looked_at = 0
        self._made: list[Change] | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Change: ...
    @overload
    def __getitem__(self, index: slice) -> list[Change]: ...
    def __getitem__(self, index: int | slice) -> Change | list[Change]:
        numbers = range(self._length)[index]
        if isinstance(numbers, int):
            return self._between(numbers, numbers + 1)[0]
        if not numbers:
            return []
        first, last = sorted((numbers[0], numbers[-1]))
        return self._between(first, last + 1)[:: numbers.step] if abs(numbers.step) == 1 else self._all()[index]

    def __iter__(self) -> Iterator[Change]:
        return iter(self._all() if self._made is not None else in_one_pass(*self._question(), self._end))

    def latest(self, count: int) -> list[Change]:
        """The last so many of them, without what they replaced, which takes longer to find."""
        found = list(islice(self._read(backward=True), count))
        return [change_of(record, None) for record in reversed(found)]

    def looked_back(self, change: Change) -> Change:
        """One of them, with what it replaced."""
        found = self._records.read(self._chosen, asked=self._asked, before=change.seq + 1, backward=True)
        return with_before(self._records, next(found))

    def _between(self, first: int, end: int) -> list[Change]:
        self._looked_at += end - first
        if self._made is not None or self._looked_at * _RARE > self._end:
            return self._all()[first:end]
        is_late = first > self._length // 2
        begin, stop = (self._length - end, self._length - first) if is_late else (first, end)
        found = islice(self._read(backward=is_late), begin, stop)
        changes = [with_before(self._records, record) for record in found]
        return changes[::-1] if is_late else changes

    def _all(self) -> list[Change]:
        if self._made is None:
            self._made = list(in_one_pass(*self._question(), self._end))
        return self._made

    def _read(self, *, backward: bool) -> Iterator[Record]:
        return self._records.read(self._chosen, asked=self._asked, before=self._end, backward=backward)

    def _question(self) -> tuple[Records, set[int] | None, Asked]:
        return self._records, self._chosen, self._asked


def in_one_pass(
    records: Records, chosen: set[int] | None = None, asked: Asked = ANYWHERE, end: int | None = None
) -> Iterator[Change]:
    """The chosen slots' changes at the places asked for, in one pass over all that tells what they replaced."""
    slots = range(len(records.slots)) if chosen is None else chosen
    kept = {id(records.slots[number]) for number in slots}  # quicker told from others than by all their names
    fields = {records.slots[number].field for number in slots}
    latest = Latest()
    read = None if chosen is None else chosen | records.writes(fields) | records.marks()
    for record in records.read(read, before=end):
        if id(record.slot) in kept and (asked == ANYWHERE or is_within(record.place, asked)):
            yield change_of(record, latest.before(record))
        latest.add(record)
