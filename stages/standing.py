"""Standing: where a run is between two rounds of a loop."""

from typing import NamedTuple

from stages.cancel import Cancel, Reached


class Standing(NamedTuple):
    """Where a run stands between two rounds.

    Attributes:
        path: of the loop.
        ending: how the loop is about to be left: (scope, reason, by) of a Cancel, ("", "", "") for its last round; or
            None, if a further round follows.
    """

    path: str
    ending: tuple[str, str, str] | None = None

    @classmethod
    def of(cls, path: str, error: BaseException | None, *, is_last: bool) -> "Standing":
        """After a round that ended with `error`. A limit that was reached is not kept: it is asked again."""
        if isinstance(error, Cancel) and not isinstance(error, Reached):
            return cls(path, (error.scope, error.reason, error.by))
        return cls(path, ("", "", "") if is_last else None)
