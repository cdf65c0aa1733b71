"""Committing: whatever call to the system fails, or is the last one, a directory is there whole or not at all."""

import ast
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from state import CheckpointError, commit, digested
from state.bundle import read_bundle, verify_bundle, write_bundle
from state.commit import committed, discard, sweep

CALLS = (
    "close",
    "fsync",
    "listdir",
    "lstat",
    "mkdir",
    "open",
    "rename",
    "rmdir",
    "unlink",
    "write",
)  # every one that a write makes
WHEN = ("instead", "after")  # the call was not made; or it was made, and still reported a failure
TENSORS = {"model": {"w": torch.arange(4.0), "b": torch.ones(2)}, "optimizer": {"w/step": torch.tensor(3)}}
DOCUMENTS = {"state": {"epoch": 2}, "loader": [1, 2]}
FILES = ("loader.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")

Fault = Callable[[int, str, Callable[..., Any], tuple[Any, ...]], Any]


@contextmanager
def each_call(fault: Fault) -> Iterator[list[tuple[str, str]]]:
    """Within the block, `fault(number, name, call, arguments)` stands for each call to the system, from 0."""
    made: list[tuple[str, str]] = []
    paths: dict[int, str] = {}

    def standing_for(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **options: Any) -> Any:
            at = arguments[0]
            made.append((name, paths.get(at, "?") if isinstance(at, int) else str(at)))
            done = fault(len(made) - 1, name, lambda *given: call(*given, **options), arguments)
            if name == "open":
                paths[done] = str(at)
            return done

        return stand_in

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, standing_for(name, getattr(os, name)))
        yield made


def make(number: int, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """No fault at all."""
    return call(*arguments)


def failing(at: int, error: int, when: str, *, for_ever: bool = False) -> Fault:
    """The call `at` fails; also all that come later if `for_ever`."""

    def fault(number: int, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if number != at and not (for_ever and number > at):
            return call(*arguments)
        if when == "after" or name == "close":  # a close that fails has closed
            call(*arguments)
        raise OSError(error, os.strerror(error))

    return fault


def dying(at: int, when: str) -> Fault:
    """The process is no more at the call `at`, before it or after it."""

    def fault(number: int, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if number == at and when == "instead":
            if name == "write":  # part of it may have arrived
                call(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os._exit(9)
        try:
            return call(*arguments)
        finally:
            if number == at:
                os._exit(9)

    return fault


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def count_of_calls(folder: Path) -> int:
    with each_call(make) as made:
        write_bundle(folder / "count", TENSORS, DOCUMENTS)
    shutil.rmtree(folder / "count")
    return len(made)


def is_whole(path: Path) -> bool:
    """Whether a bundle is at `path`, complete and equal; False if nothing is. Anything else fails."""
    if not os.path.lexists(path):
        return False
    assert verify_bundle(path) == []
    found = read_bundle(path)
    assert found.documents == DOCUMENTS
    assert found.tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(found.tensors[group][name], TENSORS[group][name]) for group in TENSORS for name in TENSORS[group]
    )
    return True


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with an earlier bundle in it."""
    write_bundle(tmp_path / "earlier", {"model": {"w": torch.zeros(3)}}, {"state": 1})
    return tmp_path


def test_all_is_on_the_disk_before_it_has_its_name(runs: Path) -> None:
    with each_call(make) as made:
        write_bundle(runs / "new", TENSORS, DOCUMENTS)
    names = [(call, Path(path).name) for call, path in made if call not in ("lstat", "listdir", "close", "open")]
    temporary = names[0][1]
    assert temporary.startswith(f".tmp-new-{os.getpid()}-")
    order = [call for call, _ in names]
    assert order == ["mkdir", *["write"] * order.count("write"), *["fsync"] * 6, "rename", "fsync"]
    *files, last_but_one, last = [name for call, name in names if call == "fsync"]
    assert (sorted(files), last_but_one, last) == (sorted(FILES), temporary, runs.name)  # several files at a time
    assert names[-9][:1] == ("write",) and names[-9][1] == "manifest.json"  # the last that is written
    assert sorted(path.name for path in runs.iterdir()) == ["earlier", "new"]


def test_every_call_to_the_system_is_among_those_that_are_made_to_fail() -> None:
    used = set()
    for module in (commit, digested):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("os", "shutil")
            ):
                used.add(f"{node.value.id}.{node.attr}")
    flags = {name for name in used if name.startswith("os.O_")} | {"os.name", "os.path", "os.getpid"}
    only_read = {"os.fstat"}
    cleaning = {"shutil.rmtree", "os.kill"}
    assert used - flags - only_read - cleaning <= {f"os.{name}" for name in CALLS}


@pytest.mark.parametrize(
    ("error", "for_ever"),
    [
        pytest.param(error, for_ever, id=f"{errno.errorcode[error]} {'for ever' if for_ever else 'once'}", marks=marks)
        for error, for_ever, marks in [
            (errno.ENOSPC, False, ()),
            (errno.EIO, False, pytest.mark.slow),
            (errno.EACCES, False, pytest.mark.slow),
            (errno.ENOSPC, True, pytest.mark.slow),
            (errno.EIO, True, pytest.mark.slow),
            (errno.EACCES, True, pytest.mark.slow),
        ]
    ],
)
def test_a_call_that_fails_leaves_all_or_nothing_and_is_told(error: int, for_ever: bool, runs: Path) -> None:
    earlier, calls = contents(runs / "earlier"), count_of_calls(runs)
    whole = 0
    for when in WHEN:
        for at in range(calls):
            path = runs / f"{when}-{at}"
            with each_call(failing(at, error, when, for_ever=for_ever)) as made:
                try:
                    write_bundle(path, TENSORS, DOCUMENTS)
                except CheckpointError as caught:
                    assert os.strerror(error) in str(caught) and caught.path == str(path)
                    assert isinstance(caught.__cause__, OSError) and caught.__cause__.errno == error
                    told = True
                else:
                    told = False
            assert told or made[at][0] == "lstat"  # asking whether the path exists answers no
            whole += is_whole(path)
            assert contents(runs / "earlier") == earlier
            left = [each for each in runs.iterdir() if each.name.startswith(".tmp-")]
            assert for_ever or not left
            assert sweep(runs) == left and not any(each.name.startswith(".tmp-") for each in runs.iterdir())
    asked = 0 if for_ever else 2  # the write goes on where only asking for the path had failed
    assert whole - asked == 7  # the rename was made, or the open, the sync or the close of the folder above failed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("stride", [8, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_process_that_is_killed_at_any_call_leaves_all_or_nothing(stride: int, when: str, runs: Path) -> None:
    earlier, calls = contents(runs / "earlier"), count_of_calls(runs)
    outcomes = []
    for at in sorted({*range(0, calls, stride), *range(calls - 8, calls)}):
        path = runs / f"at-{at}"
        child = os.fork()
        if not child:
            with each_call(dying(at, when)):
                write_bundle(path, TENSORS, DOCUMENTS)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        outcomes.append(is_whole(path))
        assert contents(runs / "earlier") == earlier
        sweep(runs)
        assert not any(each.name.startswith(".tmp-") for each in runs.iterdir())
        write_bundle(runs / f"again-{at}", TENSORS, DOCUMENTS)  # the next process goes on
    assert outcomes == sorted(outcomes)  # nothing up to the rename, all from there on
    assert outcomes.count(True) == (3 if when == "instead" else 4)  # open, sync and close of the folder above


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
@pytest.mark.parametrize("when", WHEN)
def test_a_bundle_that_goes_is_whole_or_gone_at_any_call(when: str, runs: Path) -> None:
    write_bundle(runs / "count", TENSORS, DOCUMENTS)
    with each_call(make) as made:
        discard(runs / "count")
    assert [path.name for path in runs.iterdir()] == ["earlier"]
    assert "unlink" in {name for name, _ in made}
    outcomes = []
    for at in range(len(made)):
        write_bundle(runs / f"at-{at}", TENSORS, DOCUMENTS)
        child = os.fork()
        if not child:
            with each_call(dying(at, when)):
                discard(runs / f"at-{at}")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        outcomes.append(is_whole(runs / f"at-{at}"))
        sweep(runs)
        assert not any(each.name.startswith(".tmp-") for each in runs.iterdir())
    assert outcomes == [when == "instead", *[False] * (len(made) - 1)]  # up to the rename


def test_a_bundle_that_cannot_go_stays_whole(runs: Path) -> None:
    write_bundle(runs / "new", TENSORS, DOCUMENTS)
    with each_call(failing(0, errno.EIO, "instead")), pytest.raises(OSError, match="Input/output error"):
        discard(runs / "new")
    assert is_whole(runs / "new")
    with pytest.raises(FileNotFoundError):
        discard(runs / "none")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_real_limit_in_the_middle_of_a_write_is_told(runs: Path) -> None:
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(CheckpointError, match="cannot be written: .*File too large"):
            write_bundle(runs / "new", {"model": {"w": torch.zeros(10**6)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in runs.iterdir()] == ["earlier"]


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(runs: Path) -> None:
    def sparing(number: int, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return call(arguments[0], arguments[1][:7]) if name == "write" else call(*arguments)

    with each_call(sparing):
        write_bundle(runs / "new", TENSORS, DOCUMENTS)
    assert is_whole(runs / "new")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_an_error_in_the_block_leaves_nothing_and_goes_on(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), committed(tmp_path / "new") as folder:
        (folder / "a").write_bytes(b"a")
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "directory", "broken link"])
def test_what_is_at_the_path_is_never_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new"
    there = {"file": path.touch, "directory": path.mkdir, "broken link": lambda: path.symlink_to("nowhere")}
    there[kind]()  # type: ignore[operator]
    with pytest.raises(FileExistsError, match="nothing is ever written over it"), committed(path):
        pytest.fail("the block is entered")
    assert [each.name for each in tmp_path.iterdir()] == ["new"]


def test_what_came_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="new"), committed(tmp_path / "new") as folder:
        (folder / "a").write_bytes(b"mine")
        with committed(tmp_path / "new") as other:
            (other / "a").write_bytes(b"theirs")
    assert contents(tmp_path / "new") == {"a": b"theirs"}
    assert [each.name for each in tmp_path.iterdir()] == ["new"]


def test_a_name_relative_to_the_working_directory_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with committed(Path("new")) as folder:
        (folder / "a").write_bytes(b"a")
        os.chdir("/")  # what a stage may do in the meantime
    assert contents(tmp_path / "new") == {"a": b"a"}


def test_only_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    dead = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-S", "-c", ""])
    os.waitpid(dead, 0)
    gone = [f".tmp-step-1-{dead}-0123abcd", f".tmp-a.b-c-{os.getpid()}-0123abcd", f".tmp-x-{2**70}-00000000"]
    kept = [
        f".tmp-step-1-{os.getppid()}-0123abcd",
        f"tmp-x-{dead}-00000000",
        f".tmp-x-{dead}-0000000",
        f".tmp-{dead}-00000000",
        "step-1",
    ]
    for name in gone + kept:
        (tmp_path / name / "below").mkdir(parents=True)
    link = tmp_path / f".tmp-link-{dead}-00000000"
    link.symlink_to(tmp_path / "step-1")
    with committed(tmp_path / "new") as mine:
        assert sorted(path.name for path in sweep(tmp_path)) == sorted(gone)
        assert mine.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, link.name, "new"])
    assert (tmp_path / "step-1/below").is_dir()
