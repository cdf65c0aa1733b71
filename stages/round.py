"""Round: one turn of a loop, `with state.round()`."""

from typing import TYPE_CHECKING, Any

from stages.allowed import all_declared
from stages.batch import batch_size
from stages.cancel import Cancel, Exhausted, Reached, Skip, forget, is_failure
from stages.guard import Guard, Schedule
from stages.standing import Standing
from state.watch import Look

if TYPE_CHECKING:
    from stages.node import Node

Position = tuple[int | None, str | None, int | None, int | None]


class Round:
    """Opens the loop's scope, numbers the round, counts it, takes the Cancel of that scope, runs the checkpoint point.

    One object serves all rounds of a loop. A round counts when its body ended well or by a Cancel of its own scope:
    after the stage in the slot named like the scope, before that stage's after-hooks; without one, at the round's end.

    Attributes:
        number: of this round in the run, from 1; of an evaluation, in the phase.
        position: (epoch, phase, batch, update) at its start.
        is_skipped: whether the stage in the slot named like the scope was skipped in this round.
    """

    def __init__(self, node: "Node", scope: str, counts: tuple[str | None, str | None]) -> None:
        runner = node.runner
        self.node = node
        self.runner = runner
        self.scope = scope
        specs = runner.state.specs
        self.index_name, self.total_name = (name if name in specs else None for name in counts)
        self.index_restarts = self.index_name is not None and specs[self.index_name].scope == scope
        self.is_sampled = scope in ("batch", "update")  # else its rounds are looked at as what they stand in
        self.is_numbered = scope == "batch" and self.index_name == "batch_index" and self._is_alone()
        self.schedule = Schedule() if self.is_sampled or scope == "epoch" else None
        self.samples = "samples_seen" if scope == "batch" and self.total_name and "samples_seen" in specs else None
        index = self.index_name if self.index_restarts else None  # else it is told by the position of each record
        self.index_slot, self.total_slot, self.samples_slot = (
            node.slot("write", name, "write") if name else None for name in (index, self.total_name, self.samples)
        )
        recording = runner.recording
        slot = self.total_slot if self.samples_slot is None else self.samples_slot
        self.put = None if recording is None or slot is None else recording.pen(slot)[0]
        inside = [place for child in node.place.children.values() for place in child.walk()]
        self.declared = all_declared(inside)
        self.plain: Look | None = None  # plain values of parts at the end of the last round
        self.may_end_run = scope == "update" or counts[1] is not None  # also where State has no such field
        self.point: Node | None = None  # the checkpoint point, if a hook stands there
        self.outer_raises = True
        self.number = 0
        self.position: Position = (None, None, None, None)
        self.around: Position = (None, None, None, None)  # the position outside
        self.is_told = False  # whether the log was told that it began
        self.standing: Standing | None = None  # while its checkpoint point runs

    def __enter__(self) -> "Round":
        runner, values, recording = self.runner, self.runner.values, self.runner.recording
        self.outer, self.outer_timed, self.outer_audited = runner.round, runner.timed, runner.audited
        self.hidden = runner.scopes.open(self.scope)
        self.is_counted = self.is_last = self.is_skipped = False
        runner.round = self
        total: Any = values[self.total_name] if self.total_name is not None else None
        if self.index_name is not None:
            index: int = values.get(self.index_name, -1) + 1
            if self.index_restarts:  # its scope is that of the round, so it is told by the total
                index = self.number if total is None else total
            values[self.index_name] = index
            self.number = (index if total is None else total) + 1
        if self.schedule is not None:
            self._sample(self.schedule)
        get = values.get
        self.position = (get("epoch"), runner.phase, get("batch_index"), get("updates"))  # Runner.read_position
        if recording is not None:
            self.around = recording.position
            if self.index_name != "batch_index":  # its number may be that of a batch that is over
                self.position = (*self.position[:2], self.around[2], self.position[3])
            if self.hidden is not None or runner.openings.told or not self.is_numbered:
                hides = self.hidden is not None
                self.is_told = runner.openings.open(
                    self.node.path, self.scope, self.position, hides=hides, numbered=self.is_numbered
                )
            recording.cut()
            recording.position = self.position
            if self.index_slot is not None:
                recording.mark(self.index_slot, index)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        runner = self.runner
        cancelled = exhausted = failed = False
        if error is not None:
            cancelled = isinstance(error, Cancel) and error.scope == self.scope
            exhausted = isinstance(error, Exhausted)
            failed = is_failure(error)
        is_over = error is None or cancelled
        if runner.guard is not None:
            self._end_sample(runner.guard, failed)
        if is_over and not self.is_counted:
            self.count(None)
        if exhausted and self.index_name is not None and not self.index_restarts:
            runner.values[self.index_name] -= 1  # there was no such batch
        if exhausted and runner.recording is not None:
            runner.recording.position = self._outside()
        runner.scopes.close(self.scope, self.hidden, failed)
        if self.is_told:
            self.is_told = False
            runner.openings.close(self.node.path, self.scope, self._outside(), keep=failed)
            if self.point is not None and runner.recording is not None:
                runner.recording.cut()
                runner.recording.position = self.position
        try:
            if self.point is not None and not failed and not exhausted:
                self.node.settle()
                self.standing = Standing.of(self.node.path, None if cancelled else error, is_last=self.is_last)
                self.point.execute()
        finally:
            self.standing = None
            runner.round, runner.timed, runner.audited = self.outer, self.outer_timed, self.outer_audited
            if runner.recording is not None:
                runner.recording.cut()
                runner.recording.position = self._outside()
        if is_over or (exhausted and self.scope == "update"):  # also after a window of cancelled batches alone
            self._end_loop()
        if cancelled and error is not None:
            forget(error)
        return cancelled

    def conclude(self, *, is_last: bool) -> None:
        """A run goes on after this round, which ended when a checkpoint was taken."""
        self.outer, self.is_last = self.runner.round, is_last
        self._end_loop()

    def _end_loop(self) -> None:
        """End the loop, or the run, if this was its last round."""
        limit = self.runner.limit
        if self.may_end_run and limit is not None and limit.is_reached(self.runner.values):
            if self.outer is not None and self.outer.scope == "update":
                raise Exhausted  # the update of these batches follows; then the loop round it ends the run
            raise Reached("run", str(limit))
        if limit is not None and self.outer is None and not self.is_sampled:
            limit.end_epoch(self.runner.values)
        if self.is_last:
            raise Exhausted

    def _sample(self, schedule: Schedule) -> None:
        """Decide whether this round is timed, and looked at by the guard."""
        runner, guard = self.runner, self.runner.guard
        outer = self.outer
        if guard is not None:
            self.outer_raises = guard.raises
        if outer is not None and outer.scope == "update":  # a batch of a window, looked at as the whole window
            return
        index = runner.values.get(self.index_name, 0) if self.index_name is not None else self.number
        is_due = schedule.is_due(index) or (guard is not None and guard.is_debugging)
        if self.is_sampled:
            is_gone_through = is_due and (runner.recording is not None or guard is not None)
            runner.timed = is_gone_through or runner.resumption is not None
        if guard is not None:
            runner.audited = is_due
            if is_due:
                guard.begin_round(is_early=schedule.is_early)
            else:
                guard.pass_by()
            if self.plain is None and self.is_sampled:
                self.plain = guard.watch.plain()

    def _end_sample(self, guard: Guard, failed: bool) -> None:
        """Compare the plain values of parts, which is done in every round."""
        if self.plain is not None and not failed and self.schedule is not None:
            self.plain = guard.compare_plain(self.plain, self.declared, self.schedule)
        if self.schedule is not None:
            guard.raises = self.outer_raises

    def count(self, error: BaseException | None) -> None:
        """Raise the totals, unless the body ended by something else than a Cancel of this scope."""
        self.is_skipped = isinstance(error, Skip)
        if error is not None and not (isinstance(error, Cancel) and error.scope == self.scope):
            return
        self.is_counted = True
        if self.total_name is None:
            return
        values, put = self.runner.values, self.put
        counts = {self.total_name: values[self.total_name] + 1}
        row: tuple[Any, ...] = () if self.total_slot is None else (self.total_slot, counts[self.total_name])
        if self.samples is not None:
            counts[self.samples] = values[self.samples] + batch_size(values.get("batch"))
            row = row if self.samples_slot is None else (*row, self.samples_slot, counts[self.samples])
        values |= counts
        if put is not None:
            put(row)  # as in `state.writer`: no signal comes between values and their records

    def _is_alone(self) -> bool:
        """Whether the field that tells this round is its own: kept by the phase it is in, changed by no loop inside."""
        phase = self.node.place.phase
        if phase is None or phase.opens != self.runner.state.specs["batch_index"].scope:
            return False
        inner = (node.round for node in self.node.walk()[1:] if node.place.phase is phase)
        return all(round is None or round.index_name != self.index_name for round in inner)

    def _outside(self) -> Position:
        """The position between two rounds: that of the loop, after all updates."""
        return (*self.around[:3], self.runner.values.get("updates"))
