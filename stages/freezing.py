"""Freezing: the settings of what is bound to a Learner, which nobody sets any more."""

from stages.errors import Misuse


def freeze(thing: object) -> None:
    """Mark a stage or callback as bound: from now on its settings cannot be set."""
    if hasattr(thing, "__dict__"):
        object.__setattr__(thing, "_bound", True)


def refuse_if_bound(thing: object, name: str) -> None:
    """Refuse to set an attribute of a bound stage or callback.

    Raises:
        Misuse: what changes during a run belongs into State.
    """
    if "_bound" in getattr(thing, "__dict__", ()):
        who = type(thing).__name__
        told = "Keep it in a field of State (declare the field and write it), so that it is logged and saved."
        raise Misuse(f"{who}.{name} cannot be set: {who} is bound to a Learner, and its settings are frozen. {told}")
