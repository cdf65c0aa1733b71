"""Refuses to start when `state` or `stages` are not ours: a file of that name in the working directory hides them."""

from importlib.util import find_spec
from pathlib import Path

from learner.errors import LearnerError


def check_siblings() -> None:
    """Refuse to start with a foreign `state` or `stages`.

    Raises:
        LearnerError: naming the file that hides ours.
    """
    ours = Path(__file__).resolve().parent.parent
    for name in ("state", "stages"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if found is None or found.parent.parent != ours:
            told = f"Rename that file, or start Python elsewhere: it hides the package {name!r} of staged-learner."
            raise LearnerError(f"`import {name}` finds {str(found)!r}. {told}")


check_siblings()
