"""Findings: the records that a reader should see first."""

from state.records import NamedSlot

VIOLATION, ENDED, NOT_FINITE = "violation", "ended", "not finite"


def is_violation(slot: NamedSlot) -> bool:
    """Whether these records tell of a change that nobody declared, or of an invariant that broke."""
    return slot.kind == "broken" or (
        slot.kind == "write" and (slot.evidence == "undeclared" or slot.actor == "external")
    )
