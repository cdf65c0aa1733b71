"""Counts: numbers of rounds, as people write them."""

import re
from dataclasses import dataclass

from stages.errors import DeclarationError

_UNITS = {
    f"{unit}{ending}": plural
    for unit, plural in (("batch", "batches"), ("update", "updates"), ("epoch", "epochs"))
    for ending in ("", "es" if unit == "batch" else "s")
}


@dataclass(frozen=True)
class Count:
    """A number of rounds, as `every="100 batches"` says it."""

    number: int
    unit: str

    @classmethod
    def parse(cls, text: object, owner: str) -> "Count":
        """Read "100 batches", "1 epoch", "50 updates".

        Raises:
            DeclarationError: it is none of them.
        """
        match = re.fullmatch(r"([1-9][0-9]*) +([a-z]+)", text.strip()) if isinstance(text, str) else None
        if match is None or match[2] not in _UNITS:
            told = "Write '100 batches', '50 updates' or '2 epochs'."
            raise DeclarationError(owner, f"{text!r} is no number of rounds. {told}")
        return cls(int(match[1]), _UNITS[match[2]])
