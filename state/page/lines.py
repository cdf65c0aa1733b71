"""Lines: what one actor wrote into one field over the run, thinned out to what a page can draw."""

from array import array
from collections import deque
from itertools import chain
from math import isfinite
from typing import Any

from state.position import Place

Run = tuple[int, int, int, Any, Place]
"""(number of the first record, of the last, how many, the value as the store has it, place of the first)."""

_NO_VALUE = object()


class Line:
    """The values of one slot: all numbers, and runs of equal values, the first and the last ones.

    Attributes:
        count: how many values there are.
        norms: whether the numbers are norms of tensors, from the level "stats".
    """

    __slots__ = ("count", "norms", "_seqs", "_numbers", "_first", "_last", "_run", "_kept")

    def __init__(self, kept: int) -> None:
        """`kept`: how many of the first and how many of the last runs to keep."""
        self.count = 0
        self.norms = False
        self._seqs = array("q")
        self._numbers = array("d")
        self._first: list[list[Any]] = []
        self._last: deque[list[Any]] = deque(maxlen=kept)
        self._run: list[Any] = [0, 0, 0, _NO_VALUE, None]
        self._kept = kept

    def add(self, seq: int, value: Any, place: Place) -> None:
        """Go past a value, as the store has it."""
        self.count += 1
        kind = type(value)
        if kind is float or (kind is int and -1e300 < value < 1e300):
            self._seqs.append(seq)
            self._numbers.append(value)
        elif kind is list and len(value) > 4 and type(value[4]) in (float, int):
            self.norms = True
            self._seqs.append(seq)
            self._numbers.append(value[4])
        run = self._run
        if value == run[3] or (value != value and run[3] != run[3]):
            run[1] = seq
            run[2] += 1
            return
        self._run = run = [seq, seq, 1, value, place]
        (self._first if len(self._first) < self._kept else self._last).append(run)

    @property
    def runs(self) -> list[Run]:
        """The runs of equal values that are kept, in order."""
        return [(first, last, count, value, place) for first, last, count, value, place in self._all()]

    @property
    def missing(self) -> int:
        """How many values stand in runs that are not kept."""
        return self.count - sum(count for _, _, count, _, _ in self.runs)

    def points(self, most: int) -> tuple[list[list[Any]], list[list[Any]]]:
        """At most so many points, and as many numbers that are not finite.

        A point is [record, number], or where several are drawn as one [record, lowest, highest].
        """
        pairs = [(seq, n) for seq, n in zip(self._seqs, self._numbers, strict=True) if isfinite(n)]
        odd = [[seq, repr(n)] for seq, n in zip(self._seqs, self._numbers, strict=True) if not isfinite(n)]
        odd = odd if len(odd) <= most else [*odd[: most - 1], odd[-1]]
        if len(pairs) <= most:
            return [[seq, number] for seq, number in pairs], odd
        ends = [len(pairs) * bucket // most for bucket in range(most + 1)]
        parts = [pairs[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]
        return [[part[0][0], min(n for _, n in part), max(n for _, n in part)] for part in parts], odd

    def _all(self) -> list[list[Any]]:
        return list(chain(self._first, self._last))
