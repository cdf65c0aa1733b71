"""Sources: where code stands that changes something, and whether it is the user's."""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_LIBRARY = tuple(f"{_ROOT / package}{os.sep}" for package in ("state", "stages", "learner"))


def caller() -> str:
    """The line outside of this library that called into it, "qualname file:line"; empty if there is none."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return f"{frame.f_code.co_qualname} {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def is_of_library(source: str) -> bool:
    """Whether a stage or hook with this source, "qualname file:line", is one of this library."""
    return source.partition(" ")[2].startswith(_LIBRARY)


def code_of(sources: Sequence[str]) -> str:
    """The sentence that tells where the first two of these stand that are not of this library."""
    told = [one for one in dict.fromkeys(sources) if one and not is_of_library(one)][:2]
    return f" {'Their' if len(told) > 1 else 'Its'} code: {', '.join(told)}." if told else ""


def warn_at(source: str, warning: Warning, stacklevel: int) -> None:
    """Warn with the place of the code of a stage or hook of the user's; of one of this library, as `warnings.warn`."""
    file, _, line = source.partition(" ")[2].rpartition(":")
    if file and line.isdigit() and not is_of_library(source):
        warnings.warn_explicit(warning, type(warning), file, int(line))
    else:
        warnings.warn(warning, stacklevel=stacklevel)
