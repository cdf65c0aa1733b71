"""Errors of `learner`: what a Learner cannot be built from, or cannot be asked for.

LearnerError
|-- ArgumentError      an argument that cannot be used (also a ValueError)
|-- AlreadyBound       a State that another Learner holds
|-- NoWeights          a file of another program that no weights are taken from
`-- PositionError      a place in a loader that cannot be kept or found again (also a ValueError)
"""


class LearnerError(Exception):
    """Anything `learner` refuses. Catch it to catch all of this package's errors."""


class ArgumentError(LearnerError, ValueError):
    """An argument of a Learner, a callback or a command that cannot be used.

    Attributes:
        argument: its name.
    """

    def __init__(self, owner: str, argument: str, problem: str) -> None:
        self.argument = argument
        super().__init__(f"{owner}: {problem}")


class AlreadyBound(LearnerError):
    """A State that another Learner holds."""


class NoWeights(LearnerError):
    """A file of another program from which no weights are taken: it holds none, is damaged, or would run code.

    Attributes:
        path: the file.
    """

    def __init__(self, path: object, problem: str) -> None:
        self.path = str(path)
        super().__init__(f"{self.path!r} {problem}")


class PositionError(LearnerError, ValueError):
    """A place in a loader that cannot be kept, or cannot be found again.

    Attributes:
        loader: the name of its class.
    """

    def __init__(self, loader: str, problem: str) -> None:
        self.loader = loader
        super().__init__(f"{loader}: {problem}")


class ResumeWarning(UserWarning):
    """A run goes on in a program that differs from the one that began it. What differs is named; it goes on all the
    same."""
