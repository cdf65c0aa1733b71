"""Commit: a directory is at its path complete and durable, or not at all, when it comes and when it goes."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_TEMPORARY = re.compile(r"\.tmp-.+-([1-9][0-9]*)-[0-9a-f]{8}")
_writing: set[Path] = set()  # what this process has in hand: an earlier one may have had the same process id


@contextmanager
def committed(path: Path) -> Iterator[Path]:
    """A new temporary directory beside `path`, which is `path` once the block has ended without an error.

    Each file in it is synced, then the directory; it is renamed to `path`, and that name is synced too. After an error
    the temporary directory is gone, and `path` is as it was; where the very last sync failed, `path` is complete but
    might not outlive a power failure. A process that is killed leaves at most the temporary directory, which
    `sweep` removes.

    Yields:
        The temporary directory, named `.tmp-<name>-<process id>-<random>`. Files only, no directories in it.

    Raises:
        FileExistsError: something is at `path`. Nothing is ever replaced.
        OSError: any call to the system that failed.
    """
    path = Path(os.path.abspath(path))
    if os.path.lexists(path):
        raise FileExistsError(f"{str(path)!r} exists, and nothing is ever written over it")
    temporary = _beside(path)
    _writing.add(temporary)
    try:
        os.mkdir(temporary)
        yield temporary
        with ThreadPoolExecutor() as threads:  # a disk syncs several files in little more time than one
            list(threads.map(_sync, [temporary / name for name in sorted(os.listdir(temporary))]))
        _sync(temporary)
        os.rename(temporary, path)  # a directory that came in the meantime is not replaced either, unless it is empty
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        _writing.discard(temporary)
    _sync(path.parent)


def discard(path: Path) -> None:
    """Remove a directory: wherever this ends, it is at `path` whole or not at all.

    Raises:
        OSError: it is not there, or a call to the system failed before it had another name.
    """
    path = Path(os.path.abspath(path))
    temporary = _beside(path)
    os.rename(path, temporary)
    _sync(path.parent)
    shutil.rmtree(temporary, ignore_errors=True)  # what is left is for sweep


def make_durable(path: Path) -> None:
    """Make a directory, unless it is there, and wait until its name is on the disk. Its parent must exist."""
    if not path.is_dir():
        os.mkdir(path)
        _sync(path.parent)


def sweep(parent: Path) -> list[Path]:
    """Remove the temporary directories in `parent` of processes that are no more; return their paths.

    A directory of another computer cannot be told from one of a dead process: where several may write, sweep while
    holding the lock that keeps the others out.
    """
    parent = Path(os.path.abspath(parent))
    removed = []
    for name in sorted(os.listdir(parent)):
        match = _TEMPORARY.fullmatch(name)
        path = parent / name
        if match and not path.is_symlink() and path not in _writing and not _lives_elsewhere(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _beside(path: Path) -> Path:
    """A new name for a temporary directory of this process."""
    return path.parent / f".tmp-{path.name}-{os.getpid()}-{secrets.token_hex(4)}"


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no directories; it keeps their names durable by itself
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lives_elsewhere(process: int) -> bool:
    """Whether there is another process of this number."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
