"""Writer: checkpoints at once or behind the run: a copy, one at a time, and no failure without a word."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from learner import Learner, writing
from learner.callbacks import Checkpoint
from learner.checkpoints import Checkpoints
from learner.testing import toy_learner
from learner.writing import Writer
from state import commit
from state.bundle import read_bundle
from state.errors import CheckpointError
from state.snapshot import Snapshot

Made = Callable[..., Writer]


class Disk:
    """Stands for `write_bundle`: notes what is written, writes it when it may, or refuses.

    Attributes:
        seen: the tensors of each call.
        may_write: the disk is busy until this is set.
        fails: the numbers of the calls that are refused, from 0.
    """

    def __init__(self) -> None:
        self.seen: list[dict[str, dict[str, Tensor]]] = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.fails: set[int] = set()
        self._write = writing.write_bundle
        self._passed = threading.Semaphore(0)

    def let_one_write(self) -> None:
        """Let a call pass that waits, or is about to, and see that it has. To be asked for each in turn."""
        while self._passed.acquire(blocking=False):  # those that passed while the disk was not busy
            pass
        self.may_write.set()
        assert self._passed.acquire(timeout=60)

    def __call__(self, path: Path, tensors: Any, documents: Any) -> None:
        number = len(self.seen)
        self.seen.append(tensors)
        assert self.may_write.wait(60)
        self._passed.release()
        with pytest.MonkeyPatch.context() as patch:
            if number in self.fails:
                patch.setattr(commit, "_sync", refuse)
            self._write(path, tensors, documents)


def refuse(path: Path, *others: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.fixture(name="disk")
def disk_fixture(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """What every Writer of the test writes by."""
    disk = Disk()
    monkeypatch.setattr(writing, "write_bundle", disk)
    return disk


@pytest.fixture(name="made")
def made_fixture(tmp_path: Path) -> Iterator[Made]:
    """A function that makes a Writer into `tmp_path/checkpoints`, which keeps the newest ones."""
    writers: list[Writer] = []

    def make(*, behind: bool = True, keep: int = 9) -> Writer:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.begin()
        spare = lambda there: {one.number for one in list(there)[-keep:]}  # noqa: E731
        writers.append(Writer(checkpoints, spare, behind=behind))
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("checkpoint")], "no thread is left"


def snapshot(*values: float) -> Snapshot:
    return Snapshot({"model": {"weight": torch.tensor(values)}}, {"fields": {}})


def names(folder: Path) -> list[str]:
    """All there is in the directory of the checkpoints."""
    return sorted(os.listdir(folder / "checkpoints"))


def weights(folder: Path) -> list[list[float]]:
    """What the checkpoints hold."""
    return [read_bundle(one.path).tensors["model"]["weight"].tolist() for one in Checkpoints(folder)]


def in_a_thread(act: Callable[[], object]) -> threading.Thread:
    """Something that waits, and has had the time to begin."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(0.05)
    return thread


def test_without_behind_it_is_on_the_disk_when_write_returns(made: Made, tmp_path: Path) -> None:
    writer = made(behind=False)
    writer.write(snapshot(1), {})
    assert weights(tmp_path) == [[1]]
    assert not [one for one in threading.enumerate() if one.name.startswith("checkpoint")]


def test_what_changes_after_write_is_not_in_the_copy(made: Made, disk: Disk, tmp_path: Path) -> None:
    writer, taken, run = made(), snapshot(1, 2), {"limit": {"epochs": 3}}
    disk.may_write.clear()
    writer.write(taken, run)
    taken.tensors["model"]["weight"].add_(10)
    disk.may_write.set()
    writer.close()
    assert weights(tmp_path) == [[1, 2]]


def test_two_names_of_one_tensor_stay_that_in_the_copy(made: Made, tmp_path: Path) -> None:
    writer, taken = made(), snapshot(1, 2)
    taken.tensors["model"]["tied"] = taken.tensors["model"]["weight"]
    writer.write(taken, {})
    writer.close()
    tensors = read_bundle(tmp_path / "checkpoints/0001").tensors["model"]
    assert tensors["tied"] is tensors["weight"]


def test_next_one_waits_until_the_last_one_is_written(made: Made, disk: Disk, tmp_path: Path) -> None:
    writer = made()
    disk.may_write.clear()
    writer.write(snapshot(1), {})
    waiting = in_a_thread(lambda: writer.write(snapshot(2), {}))
    assert waiting.is_alive() and len(disk.seen) == 1 and weights(tmp_path) == []
    disk.may_write.set()
    waiting.join()
    writer.wait()
    assert weights(tmp_path) == [[1], [2]]


def test_close_waits_for_the_last_one(made: Made, disk: Disk, tmp_path: Path) -> None:
    writer = made()
    disk.may_write.clear()
    writer.write(snapshot(1), {})
    closing = in_a_thread(writer.close)
    assert closing.is_alive() and weights(tmp_path) == []
    disk.may_write.set()
    closing.join()
    assert weights(tmp_path) == [[1]]


def test_memory_of_the_copies_is_kept_where_it_fits(made: Made, disk: Disk) -> None:
    writer = made()
    for taken in (snapshot(1, 2), snapshot(3, 4), snapshot(5, 6, 7), snapshot(8, 9, 10)):
        writer.write(taken, {})
        writer.wait()
    places = [one["model"]["weight"].data_ptr() for one in disk.seen]
    assert len(set(places)) == 1


def test_failure_is_raised_when_the_next_one_is_due_and_only_then(made: Made, disk: Disk, tmp_path: Path) -> None:
    writer, disk.fails = made(), {1}
    writer.write(snapshot(1), {})
    writer.write(snapshot(2), {})
    with pytest.raises(CheckpointError, match="'.*checkpoints/0002' cannot be written: .*No space left"):
        writer.write(snapshot(3), {})
    assert names(tmp_path) == ["0001"] and len(disk.seen) == 2, "nothing half done is left, nothing more was begun"
    writer.write(snapshot(4), {})
    writer.close()
    assert names(tmp_path) == ["0001", "0003"] and weights(tmp_path) == [[1], [4]]


def test_failure_of_the_last_one_is_raised_by_close_and_no_thread_is_left(
    made: Made, disk: Disk, tmp_path: Path
) -> None:
    writer, disk.fails = made(), {0}
    writer.write(snapshot(1), {})
    with pytest.raises(CheckpointError, match="'.*checkpoints/0001' cannot be written: .*No space left"):
        writer.close()
    assert names(tmp_path) == []
    writer.close()


@pytest.mark.parametrize("behind", [False, True])
def test_older_ones_go_when_a_newer_one_is_on_the_disk_and_not_before(
    behind: bool, made: Made, disk: Disk, tmp_path: Path
) -> None:
    writer, disk.fails = made(behind=behind, keep=2), {3}
    for number in range(3):
        writer.write(snapshot(number), {})
    writer.wait()
    assert names(tmp_path) == ["0002", "0003"]
    with pytest.raises(CheckpointError):
        writer.write(snapshot(3), {})
        writer.wait()
    assert names(tmp_path) == ["0002", "0003"], "the one that failed has cost none"
    writer.write(snapshot(4), {})
    writer.wait()
    assert names(tmp_path) == ["0003", "0005"]


@pytest.mark.parametrize("behind", [False, True])
def test_one_that_cannot_be_removed_is_named_and_the_newer_one_is_whole(
    behind: bool, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = made(behind=behind, keep=1)
    writer.write(snapshot(1), {})
    writer.wait()
    monkeypatch.setattr("learner.checkpoints.discard", refuse)
    with pytest.raises(CheckpointError, match="'.*checkpoints/0001' cannot be removed: No space left"):
        writer.write(snapshot(2), {})
        writer.wait()
    assert weights(tmp_path) == [[1], [2]]


def test_directory_that_is_gone_is_told(made: Made, tmp_path: Path) -> None:
    writer = made()
    (tmp_path / "checkpoints").rmdir()
    with pytest.raises(CheckpointError, match="checkpoints' cannot be read: No such file"):
        writer.write(snapshot(1), {})
        writer.wait()


def test_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match="run/checkpoints' cannot be made: Not a directory"):
        Checkpoints(tmp_path / "run").begin()


def learner_of(run_dir: Path, **settings: Any) -> Learner:
    """A Learner with a checkpoint after three and six batches, and after the eighth at the end of an epoch."""
    return toy_learner(
        callbacks=[Checkpoint("3 batches", keep=None, **settings)],
        run_dir=run_dir,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    )


def bundles(learner: Learner) -> list[Any]:
    """All tensors and the State's plain values of every checkpoint, as text: to the last digit that is printed."""
    assert learner.run_dir is not None
    found = [read_bundle(one.path) for one in Checkpoints(learner.run_dir)]
    plain = [{name: group for name, group in one.tensors.items() if name != "_values"} for one in found]
    return [
        (
            {g: {n: t.tolist() for n, t in group.items()} for g, group in groups.items()},
            one.documents["state"]["fields"],
        )
        for groups, one in zip(plain, found, strict=True)
    ]


def test_run_that_goes_on_while_the_disk_is_busy_changes_nothing_in_its_checkpoints(disk: Disk, tmp_path: Path) -> None:
    plain, behind = learner_of(tmp_path / "plain"), learner_of(tmp_path / "behind", behind=True)
    plain.fit(epochs=1)
    there: list[int] = []

    @behind.after("update")
    def hold(state: Any) -> None:
        if state.updates in (3, 6):
            disk.may_write.clear()
        if state.updates in (5, 8):
            there.append(len(list(Checkpoints(tmp_path / "behind/0001"))))
            disk.let_one_write()

    behind.fit(epochs=1)
    assert there == [0, 1], "two batches later it was not on the disk yet"
    assert bundles(behind) == bundles(plain) and len(bundles(plain)) == 3


@pytest.mark.parametrize(("failing", "updates"), [(0, 6), (1, 8), (2, 8)])
def test_fit_stops_at_the_next_point_with_what_went_wrong_behind_it(
    failing: int, updates: int, disk: Disk, tmp_path: Path
) -> None:
    learner, disk.fails = learner_of(tmp_path, behind=True), {failing}
    with pytest.raises(CheckpointError, match=f"checkpoints/000{failing + 1}' cannot be written: .*No space left"):
        learner.fit(epochs=1)
    assert learner.state.updates == updates
    assert names(tmp_path / "0001") == [f"000{number + 1}" for number in range(failing)]


def test_run_that_fails_while_one_cannot_be_written_tells_both(disk: Disk, tmp_path: Path) -> None:
    learner, disk.fails = learner_of(tmp_path, behind=True), {0}

    @learner.after("update", when=lambda state: state.updates == 5)
    def fail(state: Any) -> None:
        raise RuntimeError("no more data")

    with pytest.raises(CheckpointError, match="No space left") as caught:
        learner.fit(epochs=1)
    assert isinstance(caught.value.__context__, RuntimeError)
    assert learner.outcome.kind == "failed" and names(tmp_path / "0001") == []
