"""Slots: how places of a tree are named, and which of them a path or pattern means."""

import re
from fnmatch import fnmatchcase

from stages.errors import AmbiguousSlot, DeclarationError, Misuse, UnknownSlot
from state.errors import short


def slot_name(name: str, owner: str) -> str:
    """`name`, if a path can hold it.

    Raises:
        DeclarationError: it is no name, or one with a sign that means something in paths and targets.
    """
    if not name.isidentifier():
        told = "A slot is named as a variable is: letters, digits and '_'."
        raise DeclarationError(owner, f"cannot call a slot {name!r}. {told}")
    return name


def snake_case(name: str) -> str:
    """`ClearGradients` as `clear_gradients`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).strip("<>").lower()


def fits(path: str, pattern: str) -> bool:
    """Whether a path ends with the slots of `pattern`; `*` in it stands for any text of one slot."""
    if path == pattern or path.endswith("/" + pattern):
        return True
    if "*" not in pattern:
        return False
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) >= len(wanted) and all(map(fnmatchcase, parts[-len(wanted) :], wanted))


def find_one(pattern: str, paths: list[str]) -> str:
    """The one path that `pattern` fits.

    Raises:
        UnknownSlot, AmbiguousSlot: it fits none, or several.
    """
    if not isinstance(pattern, str):
        raise Misuse(f"A slot is named by text, such as 'update' or 'fit/batch/gradient'; {short(pattern)} is none.")
    found = [path for path in paths if fits(path, pattern)]
    if not found:
        raise UnknownSlot(pattern, paths)
    if len(found) > 1:
        raise AmbiguousSlot(pattern, found)
    return found[0]
