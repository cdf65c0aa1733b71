"""Replacing: a file that is there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EISDIR, ENOENT
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` to write into; it takes the place of `path` at the end, and is gone if something failed.

    Raises:
        OSError: it cannot be written, or there is no such directory.
    """
    if path.is_dir():
        raise IsADirectoryError(EISDIR, "It is a directory; name a file in it", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "There is no such directory", str(path.parent))
    beside = path.with_name(f"{path.name}.new")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
