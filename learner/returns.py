"""Returns: what a Learner offers to save where it stands, to go back there, and to run one batch again."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from filelock import FileLock

from learner.bound import Bound
from learner.latest import drop_run, latest_run, lock_run
from learner.opening import Audit, reopen_recording
from learner.parting import Parting, bisect
from learner.recipes import Part
from learner.replay import Captured, Replayed, replay
from stages.limit import Limit
from state import ChangeLog
from state.bundle import read_bundle
from state.position import Position


class Returns:
    """What a Learner offers to come back to where it stood."""

    log: ChangeLog
    run_dir: Path | None
    _bound: Bound
    _lock: FileLock | None
    _audit: Audit

    def save(self, path: str | Path) -> None:
        """Write a checkpoint of what State holds now, as a new directory at `path`.

        `model.safetensors` in it is the `state_dict` of the model, for the safetensors library alone.

        Raises:
            CheckpointError: something is at `path`, or the disk refuses.
            SnapshotError: a field holds what no checkpoint can hold.
        """
        self._bound.runner.refuse_if_running()
        self._bound.keeper.save(Path(path))

    def load(self, path: str | Path, *, partial: Iterable[str] = ()) -> None:
        """Take State up from a checkpoint. If that was taken inside a run, the next `fit` goes on from there.

        Args:
            partial: patterns of fields that stay as they are: "optimizer", "best_*".

        Raises:
            CheckpointError: it is damaged. Nothing has changed.
            SnapshotError: it does not fit: everything that does not, by name. Nothing has changed.
        """
        runner = self._bound.runner
        runner.refuse_if_running()
        self._bound.keeper.give(read_bundle(Path(path)), partial=partial)
        runner.scalars.compare_hyper("user")
        if runner.guard is not None:
            runner.guard.step_in(runner.user)

    def capture(self) -> Captured:
        """What State holds now and where the generators are, in memory, for `replay`. See also `Capture`."""
        self._bound.runner.refuse_if_running()
        runner = self._bound.runner
        return Captured.of(self._bound.state, runner.root.path, Position(*runner.read_position()))

    def replay(
        self, captured: Captured, path: str | None = None, *, swap: Mapping[str, Part] | None = None
    ) -> Replayed:
        """Run a part of the tree again on what was captured, any number of times; State stays what it is.

        Hooks that observe do not run, nor does the log record it. A field of the run that was not captured, such as a
        setting of a stage in `swap`, has the value that it has now.

        Args:
            path: the part; by default the slot before which it was captured, without its before-hooks, which had run.
            swap: other stages for slots: {"loss": other_loss}.

        Raises:
            GraphError: a stage does not fit there. Nothing has changed.
            ArgumentError: the part would run epochs for ever, as the whole tree would.
        """
        return replay(self._bound, captured, path, swap or {})

    def bisect(
        self,
        captured: Captured,
        other: "Returns | None" = None,
        path: str | None = None,
        *,
        swap: Mapping[str, Part] | None = None,
        batches: int | None = None,
    ) -> Parting:
        """Find the first stage or hook that leaves something else in another tree that runs on the same.

        Both trees are run on what was captured, as `replay` runs them, and all of State is looked at after each stage
        and hook, whatever they declare: by its bits where these are few, by 64 bits of a fingerprint where they are
        more than 64 KiB. Slots are matched by their paths. States stay what they are. With neither `other` nor `swap`
        the tree runs twice, which tells whether it agrees with itself.

        It takes a look at all of State for each stage, and a second run of both trees where they part.

        Args:
            captured: by `Capture`, by a watcher or by `capture`, of this Learner.
            other: a Learner with another tree; its State takes what was captured meanwhile. A field that only one of
                the two has stays what it is.
            path: the part of the trees; by default the slot before which it was captured. `learner.capture()` and
                "fit" compare a whole pass over the data, and so tell the first batch in which they part.
            swap: other stages for slots of the second tree: {"loss": other_loss}.
            batches: end the run after so many batches of training; needed where `path` is the whole tree.

        Raises:
            GraphError: a stage of `swap` does not fit. Nothing has changed.
            SnapshotError: the State of `other` does not take what was captured. Nothing has changed.
            ArgumentError: the part would run epochs for ever, as the whole tree would without `batches`.
        """
        return bisect(self._bound, captured, (other or self)._bound, path, swap or {}, batches)

    def _take_up(self, path: Path, limit: Limit) -> None:
        """Take a checkpoint up, for a `fit` with this limit."""
        self._bound.runner.refuse_if_running()
        self._bound.keeper.give(read_bundle(path), limit=limit)

    def _take_up_latest(self, limit: Limit) -> None:
        """Take the latest run up from its newest checkpoint, in the place of this one, and say so in one line."""
        found = latest_run(self.run_dir, has_run=bool(self._bound.state.__dict__.get("batches_seen")))
        if found is None:
            return
        lock = lock_run(found.run)
        try:
            self._bound.keeper.give(found.bundle, limit=limit)
        except BaseException:
            lock.release()
            raise
        recording, store = reopen_recording(found.run, self._audit)
        self._bound.record_in(recording)
        self._bound.keep_in(found.run)
        if recording is not None and (end := found.bundle.documents["run"]["records"]) is not None:
            recording.roll_back("user", end)
        drop_run(self._lock, self.run_dir)
        self._lock, self.run_dir, self.log = lock, found.run, ChangeLog(store, recording)
        print(found)
