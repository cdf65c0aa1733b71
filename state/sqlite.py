"""A store in one SQLite file: what a crash leaves can be read, and others may read while the run writes."""

import platform
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

import torch

from state.errors import LogDamaged, RunNotFound, nearest, suggestion
from state.position import Place
from state.runs import LOG_FILE
from state.stores import ActorRow, FieldRow, Row, Segment, SlotRow, Tables, Wanted, from_json, to_json

APPLICATION_ID = 0x53544C47  # "STLG"
FORMAT = 1

_FEW = 4

SCHEMA = f"""
BEGIN IMMEDIATE;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
CREATE TABLE run (key TEXT PRIMARY KEY, value);
CREATE TABLE actor (id INTEGER PRIMARY KEY, path TEXT, kind TEXT, source TEXT);
CREATE TABLE field (id INTEGER PRIMARY KEY, name TEXT, scope TEXT, type TEXT, description TEXT, "default" TEXT);
CREATE TABLE slot (id INTEGER PRIMARY KEY, actor INTEGER, kind TEXT, field INTEGER, evidence TEXT);
CREATE TABLE template (id INTEGER PRIMARY KEY, length INTEGER);
CREATE TABLE template_slot (template INTEGER, idx INTEGER, slot INTEGER, PRIMARY KEY (template, idx)) WITHOUT ROWID;
-- texts that stand for values: a tensor's dtype and shape, a collection's keys or length, the name of a class
CREATE TABLE meta (id INTEGER PRIMARY KEY, text TEXT);
-- one row per round. vals: a JSON array, one value per slot of the template: a plain value,
-- [id of a meta text], [that, low, high, mean, norm, fingerprint, where it is not finite], {{"f": "nan" | "inf" |
-- "-inf"}}, or [outcome, duration in ns, reason] where a stage is left
CREATE TABLE segment (
    seq INTEGER PRIMARY KEY, t_ns INTEGER, epoch INTEGER, phase TEXT, batch INTEGER, upd INTEGER,
    template INTEGER, vals TEXT
);
-- one row per record: who (actor) wrote what (field, value), when (seq, t_ns, position), known how (evidence);
-- kind is write, enter or exit of a stage, open or close of a scope, and field is null for all but the first. Scopes
-- (named as evidence) are told where the position does not tell one from the next; the run is, each time it begins
CREATE VIEW change AS
SELECT
    segment.seq + item.key AS seq, t_ns, epoch, phase, batch, upd, actor.path AS actor, slot.kind AS kind,
    field.name AS field,
    CASE
        WHEN item.type = 'object' THEN json_extract(item.value, '$.f')
        WHEN item.type = 'array' AND json_type(item.value, '$[0]') = 'integer'
            THEN (SELECT text FROM meta WHERE id = json_extract(item.value, '$[0]'))
        ELSE item.value
    END AS value,
    evidence
FROM segment, json_each(segment.vals) AS item
JOIN template_slot ON template_slot.template = segment.template AND template_slot.idx = item.key
JOIN slot ON slot.id = template_slot.slot
JOIN actor ON actor.id = slot.actor
LEFT JOIN field ON field.id = slot.field;
-- one row per write that was measured, at the levels stats and full: numbers of the elements, of a part only the norm;
-- a fingerprint of their bits, and the first tensor of a part that is not finite
CREATE VIEW measured AS
SELECT
    segment.seq + item.key AS seq, t_ns, epoch, phase, batch, upd, actor.path AS actor, field.name AS field,
    json_extract(item.value, '$[1]') AS low, json_extract(item.value, '$[2]') AS high,
    json_extract(item.value, '$[3]') AS mean, json_extract(item.value, '$[4]') AS norm,
    json_extract(item.value, '$[5]') AS fingerprint, json_extract(item.value, '$[6]') AS not_finite
FROM segment, json_each(segment.vals) AS item
JOIN template_slot ON template_slot.template = segment.template AND template_slot.idx = item.key
JOIN slot ON slot.id = template_slot.slot
JOIN actor ON actor.id = slot.actor
JOIN field ON field.id = slot.field
WHERE item.type = 'array' AND json_type(item.value, '$[0]') = 'integer' AND json_array_length(item.value) = 7;
-- one row per time a stage was left: its outcome (ok, failed, cancelled and so on), how long it took (null if it was
-- not timed), and why it ended (null if ok): for a cancelled one who did it and what ends by it, 'actor (scope): why'.
-- Where stages are timed, there is a row for each hook too, and for each look of the guard
CREATE VIEW stage AS
SELECT
    seq, t_ns, epoch, phase, batch, upd, actor, json_extract(value, '$[0]') AS outcome,
    json_extract(value, '$[1]') AS duration_ns, json_extract(value, '$[2]') AS reason
FROM change WHERE kind = 'exit';
COMMIT;
"""

_BEGUN = """
SELECT 1 FROM segment JOIN template_slot USING (template) JOIN slot ON slot.id = template_slot.slot
JOIN actor ON actor.id = slot.actor WHERE actor.path <> 'setup' LIMIT 1
"""


class SqliteStore:
    """The whole record of a run, in one file.

    The thread that writes may be any one at a time. A reader opens the file for itself, is never waited for, and sees
    what was written when its query began. Once closed, the file stands alone and can be read on a read-only disk.
    """

    dropped = 0

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        """Begin the log in `path`, or continue the one that is there.

        Raises:
            LogDamaged: the file is there and is no log.
        """
        self.path = Path(path)
        self.name = str(path)
        address = self.path.absolute().as_uri() + ("?mode=ro" if read_only else "?mode=rwc")
        with self._reading():
            self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        self._finish = weakref.finalize(self, _close, self._connection, seal=not read_only)
        try:
            with self._reading():
                (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables or read_only:
                    self._check()
                else:
                    self._begin()
                self._saved = self.tables().sizes()
                next(self.segments(backward=True), None)
        except LogDamaged:
            self._connection.close()
            raise

    @classmethod
    def open(cls, path: str | Path) -> "SqliteStore":
        """The log in `path`, to be read; its run may still be writing.

        Raises:
            RunNotFound: no such file.
            LogDamaged: the file is another program's, or not whole.
        """
        path = Path(path)
        if not path.is_file():
            there = sorted(str(other) for other in path.parent.glob("*.db"))
            near = nearest(str(path), there)
            raise RunNotFound(str(path), "There is no such log." + suggestion(near))
        return cls(path, read_only=True)

    @classmethod
    def has_begun(cls, run: Path) -> bool:
        """Whether the log in a run's directory tells of more than its set-up, or is damaged, which has to be told."""
        path = run / LOG_FILE
        if not path.is_file() or not path.stat().st_size:  # the process was killed, or has just started
            return False
        try:
            with closing(cls.open(path)) as store, store._reading():
                return store._connection.execute(_BEGUN).fetchone() is not None
        except LogDamaged:
            return True

    def write(self, tables: Tables, segments: Sequence[Segment]) -> None:
        """Add what is new in one transaction; a crash keeps it whole or leaves nothing of it."""
        sizes = tables.sizes()
        if not segments and sizes == self._saved:
            return
        with self._connection as connection:
            if sizes != self._saved:
                self._write_tables(tables)
            # A signal may fall between this commit and the recording's note of it; then the same rows come again.
            connection.executemany(
                "INSERT OR IGNORE INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(seq, t_ns, *place, template, to_json(values)) for seq, t_ns, place, template, values in segments],
            )
        self._saved = sizes

    def tables(self) -> Tables:
        """The tables as they are in the file now."""
        with self._reading():
            execute = self._connection.execute
            templates: dict[int, list[int]] = {}
            for template, slot in execute("SELECT template, slot FROM template_slot ORDER BY template, idx"):
                templates.setdefault(template, []).append(slot)
            actors = execute("SELECT path, kind, source FROM actor ORDER BY id")
            fields = execute('SELECT name, scope, type, description, "default" FROM field ORDER BY id')
            slots = execute("SELECT actor, kind, field, evidence FROM slot ORDER BY id")
            metas = execute("SELECT text FROM meta ORDER BY id")
            made = Tables(
                {ActorRow(*row): number for number, row in enumerate(actors)},
                {FieldRow(*row): number for number, row in enumerate(fields)},
                {SlotRow(*row): number for number, row in enumerate(slots)},
                {tuple(slots): number for number, slots in templates.items()},
                {text: number for number, (text,) in enumerate(metas)},
            )
            if not made.are_whole():
                raise ValueError("its tables of names do not fit together")
            return made

    def segments(
        self,
        wanted: Wanted | None = None,
        *,
        since: int | None = None,
        before: int | None = None,
        backward: bool = False,
        nonfinite: bool = False,
    ) -> Iterator[Segment]:
        """Read from the file while it is iterated."""
        chosen = "1" if wanted is None else f"template IN ({', '.join(map(str, sorted(wanted)))})"
        values = "vals" if wanted is None else _extracted(wanted)
        places = [] if before is None else [f"seq < {before:d}"]
        places += [] if since is None else [f"seq >= {since:d}"]
        places += ["""instr(vals, '{"f":') > 0"""] if nonfinite else []
        columns = f"seq, t_ns, epoch, phase, batch, upd, template, {values}"
        order = "DESC" if backward else "ASC"
        with self._reading():
            query = f"SELECT {columns} FROM segment WHERE {' AND '.join([chosen, *places])} ORDER BY seq {order}"
            for seq, t_ns, epoch, phase, batch, update, template, text in self._connection.execute(query):
                found = from_json(text)
                if wanted is not None and not _is_short(wanted[template]):
                    found = [found[index] for index in wanted[template]]
                yield seq, t_ns, (epoch, phase, batch, update), template, found

    def stored(self) -> Iterator[tuple[int, Place, int, object]]:
        """Read from the file while it is iterated."""
        with self._reading():
            query = "SELECT seq, epoch, phase, batch, upd, template, vals FROM segment ORDER BY seq"
            for seq, epoch, phase, batch, update, template, values in self._connection.execute(query):
                yield seq, (epoch, phase, batch, update), template, values

    def count(self) -> int:
        """How many records the file holds."""
        with self._reading():
            query = "SELECT coalesce(sum(length), 0) FROM segment JOIN template ON template.id = segment.template"
            return int(self._connection.execute(query).fetchone()[0])

    def close(self) -> None:
        """Close the file; also done when the store is collected or the interpreter ends."""
        self._finish()

    def _begin(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(SCHEMA)
        facts = {"started": time.time(), "python": platform.python_version(), "torch": str(torch.__version__)}
        with self._connection as connection:
            connection.executemany("INSERT INTO run VALUES (?, ?)", (facts | {"host": platform.node()}).items())

    def _check(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise LogDamaged(self.path, "it is empty, or the database of another program.")
        if version > FORMAT:
            raise LogDamaged(
                self.path, f"its format is {version}, and this version knows {FORMAT}. Install a newer one."
            )
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _write_tables(self, tables: Tables) -> None:
        actors, fields, slots, templates, metas = self._saved
        insert = self._connection.executemany
        insert("INSERT OR IGNORE INTO actor VALUES (?, ?, ?, ?)", [(n, *row) for row, n in _new(tables.actors, actors)])
        insert(
            "INSERT OR IGNORE INTO field VALUES (?, ?, ?, ?, ?, ?)",
            [(n, *row) for row, n in _new(tables.fields, fields)],
        )
        insert("INSERT OR IGNORE INTO slot VALUES (?, ?, ?, ?, ?)", [(n, *row) for row, n in _new(tables.slots, slots)])
        insert("INSERT OR IGNORE INTO meta VALUES (?, ?)", [(n, text) for text, n in _new(tables.metas, metas)])
        for row, n in _new(tables.templates, templates):
            insert("INSERT OR IGNORE INTO template VALUES (?, ?)", [(n, len(row))])
            insert("INSERT OR IGNORE INTO template_slot VALUES (?, ?, ?)", [(n, *item) for item in enumerate(row)])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise LogDamaged(self.path, f"{error}.") from error


def _new(table: dict[Row, int], saved: int) -> list[tuple[Row, int]]:
    """The rows that were added to a table since it had `saved` of them."""
    return list(islice(table.items(), saved, None))


def _is_short(indices: Sequence[int]) -> bool:
    """Whether a few values are faster taken out of the text by SQLite than all of them read."""
    return len(indices) <= _FEW and sqlite3.sqlite_version_info >= (3, 38)


def _extracted(wanted: Wanted) -> str:
    """An expression for the values at these indices, as they stand in the text."""
    texts = {
        template: " || ',' || ".join(f"(vals -> '$[{index}]')" for index in indices)
        for template, indices in wanted.items()
        if indices and _is_short(indices)
    }
    cases = " ".join(f"WHEN {template} THEN '[' || {text} || ']'" for template, text in texts.items())
    return f"CASE template {cases} ELSE vals END" if cases else "vals"


def _close(connection: sqlite3.Connection, seal: bool) -> None:
    if seal:
        with suppress(sqlite3.Error):  # a reader still has it open: the file stays as it is, and is whole
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
