"""Replacing: a file is there whole or not at all."""

from pathlib import Path

import pytest

from state.replacing import replacing


def test_file_takes_the_place_of_the_one_before_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_missing_directory_and_one_in_its_place_are_named(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="no such directory: '.*/missing'"),
        replacing(tmp_path / "missing/page"),
    ):
        pass
    with pytest.raises(IsADirectoryError, match="name a file in it"), replacing(tmp_path):
        pass
