"""Digested: files written and read in one pass, with the SHA-256 of exactly the bytes that passed."""

import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

PIECE = 2**20  # bytes at a time
STRETCH = 64 * 2**20  # bytes that wait to be digested, or to be on the disk


class Digest(NamedTuple):
    """What a file is known by: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


def write_file(path: Path, pieces: Iterable[memoryview | bytes]) -> Digest:
    """Write a new file, piece by piece.

    Of a file of more than one piece the disk gets its part while a thread digests: it is asked to sync each stretch. So
    most of such a file is on the disk when this returns; whoever needs to be sure of all of it syncs it once more.

    Args:
        pieces: each is used up to one stretch longer than until the next one is asked for.

    Raises:
        OSError: it exists, or a call to the system failed.
    """
    digest, size, waiting = hashlib.sha256(), 0, 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="digest") as thread:  # which begins with the first submit
            for piece in pieces:
                is_long = size + len(piece) > PIECE
                if not is_long:
                    digest.update(piece)
                else:
                    digested = thread.submit(digest.update, piece)
                size += len(piece)
                left = memoryview(piece)
                while left:
                    left = left[os.write(descriptor, left) :]
                waiting += len(piece)
                if waiting >= STRETCH:
                    os.fsync(descriptor)
                    digested.result()
                    waiting = 0
            if waiting and size > PIECE:
                os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Digest(size, digest.hexdigest())


class DigestedFile:
    """A file that is read once from its begin to its end.

    Attributes:
        size: its length in bytes when it was opened.

    Raises:
        OSError: it cannot be opened. A symbolic link is not followed.
        ValueError: it is no regular file.
    """

    def __init__(self, path: Path) -> None:
        self._file = io.FileIO(path, "rb", opener=_open)
        self._digest = hashlib.sha256()
        about = os.fstat(self._file.fileno())
        self.size = about.st_size
        if not stat.S_ISREG(about.st_mode):
            self._file.close()
            raise ValueError("it is no regular file")

    def fill(self, memory: memoryview) -> int:
        """Read as many bytes as `memory` holds into it; return their CRC-32.

        Raises:
            ValueError: the file ends before that.
        """
        left, crc = memory, 0
        while left:
            count = self._file.readinto(left[:PIECE])
            if not count:
                raise ValueError(f"it ends {len(left)} bytes too early")
            self._digest.update(left[:count])
            crc = zlib.crc32(left[:count], crc)
            left = left[count:]
        return crc

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        content = bytearray(size)
        self.fill(memoryview(content))
        return bytes(content)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what has been read."""
        return self._digest.hexdigest()

    def __enter__(self) -> "DigestedFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def _open(path: str, flags: int) -> int:
    """Open without following a link, and without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
