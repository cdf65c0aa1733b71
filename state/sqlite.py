"""A store in one SQLite file: what a crash leaves can be read, and others may read while the run writes."""

import platform
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from state.errors import LogDamaged, RunNotFound, nearest, suggestion
from state.position import ANYWHERE, Asked, Place
from state.runs import LOG_FILE
from state.sqlite_query import PLACE_COLUMNS, extracted, is_short, joined, past, placed
from state.sqlite_schema import APPLICATION_ID, BY_TEMPLATE, FORMAT, SCHEMA
from state.stores import (
    UNBOUND,
    ActorRow,
    Bounds,
    FieldRow,
    Row,
    Segment,
    SlotRow,
    Tables,
    Wanted,
    from_json,
    to_json,
)

_BEGUN = """
SELECT 1 FROM segment JOIN template_slot USING (template) JOIN slot ON slot.id = template_slot.slot
JOIN actor ON actor.id = slot.actor WHERE actor.path <> 'setup' LIMIT 1
"""


_INDEXED = "SELECT 1 FROM sqlite_master WHERE name = 'by_template'"

_RARE = 1_000
"""Rounds that are faster found by the index of templates and sorted, than in a pass over all."""

_CHUNK = 512
"""Rounds whose values are read at once."""


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
        with self.reading():
            address = self.address("ro" if read_only else "rwc")
            self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        self._finish = weakref.finalize(self, _close, self._connection, seal=not read_only)
        try:
            with self.reading():
                (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables or read_only:
                    self._check()
                else:
                    self._begin()
                if tables and not read_only:
                    with suppress(sqlite3.OperationalError):  # the disk is full: it is a matter of speed only
                        self._connection.execute(BY_TEMPLATE)
                self._is_indexed = bool(self._connection.execute(_INDEXED).fetchone())
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
            with closing(cls.open(path)) as store, store.reading():
                return store._connection.execute(_BEGUN).fetchone() is not None
        except LogDamaged:
            return not _is_blank(path)

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
        with self.reading():
            execute = self._reader().execute
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
        asked: Asked = ANYWHERE,
        beyond: Bounds = UNBOUND,
    ) -> Iterator[Segment]:
        """Read from the file while it is iterated."""
        with self.reading():
            where = placed(since, before, asked) + past(wanted or {}, beyond)
            where += [("""instr(vals, '{"f":') > 0""", [])] if nonfinite else []
            source = "segment"
            if wanted is not None:
                chosen = f"template IN ({', '.join(map(str, sorted(wanted)))})"
                is_rare = self._is_rare(chosen)
                source += " INDEXED BY by_template" if is_rare else ""
                where.append((chosen if is_rare else f"+{chosen}", []))  # with "+" no index is looked for
            columns = f"{PLACE_COLUMNS}, template, {'vals' if wanted is None else extracted(wanted)}"
            conditions, given = joined(where)
            query = f"SELECT {columns} FROM {source} WHERE {conditions} ORDER BY seq {'DESC' if backward else 'ASC'}"
            picked = {} if wanted is None else {t: indices for t, indices in wanted.items() if not is_short(indices)}
            for rows in _chunks(self._reader().execute(query, given)):
                found = _read(rows)
                for (seq, t_ns, epoch, phase, batch, update, template, _), stored in zip(rows, found, strict=True):
                    indices = picked.get(template)
                    of_wanted = stored if indices is None else [stored[index] for index in indices]
                    yield seq, t_ns, (epoch, phase, batch, update), template, of_wanted

    def times(self, asked: Asked = ANYWHERE, before: int | None = None) -> dict[int, int]:
        """How many segments each template has."""
        where, given = joined(placed(None, before, asked))
        with self.reading():
            by = "template" if asked == ANYWHERE else "+template"  # in the index is no place
            query = f"SELECT template, count(*) FROM segment WHERE {where} GROUP BY {by}"
            return dict(self._reader().execute(query, given).fetchall())

    def view(self) -> "SqliteStore":
        """Itself: a file only grows."""
        return self

    def version(self) -> object:
        """What is another one after each write, whoever wrote."""
        with self.reading():
            (others,) = self._reader().execute("PRAGMA data_version").fetchone()
            return others, self._reader().total_changes

    def _is_rare(self, chosen: str) -> bool:
        """Whether so few rounds have one of the chosen templates that the index is the way to find them."""
        if not self._is_indexed:
            return False
        query = f"SELECT count(*) FROM (SELECT 1 FROM segment WHERE {chosen} LIMIT {_RARE})"
        return int(self._reader().execute(query).fetchone()[0]) < _RARE

    def stored(self) -> Iterator[tuple[int, Place, int, object]]:
        """Read from the file while it is iterated."""
        with self.reading():
            query = "SELECT seq, epoch, phase, batch, upd, template, vals FROM segment ORDER BY seq"
            for seq, epoch, phase, batch, update, template, values in self._reader().execute(query):
                yield seq, (epoch, phase, batch, update), template, values

    def count(self) -> int:
        """How many records the file holds."""
        with self.reading():
            query = "SELECT coalesce(sum(length), 0) FROM segment JOIN template ON template.id = segment.template"
            return int(self._reader().execute(query).fetchone()[0])

    def address(self, mode: str) -> str:
        """What SQLite opens the file by, to be read ("ro") or written ("rwc")."""
        return f"{self.path.absolute().as_uri()}?mode={mode}"

    def _reader(self) -> sqlite3.Connection:
        """The connection; once it is closed, another one to the file, which stands alone then."""
        if not self._finish.alive:
            self._connection = sqlite3.connect(self.address("ro"), uri=True, check_same_thread=False)
            self._finish = weakref.finalize(self, _close, self._connection, seal=False)
        return self._connection

    def close(self) -> None:
        """Write nothing more, and close the file; also done when the store is collected or the interpreter ends."""
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
    def reading(self) -> Iterator[None]:
        """What says of an error in reading that the file is damaged."""
        try:
            yield
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise LogDamaged(self.path, f"{error}.") from error


def _new(table: dict[Row, int], saved: int) -> list[tuple[Row, int]]:
    """The rows that were added to a table since it had `saved` of them."""
    return list(islice(table.items(), saved, None))


def _chunks(cursor: sqlite3.Cursor) -> Iterator[list[tuple[Any, ...]]]:
    """Rows by and by: few at first, for who wants the first ones only."""
    size = 1
    while rows := cursor.fetchmany(size):
        yield rows
        size = min(2 * size, _CHUNK)


def _read(rows: list[tuple[Any, ...]]) -> list[Any]:
    """The values of rows, whose texts come last: read in one go, which takes a third of the time."""
    found = from_json(f"[{','.join([row[-1] for row in rows])}]")
    if len(found) != len(rows):
        raise ValueError("a round of it is no list of values")
    return list(found)


def _is_blank(path: Path) -> bool:
    """Whether a file is a database without a table, which is what a kill leaves before the first is made."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as found:
        return found.execute("SELECT 1 FROM sqlite_master").fetchone() is None
    return False


def _close(connection: sqlite3.Connection, seal: bool) -> None:
    if seal:
        with suppress(sqlite3.Error):  # a reader still has it open: the file stays as it is, and is whole
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
