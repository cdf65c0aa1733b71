"""Files that are digested while they are written: the same sums and bytes, however they are cut up on the way."""

import errno
import hashlib
import os
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from state import CheckpointError, digested
from state.bundle import verify_bundle, write_bundle
from state.digested import Digest, write_file
from state.tensor_files import _memory


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50), st.integers(1, 50))
def test_sums_are_those_of_the_bytes_that_are_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes], piece: int, stretch: int
) -> None:
    path = tmp_path_factory.mktemp("files") / "one"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digested, "PIECE", piece)
        patch.setattr(digested, "STRETCH", stretch)
        digest, crcs = write_file(path, blocks)
    whole = b"".join(blocks)
    assert path.read_bytes() == whole
    assert digest == Digest(len(whole), hashlib.sha256(whole).hexdigest())
    assert crcs == [zlib.crc32(block) for block in blocks]


def test_blocks_that_are_made_on_the_way_outlive_their_digesting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digested, "PIECE", 2**10)
    monkeypatch.setattr(digested, "STRETCH", 2**12)

    def fetched() -> Iterator[memoryview]:
        for number in range(50):
            yield _memory(torch.full((2**12,), number, dtype=torch.uint8))

    digest, _ = write_file(tmp_path / "one", fetched())
    expected = b"".join(bytes([number]) * 2**12 for number in range(50))
    assert digest.sha256 == hashlib.sha256(expected).hexdigest()
    assert (tmp_path / "one").read_bytes() == expected


@pytest.mark.parametrize("when", ["instead", "after"])
def test_a_stretch_that_the_disk_refuses_is_told_and_nothing_is_left(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digested, "PIECE", 64)
    monkeypatch.setattr(digested, "STRETCH", 128)
    sync, numbers, failing = os.fsync, count(), -1

    def stand_in(descriptor: int) -> None:
        number = next(numbers)  # several files are synced at a time
        if number != failing or when == "after":
            sync(descriptor)
        if number == failing:
            raise OSError(errno.EIO, "no such luck")

    monkeypatch.setattr(os, "fsync", stand_in)
    tensors = {"model": {"weight": torch.arange(100.0)}}
    write_bundle(tmp_path / "0", tensors, {})
    assert verify_bundle(tmp_path / "0") == []
    calls, in_the_end = next(numbers), 4  # both files once more, their directory, and the one above
    assert calls > in_the_end + 3
    for at in range(calls - 1):  # after the very last one it would be there
        numbers, failing = count(), at
        with pytest.raises(CheckpointError, match="cannot be written: no such luck"):
            write_bundle(tmp_path / "1", tensors, {})
        assert [path.name for path in tmp_path.iterdir()] == ["0"]
