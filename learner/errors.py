"""Errors of `learner`: what a Learner cannot be built from, or cannot be asked for.

LearnerError
|-- ArgumentError      an argument that cannot be used (also a ValueError)
`-- AlreadyBound       a State that another Learner holds
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
