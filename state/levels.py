"""Levels: how much the change log keeps of a write."""

import re
from typing import NamedTuple

from state.errors import StateError, nearest, short, suggestion

LEVELS = ("off", "writes", "summary", "stats", "full")
"""Nothing; that it was written; plain values, dtype, shape and device; numbers of the elements; a fingerprint too."""

_SAMPLED = ("stats", "full")


class Level(NamedTuple):
    """A level, and in which batches: "full/20" is "full" in one batch of 20, and "summary" in the others.

    Attributes:
        name: one of `LEVELS`.
        every: in each batch whose number divides by this, and wherever there is no batch.
    """

    name: str
    every: int = 1

    @classmethod
    def of(cls, text: object) -> "Level":
        """The level that a text names.

        Raises:
            StateError: it names none.
        """
        found = re.fullmatch("([a-z]+)(?:/([1-9][0-9]*))?", text) if isinstance(text, str) else None
        if found is None or found[1] not in LEVELS or (found[2] and found[1] not in _SAMPLED):
            near = suggestion(nearest(str(text), LEVELS))
            told = f"{short(text)} is none of {', '.join(LEVELS)}, nor 'stats/20' or 'full/20' for one batch in 20."
            raise StateError(f"{told}{near}")
        return cls(found[1], int(found[2] or 1))

    def is_due(self, batch: int | None) -> bool:
        """Whether the batch of this number is measured."""
        return batch is None or batch % self.every == 0
