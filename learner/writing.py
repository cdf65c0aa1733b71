"""Writing: checkpoints to the disk, at once or behind the run."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from learner.checkpoints import Checkpoints
from state.bundle import write_bundle
from state.memory import Memory
from state.snapshot import Snapshot


class Writer:
    """Writes the checkpoints of a run, and drops those that are not to be kept once a newer one is on the disk.

    Behind the run, one is copied at once and written by a thread; before the next one begins it is waited for, and what
    went wrong is raised then. The copies keep their memory from one checkpoint to the next.
    """

    def __init__(self, checkpoints: Checkpoints, spare: Callable[[Checkpoints], set[int]], *, behind: bool) -> None:
        """`spare` says which checkpoints are to be kept."""
        self._checkpoints = checkpoints
        self._spare = spare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if behind else None
        self._in_flight: Future[None] | None = None
        self._memory = Memory()

    def write(self, snapshot: Snapshot, run: dict[str, Any]) -> None:
        """Write one.

        Raises:
            CheckpointError: this one, or behind the run the one before it, could not be written, or an older one not be
                removed.
        """
        self.wait()
        if self._thread is None:
            self._write(snapshot, run)
        else:
            self._in_flight = self._thread.submit(self._write, snapshot.cloned(self._memory), run)

    def wait(self) -> None:
        """Wait for what is being written; raise what went wrong."""
        in_flight, self._in_flight = self._in_flight, None
        if in_flight is not None:
            in_flight.result()

    def close(self) -> None:
        """Wait for the last one."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def _write(self, snapshot: Snapshot, run: dict[str, Any]) -> None:
        write_bundle(self._checkpoints.next(), snapshot.tensors, {"state": snapshot.document, "run": run})
        self._checkpoints.keep_only(self._spare(self._checkpoints))
