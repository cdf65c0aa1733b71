"""Openings: what the log is told of scopes, where the position does not tell one from the next."""

from state.position import Place
from state.recording import Recording
from state.scopes import Scopes

PLACED = {"epoch": 1, "phase": 2, "batch": 3}
"""How many parts of a place tell one epoch, phase or batch from the next. Of other scopes the place tells nothing."""

KEPT = "kept"


class Openings:
    """Tells the log that a scope was opened and closed, where the position does not show that it is another one.

    Regular epochs, phases and batches have positions of their own and cost nothing. What is told: a scope that is
    opened while it is open, a scope of the user's, a round without a number, a phase that runs twice in an epoch, and
    every scope inside an epoch, phase or batch that was told. The records "open" and "close" stand at the place that
    surrounds the scope, and their evidence is the scope. An "open" of the scope "run" begins everything anew.

    Attributes:
        told: how many of the epochs, phases and batches that are open now were told.
        is_told_before: whether what is opened now was open when a checkpoint was taken: the log has it already.
    """

    def __init__(self, recording: Recording | None, scopes: Scopes) -> None:
        """Tell `recording` of `scopes`; with None nobody is told."""
        self.told = 0
        self.is_told_before = False
        self._recording = recording
        self._scopes = scopes
        self._used: set[tuple[object, ...]] = set()  # places of epochs and phases of this run

    def begin_run(self, *, resumes: bool = False) -> None:
        """Tell that a run begins, by the actor `user`: no scope is open; of one that goes on nothing is told."""
        self.told = 0
        self._used.clear()
        if not resumes:
            self._mark("user", "open", "run", None)

    def open(self, actor: str, scope: str, place: Place, *, hides: bool, numbered: bool = False) -> bool:
        """Tell that `actor` opened `scope`, if that has to be told; whether it was.

        Args:
            place: the place inside.
            hides: it was open already.
            numbered: it is a batch, and no other one of this phase has its number.
        """
        if self._recording is None or (not hides and not self.told and (numbered or self._is_first(scope, place))):
            return False
        if not self.is_told_before:
            self._mark(actor, "open", scope, None)
        self.told += scope in PLACED
        return True

    def close(self, actor: str, scope: str, place: Place, *, keep: bool) -> None:
        """Tell that a scope was closed whose opening was told.

        Args:
            place: the surrounding place, where we are again.
            keep: its values stay, because a stage failed, and what it hid does not come back.
        """
        assert self._recording is not None
        self._recording.cut()
        self._recording.position = place
        self._mark(actor, "close", scope, KEPT if keep else None)
        self.told -= scope in PLACED

    def _is_first(self, scope: str, place: Place) -> bool:
        """Whether an epoch or a phase is the first of this run at its place, and no narrower scope is open round it."""
        narrower = {"epoch": ("phase", "batch"), "phase": ("batch",)}.get(scope)
        if narrower is None or place[PLACED[scope] - 1] is None or any(map(self._scopes.is_open, narrower)):
            return False
        key = place[: PLACED[scope]]
        is_first = key not in self._used
        self._used.add(key)
        return is_first

    def _mark(self, actor: str, kind: str, scope: str, value: str | None) -> None:
        slot = None if self._recording is None else self._recording.slot(actor, kind, None, scope)
        if self._recording is not None and slot is not None:
            self._recording.mark(slot, value)
