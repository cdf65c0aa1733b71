"""How a stage ends: the signals that end one early, and the outcome that its after-hooks see."""

from dataclasses import dataclass
from typing import Literal

OutcomeKind = Literal["ok", "skipped", "cancelled", "exhausted", "interrupted", "failed"]


class Cancel(BaseException):
    """Raise it to end the innermost open `scope` here and now: "batch", "phase", "epoch", "run" or one of your own.

    It is no error: after-hooks run, the loop goes on with the next round, and the log keeps who, scope and reason.
    It derives from BaseException so that an `except Exception` on the way does not swallow it.

    Attributes:
        scope: the scope that ends.
        reason: why, for people.
        by: path of the stage or hook that raised it; filled in on the way.
    """

    def __init__(self, scope: str, reason: str = "") -> None:
        self.scope = scope
        self.reason = reason
        self.by = ""
        super().__init__(scope, reason)


class Reached(Cancel):
    """The end that `fit(epochs=..., batches=...)` asked for: unwinds like a Cancel of the run, which ends ok."""


class Exhausted(BaseException):
    """The loader has no further batch. `fetch` raises it; it ends the loop, whose outcome stays ok."""


class Skip(BaseException):
    """Raise it in a stage, or in a hook before or around one, to end that stage alone, here and now.

    What follows it runs as always. Its after-hooks see the outcome "skipped"; fields it was to write are not written.
    In an inline stage it ends the stage that this one is part of.

    Attributes:
        reason: why, for people.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Outcome:
    """How a stage ended, as its after-hooks can read it.

    Attributes:
        kind: "ok", "skipped", "cancelled", "exhausted" (a loader's end), "interrupted" (Ctrl-C, a signal) or "failed".
        by: path of who cancelled, else "".
        scope: the scope that was cancelled, else "".
        reason: the reason given, or the error's text.
        error: the exception, if it failed or was interrupted.
    """

    kind: OutcomeKind = "ok"
    by: str = ""
    scope: str = ""
    reason: str = ""
    error: BaseException | None = None

    @classmethod
    def of(cls, error: BaseException, *, is_loop: bool = False) -> "Outcome":
        """The outcome of a stage that `error` left. The end that `fit` asked for is a good end for a loop, not for the
        epoch that it cuts short."""
        match error:
            case Reached() if is_loop:
                return cls("ok", reason=error.reason)
            case Reached():
                return cls("cancelled", "user", error.scope, error.reason)
            case Cancel():
                return cls("cancelled", error.by, error.scope, error.reason)
            case Exhausted():
                return cls("exhausted")
            case Skip():
                return cls("skipped", reason=error.reason)
            case KeyboardInterrupt() | SystemExit():
                return cls("interrupted", reason=type(error).__name__, error=error)
            case _:
                return cls("failed", reason=f"{type(error).__name__}: {error}", error=error)

    @property
    def told(self) -> str | None:
        """The reason as the log keeps it: with who cancelled, and what."""
        if self.kind != "cancelled":
            return self.reason or None
        return f"{self.by} ({self.scope})" + (f": {self.reason}" if self.reason else "")

    @property
    def ok(self) -> bool:
        """Whether the stage ended well."""
        return self.kind == "ok"

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        scope = f" ({self.scope})" if self.scope else ""
        return f"{self.kind}{scope}{by}{': ' + self.reason if self.reason else ''}"


def forget(signal: BaseException) -> None:
    """Let go of the frames that a signal came through, once it is taken: they hold batches, and the signal itself."""
    signal.__traceback__ = signal.__context__ = None


def is_failure(error: BaseException) -> bool:
    """Whether values stay for the debugger: it is no Cancel, no Skip and no loader's end."""
    return not isinstance(error, Cancel | Exhausted | Skip)


OK = Outcome()
