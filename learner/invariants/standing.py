"""Standing: how the invariants of a Learner are made: they warn, and are asked where the guard looks."""

from functools import partial

from stages import Invariant, Writes

UPDATE = Writes("*.params", "*.state")
"""Who steps an optimizer."""

warned = partial(Invariant, then="warn", sampled=True)
