"""The invariants that a Learner has unless it is told otherwise: what is so in any training, whoever wrote it."""

from learner.invariants import batches, clearing, gradients, losses, modes, resolution, schedules, updates, views
from stages import Invariant


def defaults() -> tuple[Invariant, ...]:
    """New ones, as some keep what they saw. They are asked in the rounds that the guard looks at."""
    return (
        *updates.invariants(),
        *schedules.invariants(),
        *gradients.invariants(),
        *clearing.invariants(),
        *losses.invariants(),
        *modes.invariants(),
        *resolution.invariants(),
        *batches.invariants(),
        *views.invariants(),
    )
