"""Limits: how much of a log a page holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How much of a log a page holds.

    Attributes:
        edge: rounds of each kind at the beginning, and so many at the end.
        alike: rounds of each shape that deviates.
        deviating: rounds that deviate, in all.
        segments, records: segments of one round, records of one segment.
        findings: of each sort.
        slots: whose writes are counted and whose histories are shown; so many shapes as well.
        runs: of equal values at the beginning of a history, and so many at the end.
        points: in a line.
        text: characters of a name or value.
    """

    edge: int = 400
    alike: int = 1_000
    deviating: int = 2_000
    segments: int = 60
    records: int = 600
    findings: int = 500
    slots: int = 400
    runs: int = 80
    points: int = 500
    text: int = 400

    def scaled(self, factor: float) -> "Limits":
        """So much of everything; at least one."""
        return Limits(**{name: max(1, int(value * factor)) for name, value in vars(self).items()})
