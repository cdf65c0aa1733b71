"""Side by side: the rounds of two stored runs, without those that are stored by the same text."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import zip_longest

from state.position import Place
from state.sqlite import SqliteStore

Stored = tuple[int, Place, int, object]
"""Of a round the number of its first record, its place, its template and its values as they are stored."""

Pair = tuple[Stored | None, Stored | None]

_COLUMNS = ("seq", "epoch", "phase", "batch", "upd", "template", "vals")


def unlike(ours: SqliteStore, theirs: SqliteStore, agree: Mapping[int, int]) -> Iterator[Pair]:
    """Pairs of rounds in order, None for a run that has no more; left out are those that tell the same.

    As long as the runs have the same templates their rounds have the same numbers, and SQLite can compare them, given
    that none is missing. From the first round with another template on all pairs are given.

    Args:
        ours: a run of which no round is missing.
        theirs: one whose values stand for the same texts.
        agree: templates of `ours` with those of `theirs` that stand for the same slots.
    """
    cases = " ".join(f"WHEN {one} THEN {other}" for one, other in agree.items())
    is_same = " AND ".join(f"ours.{name} IS theirs.{name}" for name in _COLUMNS[1:5] + _COLUMNS[6:])
    both = ", ".join(f"{run}.{name}" for run in ("ours", "theirs") for name in _COLUMNS)
    query = (
        f"SELECT {both} FROM main.segment AS ours LEFT JOIN other.segment AS theirs ON theirs.seq = ours.seq "
        f"WHERE NOT ({is_same} AND theirs.template IS CASE ours.template {cases} END) ORDER BY ours.seq"
    )
    end = 0
    with ours.reading(), closing(sqlite3.connect(ours.address("ro"), uri=True)) as connection:
        connection.execute("ATTACH ? AS other", [theirs.address("ro")])
        for row in connection.execute(query if agree else "SELECT 0 WHERE 0"):
            one, other = _stored(row[:7]), _stored(row[7:]) if row[7] is not None else None
            if other is None or agree.get(one[2]) != other[2]:
                yield from zip_longest(_rest(connection, "main", one[0]), _rest(connection, "other", one[0]))
                return
            yield one, other
        if agree:
            (end,) = connection.execute("SELECT coalesce(max(seq), -1) + 1 FROM main.segment").fetchone()
        yield from zip_longest(_rest(connection, "main", end), _rest(connection, "other", end))


def _rest(connection: sqlite3.Connection, run: str, since: int) -> Iterator[Stored]:
    query = f"SELECT {', '.join(_COLUMNS)} FROM {run}.segment WHERE seq >= ? ORDER BY seq"
    return map(_stored, connection.execute(query, [since]))


def _stored(row: tuple[int, int | None, str | None, int | None, int | None, int, object]) -> Stored:
    seq, *place, template, values = row
    return seq, tuple(place), template, values  # type: ignore[return-value]
