"""Errors of `state`: a name, a value or an access that is refused, and a log that cannot be read.

StateError
|-- UnknownField       a name that no field has
|-- FieldNotReady      a field read while it has no value
|-- AccessDenied       an actor read or wrote outside its declaration
|-- InvalidValue       a value that its field or an invariant refuses (also a ValueError)
|-- SchemaError        a State class, or a set of them, that cannot be one schema
|-- RunNotFound        a run that is not on disk
|-- LogDamaged         a file that is no change log, or no longer a whole one
|-- CheckpointError    a checkpoint that is not there, or cannot be written or read
|   `-- CheckpointDamaged  one that is not as it was written
|-- SnapshotError      a value that no checkpoint can hold, or one that does not fit
`-- MissingExtra       an optional package that is not installed (also an ImportError)

LogWarning             a change log that could not be written while training went on (a UserWarning)
"""

from collections.abc import Iterable
from difflib import get_close_matches


class StateError(Exception):
    """Anything `state` refuses. Catch it to catch all of this package's errors."""


class UnknownField(StateError):
    """A name that no field of State has.

    Attributes:
        field: the name that was asked for.
        nearest: the existing name most like it, or None.
    """

    def __init__(self, field: str, known: Iterable[str], *, who: str = "State") -> None:
        self.field = field
        self.nearest = nearest(field, known)
        super().__init__(f"{who} has no field {field!r}.{suggestion(self.nearest)}")


class FieldNotReady(StateError):
    """A field was read while it had no value: not yet written, or its scope has ended.

    Attributes:
        field: the name of the field.
        actor: path of who read it.
    """

    def __init__(self, field: str, actor: str, remedy: str) -> None:
        self.field = field
        self.actor = actor
        super().__init__(f"{actor} reads {field!r}, which has no value now. {remedy}")


class AccessDenied(StateError):
    """An actor read or wrote a field outside its declaration.

    Attributes:
        actor: path of the stage or hook.
        field: the name it touched.
        mode: "read" or "write".
        granted: names declared for that mode, sorted.
    """

    def __init__(self, actor: str, field: str, mode: str, granted: Iterable[str], remedy: str) -> None:
        self.actor = actor
        self.field = field
        self.mode = mode
        self.granted = tuple(sorted(granted))
        declared = f"It declares {mode}s={list(self.granted)}."
        super().__init__(f"{actor} may not {mode} {field!r}. {declared} {remedy}")


class InvalidValue(StateError, ValueError):
    """A value that its field's type or constraint, or an invariant between fields, refuses.

    Attributes:
        field: the name of the field.
        actor: path of who wrote it.
        value: what was written.
    """

    def __init__(self, field: str, actor: str, value: object, reason: str) -> None:
        self.field = field
        self.actor = actor
        self.value = value
        super().__init__(f"{actor} may not set {field!r} to {short(value)}. {reason}")


class SchemaError(StateError):
    """A State class that cannot be used, or several that cannot be one schema."""


class RunNotFound(StateError):
    """No run is stored under this name.

    Attributes:
        run: the name that was asked for.
    """

    def __init__(self, run: str, remedy: str) -> None:
        self.run = run
        super().__init__(f"There is no run {run!r}. {remedy}")


class LogDamaged(StateError):
    """A file that is no change log of ours, or no longer a whole one.

    Attributes:
        path: the file.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        super().__init__(f"{self.path!r} cannot be read as a change log: {reason}")


class CheckpointError(StateError):
    """A checkpoint that is not there, cannot be written, or cannot be read.

    Attributes:
        path: its directory.
        reason: what is wrong, and how to put it right.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"Checkpoint {self.path!r} {reason}")


class SnapshotError(StateError):
    """A value that no checkpoint can hold, or a checkpoint that does not fit the State it is to be taken into."""


class CheckpointDamaged(CheckpointError):
    """A checkpoint that is not as it was written: nothing of it is used.

    Attributes:
        file: the name of the file in it, None for the directory itself.
        entry: the tensor or the field of the manifest, where it can be known.
    """

    def __init__(self, path: object, file: str | None, entry: str | None, reason: str) -> None:
        self.file = file
        self.entry = entry
        where = "" if file is None else f" {short(file)}:"
        where += "" if entry is None else f" entry {short(entry)}:"
        remedy = "Use an older checkpoint: this one is not as it was written."
        super().__init__(path, f"is damaged:{where} {reason}. {remedy}")


class MissingExtra(StateError, ImportError):
    """An ability that needs an optional package, which is not installed.

    Attributes:
        extra: the name of the extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what}, which is not installed. Run: pip install 'staged-learner[{extra}]'")


class LogWarning(UserWarning):
    """The change log could not be written. Training goes on; once there is room again, it has a record of the gap."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The existing name most like `name`, or None when nothing is near."""
    matches = get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggestion(name: str | None) -> str:
    """The sentence that offers `name`, or nothing."""
    return f" Did you mean {name!r}?" if name else ""


def a_kind(value: object) -> str:
    """What kind of thing it is, in a message: "an int", "a Tensor"; None is "None"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def want_text(value: object, who: str) -> None:
    """Refuse what is no text where `who` asks for a name.

    Raises:
        StateError: it is none.
    """
    if not isinstance(value, str):
        raise StateError(f"{who} wants a name as text, and got {short(value)}.")


def short(value: object, limit: int = 60) -> str:
    """One line for `value` in a message: a tensor by dtype and shape, anything long cut."""
    try:
        shape = getattr(value, "shape", None)
        if shape is not None and hasattr(value, "dtype"):
            return f"{value.dtype}{list(shape)}".removeprefix("torch.")
        text = next(iter(repr(value).splitlines()), type(value).__name__)
    except Exception:  # a message about a value that cannot be looked at still has to be told
        return type(value).__name__
    return text if len(text) <= limit else f"{type(value).__name__} {text[: limit - 3]}..."
