"""Reading the change log: who changed a value, when, and what it was before."""

import os
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from state.answer import Answer, in_one_pass
from state.changes import Change, Changes
from state.cycles import FieldHistory
from state.errors import StateError, UnknownField, nearest, short, suggestion, want_text
from state.grid import Grid
from state.latest import Latest, with_before
from state.openings import PLACED
from state.position import Place, Position, PositionLike
from state.profile import GUARD
from state.questions import Questions
from state.recording import Recording
from state.records import FORGETS, Record, Records
from state.runs import LOG_FILE, find_run
from state.scopes import RUN
from state.sqlite import SqliteStore
from state.state_difference import Differing, differences
from state.stores import MemoryStore, Store

if TYPE_CHECKING:
    from state.page import Page

_RESERVED = ("setup", "user", "external", "log", GUARD)
_KINDS = ("write", "enter", "exit", "open", "close", "resume", "broken", "gap", "seen")


class ChangeLog(Questions):
    """The record of a run, to be asked. A log of a live run includes what was written up to the question."""

    def __init__(self, store: Store, recording: Recording | None = None) -> None:
        self._store = store
        self._recording = recording
        self._seen: dict[bool, tuple[object, Records]] = {}  # by `rolled_back`, as of a version of the store

    @classmethod
    def open(cls, name: str | os.PathLike[str]) -> "ChangeLog":
        """The log of a stored run: "runs/digits", "runs/digits@3", a run's directory, or a log file.

        Of a family it is that of the latest run that has begun: one that was refused, or killed before, is passed over.

        Raises:
            RunNotFound: there is no such run, or it has no log.
            LogDamaged: the file is no log, or not whole.
        """
        path = find_run(name, SqliteStore.has_begun)
        return cls(SqliteStore.open(path / LOG_FILE if path.is_dir() else path))

    def tail(self, n: int = 20) -> Changes:
        """The last records of every kind, but for those of scopes opened and closed and of the time the guard took."""
        if not isinstance(n, int) or n < 0:
            raise StateError(f"tail({short(n)}) wants how many records, 0 or more.")
        records = self._records()
        slots = enumerate(records.slots)
        shown = {number for number, slot in slots if slot.kind not in ("open", "close") and slot.actor != GUARD}
        last = list(islice(records.read(shown, backward=True), n))
        return Changes(with_before(records, record) for record in reversed(last))

    def blame(self, name: str, at: PositionLike | None = None) -> Change:
        """The last write of a field or of one of its parts, by default up to now, else to the end of the round `at`.

        What lies below a part is answered by the part: "model.params.0.weight" by "model.params".

        Args:
            name: of a field, a part, or what lies below a part.
            at: "19:fit:23" (epoch:phase:batch, parts may be left out at the end), (19, "fit", 23), or a Position.

        Raises:
            UnknownField: nothing in the log has such a name.
            StateError: it was never written, there is no such round, `at` is none, or nothing was recorded.
        """
        place = None if at is None else Position.of(at)
        records = self._named()
        names = records.resolve(name)
        before = None if place is None else records.find((place.epoch, place.phase, place.batch))[1]
        for record in records.read(records.writes(names), before=before, backward=True):
            return with_before(records, record)
        told = self._why_unwritten(records, names) + (f" {FORGETS}" if self._store.dropped else "")
        raise StateError(f"The log has no write of {name!r}{'' if place is None else f' up to {place}'}. {told}")

    def history(self, name: str) -> FieldHistory:
        """Every write of a field and of its parts. In its table, rounds that write the same are one row.

        Raises:
            UnknownField: nothing in the log has such a name.
            StateError: nothing was recorded, or nothing of this field.
        """
        records = self._named()
        names = records.resolve(name)
        if self._recording is not None and all(self._recording.level_of(each).name == "off" for each in names):
            raise StateError(f"The log has no write of {name!r}. {self._why_unwritten(records, names)}")
        return FieldHistory(Answer(records, records.writes(names)))

    def where(
        self,
        *,
        actor: str | None = None,
        field: str | None = None,
        epoch: int | range | None = None,
        phase: str | None = None,
        batch: int | range | None = None,
        kind: str | None = "write",
        evidence: str | None = None,
        rolled_back: bool = False,
    ) -> Changes:
        """The records that match all that is given.

        Args:
            actor: a pattern in which "*" stands for any characters: "*/update", "external", "*:after:*".
            field: a pattern as well: "loss", "optimizer.hyper.*".
            epoch: a number or a range, of which the log holds some.
            phase: as in a position: "fit".
            batch: a number or a range, as for `epoch`.
            kind: "write", "enter", "exit", "open", "close", "resume", "broken", "gap" or, under
                `debug()`, "seen": what a writer was seen to change of a part; None for all.
            evidence: how the change is known, the scope that is opened or closed, or the invariant that is broken.
            rolled_back: the records that no longer count, because the run was resumed from a checkpoint before them.

        Raises:
            UnknownField: `field` is no pattern, and nothing in the log has that name.
            StateError: there is no such phase, round or kind, no such `actor` if it is no pattern, or nothing was
                recorded.
        """
        if kind is not None and kind not in _KINDS:
            near = suggestion(nearest(str(kind), _KINDS))
            raise StateError(f"kind={kind!r} is none of {', '.join(map(repr, _KINDS))}, nor None for all.{near}")
        _refuse_no_numbers(epoch=epoch, batch=batch)
        for name, given in (("actor", actor), ("field", field), ("phase", phase), ("evidence", evidence)):
            if given is not None:
                want_text(given, f"where({name}={short(given)})")
        asked = (epoch, phase, batch)
        records = (
            self._records(rolled_back) if field is None and asked == (None, None, None) else self._named(rolled_back)
        )
        if field is not None and field not in records.fields and not set("*?[") & set(field):
            raise UnknownField(field, records.fields, who="The log")
        if actor is not None and not set("*?[") & set(actor):
            known = {slot.actor for slot in records.slots}
            if actor not in known and actor not in _RESERVED:
                raise StateError(f"The log knows no actor {actor!r}.{suggestion(nearest(actor, known))}")
        chosen = {
            number
            for number, slot in enumerate(records.slots)
            if (actor is None or fnmatchcase(slot.actor, actor))
            and (field is None or fnmatchcase(slot.field or "", field))
            and (kind is None or slot.kind == kind)
            and (evidence is None or slot.evidence == evidence)
        }
        changes = Changes(Answer(records, chosen, asked))
        if not changes and asked != (None, None, None):
            records.find(asked)  # raises if no record at all is there
        return changes

    def at(
        self,
        position: PositionLike | None = None,
        *,
        epoch: int | None = None,
        batch: int | None = None,
        phase: str | None = None,
    ) -> dict[str, object]:
        """The state at the end of a round, by summaries: the last write of each field whose scope held there.

        Args:
            position: as `at` of `blame`: "0", "1:fit", "1:fit:3"; or else the three by name.
            epoch, batch, phase: without a phase, a batch is that of the first phase that has one of this number.

        Raises:
            StateError: the log has no such round, or this is no position.
        """
        _refuse_no_numbers(epoch=epoch, batch=batch)
        if position is not None:
            if (epoch, batch, phase) != (None, None, None):
                raise StateError("at() wants a position, or else epoch=, phase= and batch=, not both.")
            place = Position.of(position)
            epoch, phase, batch = place.epoch, place.phase, place.batch
        standing = _standing(self._named(), (epoch, phase, batch))
        return {name: record.value for name, record in standing.items()}

    def between(self, there: PositionLike, here: PositionLike | None = None) -> Grid[Differing]:
        """What differs between the state at the end of two rounds: the values, and who wrote it last, where.

        What the log has no contents of, such as tensors at level "summary", differs if it was written in between.

        Args:
            there: as `at` of `blame`: "0", "1:fit", "1:fit:3".
            here: the other one; by default where the log ends.

        Raises:
            StateError: the log has no such round, or `there` or `here` is no position.
        """
        records = self._named()
        sides = []
        for given in (there, Position() if here is None else here):
            place = Position.of(given)
            sides.append(_standing(records, (place.epoch, place.phase, place.batch)))
        return Grid(Differing._fields, differences(*sides))

    def since(self, seq: int) -> Changes:
        """The records of the rounds that begin with number `seq` or later, for who follows a run that goes on."""
        records = self._records()
        return Changes([with_before(records, record) for record in records.read(since=seq)])

    def changes(self) -> Iterator[Change]:
        """Every record in order, read while it is iterated."""
        return in_one_pass(self._records())

    def to_html(self, path: str | os.PathLike[str]) -> "Page":
        """Write the log as one HTML file that needs no server, no network and no other file.

        Of a long run it shows a part: the first and the last rounds, those that deviate, what nobody declared, and
        histories that are thinned out. The page says what it leaves out, and so does what is returned.

        Raises:
            StateError: nothing was recorded.
            OSError: the file cannot be written.
        """
        from state.page import write_page

        return write_page(self._named(), path)

    def __len__(self) -> int:
        self._flush()
        return self._store.count()

    def __repr__(self) -> str:
        last = self.tail(1)
        where = f", the last at {str(last[0].position) or 'set-up'}" if last else ""
        gaps = "".join(f"; {gap.after}" for gap in self.where(kind="gap"))
        return f"ChangeLog of {self._store.name!r}: {len(self):,} records{where}{gaps}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.tail()._repr_html_()}"

    def _why_unwritten(self, records: Records, names: Collection[str]) -> str:
        """Why there may be no write of these fields: nobody did it yet, nobody does it, or it is not recorded."""
        writers = sorted({slot.actor for slot in records.slots if slot.kind == "write" and slot.field in names})
        if writers:
            return f"{writers} would write it."
        if self._recording is None:  # a file does not say what was left out of it
            return "No stage or hook writes it, or audit= left it out of this log."
        if any(self._recording.level_of(name).name == "off" for name in names):
            return 'Its writes are not recorded: audit= sets its level to "off". Choose "summary" or "writes".'
        return "No stage or hook writes it."

    def _flush(self) -> None:
        if self._recording is not None:
            self._recording.flush()

    def _records(self, rolled_back: bool = False) -> Records:
        self._flush()
        version = self._store.version()
        seen, records = self._seen.get(rolled_back, (None, None))
        if records is None or version is None or version != seen:
            records = Records(self._store, rolled_back=rolled_back)
            if version is not None:
                self._seen[rolled_back] = version, records
        return records

    def _named(self, rolled_back: bool = False) -> Records:
        """The records, for a question that names something in them."""
        records = self._records(rolled_back)
        if self._recording is None and isinstance(self._store, MemoryStore) and not records.fields:
            remedy = 'Choose audit="summary", the default, or audit="writes" to have a record.'
            raise StateError(f'This log is empty, because nothing was recorded (audit="off"). {remedy}')
        return records


def _refuse_no_numbers(**given: object) -> None:
    for name, value in given.items():
        if not (value is None or isinstance(value, int | range)):
            raise StateError(f"{name}={short(value)} is no number. Give a number or a range: {name}=range(1, 4).")


def _standing(records: Records, asked: tuple[int | None, str | None, int | None]) -> dict[str, Record]:
    """The last write of each field whose scope held at the end of a round; without a round, at the end of the log."""
    epoch, phase, batch = asked
    place, end = records.find(asked)
    latest = Latest()
    for record in _leading_to(records, place, end):
        latest.add(record)
    depth = 3 if batch is not None else 2 if phase is not None else 1
    return dict(sorted(latest.at(place, depth).items()))


def _leading_to(records: Records, place: Place, end: int) -> Iterator[Record]:
    """The records before `end` that tell what holds at a place: of its epoch, and the last of each field of the run."""
    marks, since = records.marks(), None
    scopes = {slot.scope for slot in records.slots if slot.kind == "write"}
    if place[0] is not None and scopes <= {RUN, *PLACED} and not marks - records.marks([]):
        since = records.epoch_begins(place, end)
        lasting = {slot.field for slot in records.slots if slot.kind == "write" and slot.scope == RUN}
        found = (next(records.read(records.writes([name]), before=since, backward=True), None) for name in lasting)
        yield from sorted((record for record in found if record is not None), key=lambda record: record.seq)
    yield from records.read(records.writes(records.fields) | marks, since=since, before=end)
