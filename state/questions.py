"""Questions about a whole run: where it went wrong first, and where it parts from another one."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from state import run_difference, tallies
from state.changes import Change, Changes
from state.errors import StateError, short
from state.first import First, beyond, nonfinite, refuse_unmeasured, upstream
from state.grid import Grid
from state.latest import with_before
from state.position import Place
from state.profile import GUARD, Spent, profile
from state.records import FORGETS, Record, Records
from state.run_difference import RunDifference
from state.tallies import Rate, Use
from state.trace import Trace, write_trace

if TYPE_CHECKING:
    from state.change_log import ChangeLog


class Questions:
    """The part of a ChangeLog that asks about a whole run."""

    _named: Callable[[], Records]
    where: Callable[..., Changes]

    def first_nonfinite(self, name: str | None = None) -> First | None:
        """The first write of NaN or an infinite number, and what it was made of; None if there is none.

        Args:
            name: of a field, a part, or what lies below; by default of all.

        Raises:
            UnknownField: nothing in the log has such a name.
            StateError: the log keeps no numbers of it.
        """
        records = self._named()
        names = records.fields if name is None else records.resolve(name)
        found = next(nonfinite(records, names), None)
        if found is None:
            refuse_unmeasured(records, names, name)
        return None if found is None else _first(records, found)

    def first(self, name: str, *, above: float | None = None, below: float | None = None) -> First | None:
        """The first write of a number, or of a tensor with an element, past a bound; of a part, its norm.

        Raises:
            UnknownField: nothing in the log has such a name.
            StateError: there is no bound, or the log keeps no numbers of it.
        """
        if above is None and below is None:
            raise StateError(f"first({name!r}) has no bound. Say above= or below=; first_nonfinite() needs none.")
        for which, bound in (("above", above), ("below", below)):
            if not (bound is None or isinstance(bound, int | float)):
                raise StateError(f"first({name!r}) wants a number, and {which}={short(bound)}.")
        records = self._named()
        names = records.resolve(name)
        found = next(beyond(records, names, above, below), None)
        if found is None:
            refuse_unmeasured(records, names, name)
        return None if found is None else _first(records, found)

    def upstream(self, change: Change) -> Changes:
        """The writes that a write was made of, the latest first: see `First`."""
        if not isinstance(change, Change):
            raise StateError(f"upstream() wants a Change, such as blame() gives, and got {short(change)}.")
        records = self._named()
        rows = records.read(records.writes({change.field}), before=change.seq + 1, backward=True)
        row = next((one for one in rows if one.seq == change.seq), None)
        return Changes([] if row is None else [with_before(records, one) for one in upstream(records, row)])

    def diff(self, other: "ChangeLog | str | os.PathLike[str]", *, tolerance: float = 0.0) -> RunDifference:
        """The first thing in which this run and another one differ, in the order in which they ran.

        Other starting weights and settings come first, then other stages, hooks, declarations and fields, then the
        first write that differs. Times do not count. What a log does not keep cannot differ: at the level "summary" a
        tensor is its dtype and shape, at "full" its bits.

        Args:
            other: a log, or the name of a stored run.
            tolerance: how far two floats may be apart, as a part of the greater one; then fingerprints do not count.

        Raises:
            RunNotFound, LogDamaged: as `ChangeLog.open`.
            StateError: one of the logs has let go of its first rounds.
        """
        if not isinstance(tolerance, int | float) or not tolerance >= 0:
            raise StateError(f"tolerance={short(tolerance)} is no part of a number. Give one that is at least 0: 1e-6.")
        log = other if isinstance(other, Questions) else self.open(other)  # type: ignore[attr-defined]
        ours, theirs = self._named(), log._named()
        if ours.store.dropped or theirs.store.dropped:
            raise StateError(f"Two runs are compared from their beginning. {FORGETS}")
        told, seeds = run_difference.starts(ours, theirs)
        if told:
            return RunDifference("start", (*seeds, *told))
        found = _apart(ours, theirs, tolerance)
        return replace(found, told=(*seeds, *found.told)) if found else found  # a seed from which nobody draws is none

    def rates(self) -> Grid[Rate]:
        """How often each field and part was written, per training batch and per update."""
        return Grid(Rate._fields, tallies.rates(self._named()))

    def writers(self) -> Grid[Use]:
        """Who declares to write and to read each field and part, beside who wrote it."""
        return Grid(Use._fields, tallies.uses(self._named()))

    def digest(self) -> str:
        """Sixty-four hexadecimal digits for all that was written, by whom and in which order; times do not count.

        Two runs have the same if their logs tell the same; at the level "full" that is the bits of every tensor.
        """
        return tallies.digest(self._named())

    def profile(self) -> Grid[Spent]:
        """Where the time goes: each stage in the rounds that were timed, and what it takes beside those inside it."""
        return Grid(Spent._fields, profile(self._named()))

    def to_trace(self, path: str | os.PathLike[str]) -> Trace:
        """Write the run as a timeline in the JSON format of Chrome's tracing, to look at in Perfetto.

        It has a slice for each batch and, in the rounds that were timed, for each stage and hook; a counter for each
        field that is a float; and marks for what nobody declared, broke an invariant, is not finite, or did not end
        well. The log keeps how long a stage took and when its round ended: what was timed is reckoned back from there,
        in the order in which it ran, so that gaps between two stages stand where the log cannot tell.

        Raises:
            StateError: nothing was recorded.
            OSError: the file cannot be written.
        """
        return write_trace(self._named(), path)

    def looked(self) -> tuple[int, int]:
        """In how many batches the guard looked at the tensors, and how many batches there are."""
        records = self._named()
        guard = {number for number, slot in enumerate(records.slots) if slot.actor == GUARD}
        looks = records.wanted(guard)
        batches: dict[Place, bool] = {}
        for place, template in records.batches():
            batches[place[:3] + (None,)] = template in looks or batches.get(place[:3] + (None,), False)
        return sum(batches.values()), len(batches)

    def violations(self) -> Changes:
        """Every change that nobody declared, by whom it is known or by `external`, and every invariant that broke.

        `looked()` tells in how many batches it was looked for in tensors.
        """
        found = [*self.where(evidence="undeclared"), *self.unattributed(), *self.where(kind="broken")]
        return Changes(sorted(found, key=lambda one: one.seq))

    def unattributed(self) -> Changes:
        """The changes of which nobody knows who made them: code outside of the tree, or what is not looked at."""
        return self.where(actor="external")


def _apart(ours: Records, theirs: Records, tolerance: float) -> RunDifference:
    """Where two runs part that start from the same."""
    structure = run_difference.structures(ours, theirs)
    if structure:
        shared = run_difference.first_shared(ours, theirs, tolerance)
        if shared is None:
            return RunDifference("structure", tuple(structure))
        return _difference("structure", ours, theirs, shared, structure)
    pair = run_difference.first_value(ours, theirs, tolerance)
    if pair is None:
        return RunDifference("none")
    record, their_record = pair
    if record is None or their_record is None:
        one = None if record is None else with_before(ours, record)
        another = None if their_record is None else with_before(theirs, their_record)
        who, last = ("first", another) if record is None else ("second", one)
        return RunDifference("length", (f"The {who} run has no more. The other one goes on: {last}",), one, another)
    kind: run_difference.Kind = "order" if run_difference.is_order(record, their_record) else "value"
    return _difference(kind, ours, theirs, (record, their_record))


def _difference(
    kind: run_difference.Kind,
    ours: Records,
    theirs: Records,
    pair: tuple[Record, Record],
    told: Iterable[str] = (),
) -> RunDifference:
    """What is told of two records that differ."""
    one, another = with_before(ours, pair[0]), with_before(theirs, pair[1])
    inputs = [] if kind == "order" else run_difference.agreement(ours, theirs, *pair)
    lines = (*told, f"first run:  {one}", f"second run: {another}")
    return RunDifference(kind, lines, one, another, tuple(inputs))


def _first(records: Records, record: Record) -> First:
    return First(with_before(records, record), Changes(with_before(records, one) for one in upstream(records, record)))
