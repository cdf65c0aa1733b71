"""The document: HTML, styles and scripts of this directory put into one file with the packed data."""

import base64
import gzip
import hashlib
import json
import os
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from state.page.collecting import Collected, collect
from state.page.limits import Limits
from state.position import Position
from state.records import Records
from state.replacing import replacing

MAX_BYTES = 4_500_000
SCRIPTS = ("data.js", "elements.js", "lists.js", "tree.js", "rows.js", "rounds.js", "history.js", "page.js")
"""In the order in which they stand in the page's one script."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was written.

    Attributes:
        path: the file.
        size: in bytes.
        facts: how much the log has and how much the page shows: "records", "rounds", "rounds_shown",
            "rounds_deviating", "violation", "ended", "not_finite".
        left_out: what the page leaves out, in words; it says so itself.
        field, position: of the first change that nobody declared, else of the first value that is not finite; None
            if there is none.
    """

    path: Path
    size: int
    facts: dict[str, int]
    left_out: tuple[str, ...]
    field: str | None = None
    position: Position | None = None


def write_page(records: Records, path: str | os.PathLike[str], limits: Limits | None = None) -> Page:
    """Write the page of a log. What is too much for 4.5 MB is left out.

    Raises:
        OSError: the file cannot be written.
    """
    limits = limits or Limits()
    while True:
        collected = collect(records, limits)
        content = document(collected).encode()
        less = limits.scaled(min(0.5, MAX_BYTES / len(content)))
        if len(content) <= MAX_BYTES or limits == less:
            break
        limits = less
    path = Path(path)
    with replacing(path) as file:
        file.write(content)
    told = Page(path, len(content), collected.facts, collected.left_out)
    first = collected.first
    return told if first is None else replace(told, field=first.slot.field, position=Position(*first.place))


def document(collected: Collected) -> str:
    """The page as text. Of the log it has nothing but base64: no name or value can be taken for markup.

    A policy in its head allows this one script and this one style sheet by their hashes, and nothing from outside.
    """
    style, script = _text("page.css"), "".join(map(_text, SCRIPTS))
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; script-src {_hash(script)}"
    parts = {"policy": f"{policy}; style-src {_hash(style)}", "style": style, "script": script}
    text = _text("page.html")
    for name, part in (parts | {"data": packed(collected.data)}).items():
        text = text.replace(f"{{{{ {name} }}}}", part)
    return text


def packed(data: Any) -> str:
    """JSON that holds data as base64 of gzip of JSON."""
    content = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    squeezed = gzip.compress(content.encode("utf-8", "backslashreplace"), compresslevel=6, mtime=0)
    return json.dumps({"packing": "gzip+base64", "data": base64.b64encode(squeezed).decode()})


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(name: str) -> str:
    return files("state.page").joinpath(name).read_text(encoding="utf-8")
