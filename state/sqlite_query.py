"""Pieces of queries: which rounds of a log are asked for, and which of their values."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from state.position import Asked
from state.stores import Bounds, Wanted

PLACE_COLUMNS = "seq, t_ns, epoch, phase, batch, upd"

_FEW = 4
"""Values that are faster taken out of a text by SQLite than read with all others."""

_SLACK = 1e-12
"""How far SQLite may be off, as a part of a number, when it reads one."""

_MOST = 2**62
"""No number of a round is as high."""

Condition = tuple[str, list[Any]]
"""A condition in SQL, and what stands for its question marks."""


def placed(since: int | None, before: int | None, asked: Asked) -> list[Condition]:
    """What holds of rounds in a part of the run."""
    found: list[Condition] = [] if before is None else [("seq < ?", [before])]
    found += [] if since is None else [("seq >= ?", [since])]
    pairs = zip(("epoch", "phase", "batch"), asked, strict=True)
    return found + [_matching(column, want) for column, want in pairs if want is not None]


def _matching(column: str, want: int | str | range) -> Condition:
    """What `is_within` says of one part of a place."""
    if isinstance(want, range):
        step = abs(want.step)
        low, high = sorted((want[0], want[-1])) if want else (1, 0)
        text = f"{column} BETWEEN ? AND ? AND ({column} - ?) % ? = 0"
        return text, [max(low, -_MOST), min(high, _MOST), min(low % step, _MOST), min(step, _MOST)]
    if isinstance(want, str):
        return (f"{column} = ?", [want.encode(errors="replace").decode()]) if column == "phase" else ("0", [])
    return (f"{column} = ?", [want]) if column != "phase" and abs(want) < _MOST else ("0", [])


def past(wanted: Wanted, beyond: Bounds) -> list[Condition]:
    """What holds at least of rounds in which a wanted value is past a bound. To SQLite a text is past all numbers."""
    tests = {"> ?": (beyond[0], -_SLACK, (2, 4)), "NOT BETWEEN ? AND 9e999": (beyond[1], _SLACK, (1,))}
    cases: list[str] = []
    given: list[Any] = []
    for template, indices in wanted.items():
        found = [] if is_short(indices) else ["1"]
        for index in indices if is_short(indices) else ():
            for test, (bound, slack, parts) in tests.items():
                if bound is not None:
                    paths = [f"$[{index}]", *(f"$[{index}][{part}]" for part in parts)]
                    value, *inner = [f"json_extract(vals, '{path}')" for path in paths]
                    of_summary = f"coalesce({', '.join([*inner, value])}) {test}"
                    is_past = f"typeof({value}) <> 'text' OR {of_summary}"
                    found.append(f"CASE WHEN {value} {test} THEN {is_past} END")  # AND would look at both, always
                    given += [bound + abs(bound) * slack] * 2
        cases.append(f"WHEN {template} THEN {' OR '.join(found)}")
    return [(f"CASE template {' '.join(cases)} END", given)] if given else []


def joined(conditions: list[Condition]) -> tuple[str, list[object]]:
    """All of them in one, and what stands for its question marks."""
    return " AND ".join(text for text, _ in conditions) or "1", [value for _, given in conditions for value in given]


def is_short(indices: Sequence[int]) -> bool:
    """Whether a few values are faster taken out of the text by SQLite than all of them read."""
    return len(indices) <= _FEW and sqlite3.sqlite_version_info >= (3, 38)


def extracted(wanted: Wanted) -> str:
    """An expression for the values at these indices, as they stand in the text."""
    texts = {
        template: " || ',' || ".join(f"(vals -> '$[{index}]')" for index in indices) or "''"
        for template, indices in wanted.items()
        if is_short(indices)
    }
    cases = " ".join(f"WHEN {template} THEN '[' || {text} || ']'" for template, text in texts.items())
    return f"CASE template {cases} ELSE vals END" if cases else "vals"
