"""Digested: files written and read in one pass, with the SHA-256 of exactly the bytes that passed."""

import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

PIECE = 2**20  # bytes at a time
STRETCH = 64 * 2**20  # bytes that are written before the disk has to take them


class Digest(NamedTuple):
    """What a file is known by: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


def write_file(path: Path, blocks: Iterable[memoryview | bytes]) -> tuple[Digest, list[int]]:
    """Write a new file, block by block; return what it is known by, and the CRC-32 of each block.

    While a thread digests one stretch of a long file, the disk has to take it, and the next one is written. So nearly
    all of the time is the disk's or the thread's, whichever needs more, and no more than two stretches wait in memory.
    Whoever needs to be sure that all of it is on the disk syncs it in the end.

    Args:
        blocks: each is looked at up to two stretches longer than until the next one is asked for.

    Raises:
        OSError: it exists, or a call to the system failed.
    """
    sums = _Sums()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="digest") as thread:  # which begins when it has something to do
            before: Future[None] | None = None
            for stretch in _stretches(blocks):
                size = 0
                for piece in _joined(stretch):
                    size += len(piece)
                    while piece:
                        piece = piece[os.write(descriptor, piece) :]
                if before is None and size <= PIECE:
                    sums.add(stretch)
                    continue
                now = thread.submit(sums.add, stretch)
                os.fsync(descriptor)
                if before is not None:
                    before.result()
                before = now
            if before is not None:
                before.result()
    finally:
        os.close(descriptor)
    return sums.digest(), sums.crcs


class _Sums:
    """The sums of a file of blocks, as its bytes come."""

    def __init__(self) -> None:
        self.crcs: list[int] = []
        self._sha256, self._size = hashlib.sha256(), 0

    def add(self, stretch: "_Stretch") -> None:
        for number, part in stretch:
            if number == len(self.crcs):
                self.crcs.append(0)
            self._size += len(part)
            for begin in range(0, len(part), PIECE):  # what one of the two has read is in the cache for the other
                piece = part[begin : begin + PIECE]
                self._sha256.update(piece)
                self.crcs[number] = zlib.crc32(piece, self.crcs[number])

    def digest(self) -> Digest:
        return Digest(self._size, self._sha256.hexdigest())


_Stretch = list[tuple[int, memoryview]]  # parts of blocks, each with the number of its block


def _stretches(blocks: Iterable[memoryview | bytes]) -> Iterator[_Stretch]:
    stretch: _Stretch = []
    room = STRETCH
    for number, block in enumerate(blocks):
        part = memoryview(block)
        while len(part) > room:
            yield [*stretch, (number, part[:room])]
            stretch, room, part = [], STRETCH, part[room:]
        stretch.append((number, part))
        room -= len(part)
    yield stretch


def _joined(stretch: _Stretch) -> Iterator[memoryview]:
    """Its bytes, with short parts together: each call to the system has its price."""
    short = bytearray()
    for _, part in stretch:
        if len(short) + len(part) <= PIECE:
            short += part
            continue
        if short:
            yield memoryview(short)
            short = bytearray()
        yield part
    yield memoryview(short)


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
