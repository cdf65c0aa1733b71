"""Declared: what an author says of a stage or hook, refused where it cannot mean anything."""

from typing import Any

from stages.errors import DeclarationError
from state.errors import short
from state.scopes import RUN


def names_in(owner: str, what: str, given: Any) -> tuple[str, ...]:
    """Names of fields and parts; a lone string is the usual slip: ("loss") for ("loss",).

    Raises:
        DeclarationError: these are no names.
    """
    if isinstance(given, str):
        raise DeclarationError(owner, f"{what} = {given!r} is a string. Write {what} = ({given!r},), with the comma.")
    try:
        names = tuple(given)
    except TypeError:
        told = f"Name fields or parts: {what} = ('loss', 'model.grads'), say."
        raise DeclarationError(owner, f"{what} = {short(given)} is no tuple of names. {told}") from None
    for name in names:
        if not isinstance(name, str):
            raise DeclarationError(owner, f"{what} holds {short(name)}, which is no field's name.")
    return names


def scope_in(owner: str, what: str, given: object) -> str | None:
    """The name of a scope that opens and closes, or None.

    Raises:
        DeclarationError: no scope can be called so, or it is the run, which only its end closes.
    """
    if given is None:
        return None
    if not isinstance(given, str) or not given.isidentifier():
        told = f"It names a scope, as {what}='inner' does; no slot can be called {what!r}."
        raise DeclarationError(owner, f"got {what}={short(given)}. {told}")
    if given == RUN:
        told = "The run is open from its beginning to its end. Give the scope a name of its own."
        raise DeclarationError(owner, f"got {what}={given!r}. {told}")
    return given


def flag_in(owner: str, what: str, given: object) -> bool:
    """A setting that is on or off.

    Raises:
        DeclarationError: it is neither True nor False.
    """
    if not isinstance(given, bool):
        told = f"It is True or False; no slot can be called {what!r}."
        raise DeclarationError(owner, f"got {what}={short(given)}. {told}")
    return given


def whole_in(owner: str, given: object) -> int:
    """The number that a control stage takes first.

    Raises:
        DeclarationError: it is no positive whole number.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        told = f"{owner}(4, ...) wants a positive whole number first, then its stages."
        raise DeclarationError(owner, f"got {short(given)}. {told}")
    return given
