"""What a write replaced: the write before it that was still valid, as the scopes were."""

from state.changes import ABSENT, Change
from state.openings import KEPT, PLACED
from state.position import Place, Position
from state.records import Record, Records
from state.scopes import RUN

Held = dict[str, tuple[Record, Place]]
"""Writes by field, each with the place that tells its scope from others."""


class Latest:
    """The last valid write of each field, as one goes through the records in order.

    The place tells one regular epoch, phase or batch from the next; all else is told by "open" and "close", as
    `Openings` writes them: what opens hides the values of its scope, closing gives them back.
    """

    def __init__(self, told: str | None = None) -> None:
        """Begin where nothing is held. `told`: a scope that no place tells from others there."""
        self._held: Held = {}
        self._told = told
        self._open: list[tuple[str, Place, Held]] = []  # scope, the place that surrounds it, what it hides

    def before(self, record: Record) -> Record | None:
        """The write that this one replaces."""
        slot = record.slot
        earlier, place = self._held.get(slot.field or "", (None, record.place))
        if slot.scope == self._told or (self._open and any(scope == slot.scope for scope, _, _ in self._open)):
            return earlier
        depth = PLACED.get(slot.scope, 0)
        return earlier if place[:depth] == self._outside(record.place)[:depth] else None

    def add(self, record: Record) -> None:
        """Go past a record."""
        slot = record.slot
        if slot.kind == "write" and slot.field is not None:
            self._held[slot.field] = record, self._outside(record.place)
        elif slot.kind == "open" and slot.evidence == RUN:
            self._open.clear()
            self._told = None
            self._held = {name: held for name, held in self._held.items() if held[0].slot.scope == RUN}
        elif slot.kind == "open":
            self._open.append((slot.evidence, record.place, self._take(slot.evidence)))
        elif slot.kind == "close":
            self._close(slot.evidence, is_kept=record.value == KEPT)

    def at(self, place: Place, depth: int) -> dict[str, Record]:
        """The writes that are valid in so many parts of a place."""
        found = {}
        for name, (record, held) in self._held.items():
            scope = record.slot.scope
            parts = PLACED.get(scope, 0)
            is_told = any(opened == scope for opened, _, _ in self._open)
            if parts <= depth and (is_told or held[:parts] == place[:parts]):
                found[name] = record
        return found

    def _close(self, scope: str, *, is_kept: bool) -> None:
        if not any(opened == scope for opened, _, _ in self._open):  # its opening is no longer in the log
            self._take(scope)
            return
        while self._open:
            opened, place, hidden = self._open.pop()
            inner = self._take(opened)
            if is_kept and opened == scope:
                here = self._outside(place)
                hidden = {name: (record, here) for name, (record, _) in inner.items()}
            self._held.update(hidden)
            if opened == scope:
                return

    def _outside(self, place: Place) -> Place:
        """The place outside of all that was told: inside, places are those of what is told, not of what goes on."""
        return next((outer for scope, outer, _ in self._open if scope in PLACED), place) if self._open else place

    def _take(self, scope: str) -> Held:
        """Take away what is held of a scope."""
        taken = {name: held for name, held in self._held.items() if held[0].slot.scope == scope}
        for name in taken:
            del self._held[name]
        return taken


def replaced_by(records: Records, record: Record) -> Record | None:
    """The write that `record` replaced, looking back no further than it takes to know."""
    field, scope = record.slot.field, record.slot.scope
    if field is None:
        return None
    marks = records.marks({scope, *PLACED} if scope in PLACED else {scope}) if scope != RUN else set()
    read: list[Record] = []
    closed: list[str] = []  # scopes that are closed later than where we are, the outermost first
    for earlier in records.read(records.writes([field]) | marks, before=record.seq, backward=True):
        read.append(earlier)
        kind, of = earlier.slot.kind, earlier.slot.evidence
        if kind == "close":
            closed.append(of)
        elif kind == "open" and closed and closed[-1] == of:
            closed.pop()
        elif (kind == "open" and of in (scope, RUN)) or (kind == "write" and not closed):
            break
    found = _last(read, record)
    if found is None and scope in PLACED and read and read[-1].slot.kind == "write" and _is_told(records, read[-1].seq):
        return _last(read, record, told=scope)  # no place tells anything here
    return found


def with_before(records: Records, record: Record) -> Change:
    """A record as a change, with the value that it replaced."""
    return change_of(record, replaced_by(records, record))


def change_of(record: Record, replaced: Record | None) -> Change:
    """A record as a change; where it replaced no write, the value before is the default."""
    seq, t_ns, place, slot, after = record
    if slot.field is None:
        before: object = None
    elif slot.kind != "write":  # the write of which it tells is on record already
        before = ABSENT
    else:
        before = slot.default if replaced is None else replaced.value
    what = (slot.actor, slot.kind, slot.field, before, after, slot.evidence)
    return Change(seq, t_ns / 1e9, *what, Position(*place), slot.source)


def _last(backward: list[Record], record: Record, told: str | None = None) -> Record | None:
    latest = Latest(told)
    for earlier in reversed(backward):
        latest.add(earlier)
    return latest.before(record)


def _is_told(records: Records, before: int) -> bool:
    """Whether, just before a record, an epoch, phase or batch is open whose opening was told."""
    if records.marks(PLACED) == records.marks([]):  # only of the run
        return False
    closed: list[str] = []
    for record in records.read(records.marks(PLACED), before=before, backward=True):
        scope = record.slot.evidence
        if scope == RUN:
            break
        if record.slot.kind == "close":
            closed.append(scope)
        elif closed and closed[-1] == scope:
            closed.pop()
        elif not closed:
            return True
    return False
