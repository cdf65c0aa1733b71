"""Where in a run something happened: epoch, phase, batch and update."""

import re
from dataclasses import dataclass

from state.errors import StateError, short

Place = tuple[int | None, str | None, int | None, int | None]
"""(epoch, phase, batch, update)."""

Asked = tuple[int | range | None, str | None, int | range | None]
"""An epoch, a phase and a batch to look for; None for any."""

ANYWHERE: Asked = (None, None, None)


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a run something happened; None for what was not open, or is not asked for."""

    epoch: int | None = None
    phase: str | None = None
    batch: int | None = None
    update: int | None = None

    @classmethod
    def of(cls, given: "PositionLike") -> "Position":
        """A position as it may be asked for: itself, "19:fit:23" (epoch:phase:batch) or (19, "fit", 23).

        Parts may be left out at the end: "19:fit", "19", (19,).

        Raises:
            StateError: it is none of these.
        """
        match given:
            case Position():
                return given
            case str():
                if found := re.fullmatch("([0-9]+)(?::([^:]+)(?::([0-9]+))?)?", given):
                    return cls(int(found[1]), found[2], int(found[3]) if found[3] else None)
            case tuple((int(),) | (int(), str()) | (int(), str(), int())):
                return cls(*given)
        told = "is none of epoch, epoch:phase and epoch:phase:batch, such as 19:fit:23, as text or as a tuple."
        raise StateError(f"{short(given)} {told}")

    def __str__(self) -> str:
        names = ("epoch {}", "{}", "batch {}", "update {}")
        parts = (self.epoch, self.phase, self.batch, self.update)
        return ", ".join(name.format(part) for name, part in zip(names, parts, strict=True) if part is not None)


PositionLike = Position | str | tuple[int] | tuple[int, str] | tuple[int, str, int]
"""What `Position.of` takes."""


def is_within(place: Place, asked: Asked) -> bool:
    """Whether something happened where it is looked for."""
    pairs = zip(place, asked, strict=False)
    return all(want is None or (have in want if isinstance(want, range) else have == want) for have, want in pairs)
