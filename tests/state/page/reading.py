"""A page taken apart: its elements by a parser, its data unpacked, and logs to make pages of."""

import base64
import gzip
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from state.recording import Recording
from state.sqlite import SqliteStore

FIT = "train/epoch/fit"
ACTORS = {
    f"{FIT}/batch/unpack": ("inputs",),
    f"{FIT}/batch/gradient/loss": ("loss",),
    f"{FIT}/batch/update": ("model.params", "updates"),
    f"{FIT}/batch:after:Count.add": ("seen",),
    "external": ("lr",),
}
SCOPES = {"inputs": "batch", "loss": "batch"}
HOSTILE = (
    "</script><script>window.harmed = 'script'</script>",
    "<img src=x onerror=\"window.harmed = 'img'\">",
    "<svg/onload=\"window.harmed = 'svg'\">",
    '"><iframe src="javascript:parent.harmed=\'frame\'">',
    "<!--<script>window.harmed = 'comment'",
    "]]><style>body{display:none}</style>",
    "javascript:window.harmed='address'",
    "https://example.com/x.js",
    "${window.harmed = 'template'} {{ data }} {{ script }}",
    "&lt;b&gt; &amp;amp; &#60;",
    "__proto__",
    "constructor",
    "a/b:after:c/d",
    "'; DROP TABLE segment; --",
    "turned \u202ekcab\u202c and \u0000\u001b[31m\u2028 lines",
    "lone \udc80 surrogate",
)
"""Texts that must stay texts."""


class Parts(HTMLParser):
    """What a browser would find in a page before any script runs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)


def data_of(path: Path) -> Any:
    """The data in a page."""
    data, _ = Parts(path.read_text(encoding="utf-8")).texts["script"]
    packed = json.loads(data)
    assert packed["packing"] == "gzip+base64"
    return json.loads(gzip.decompress(base64.b64decode(packed["data"])))


def shown(data: Any) -> dict[int, dict[str, Any]]:
    """The records in a page by their numbers."""
    found = {}
    for seq, _, place, template, values, before in data["segments"]:
        for index, (slot, after, old) in enumerate(zip(data["templates"][template], values, before, strict=False)):
            actor, kind, field, evidence = data["slots"][slot]
            path, source = data["actors"][actor]
            name = None if field is None else data["fields"][field][0]
            facts = {"actor": path, "kind": kind, "field": name, "evidence": evidence, "source": source}
            found[seq + index] = facts | {"place": tuple(place), "after": after, "before": old}
    return found


def long_log(path: Path, rounds: int, *, per_epoch: int = 500, seen_every: int = 50, external_at: int = 700) -> None:
    """A log of so many regular rounds of four writes; some have one more."""
    recording = Recording(SqliteStore(path))
    slots = {}
    for actor, fields in ACTORS.items():
        recording.actor(actor, "stage", f"{actor} mine.py:1")
        for name in fields:
            recording.field(name, SCOPES.get(name, "run"), "Any", "")
            evidence = "undeclared" if actor == "external" else "inferred" if "." in name else "write"
            slots[name] = recording.slot(actor, "write", name, evidence)
    recording.touches(f"{FIT}/batch/gradient/loss", ("model.params", "lr"))
    for number in range(rounds):
        recording.position = (number // per_epoch, "fit", number % per_epoch, number)
        for name, slot in slots.items():
            is_due = {"seen": number % seen_every == seen_every - 1, "lr": number == external_at}.get(name, True)
            if is_due and slot is not None:
                values = {"inputs": ["no", "list"], "loss": 1 / (number + 1), "model.params": None}
                recording.write(slot, values.get(name, number))
        recording.cut()
    recording.close()


def hostile_log(path: Path) -> None:
    """A log in which every name, value, source and message is one of the hostile texts."""
    recording = Recording(SqliteStore(path))
    for number, text in enumerate(HOSTILE):
        recording.position = (0, text.encode("utf-8", "replace").decode(), number, number)
        recording.actor(f"{text}/{number}", "stage", f"{text} {text}:{number}")
        recording.field(f"{text}{number}", "run", "Any", text, default=text)
        for evidence in ("write", "undeclared"):
            slot = recording.slot(f"{text}/{number}", "write", f"{text}{number}", evidence)
            assert slot is not None
            recording.write(slot, text)
            recording.write(slot, {text: text})
        recording.touches(f"{text}/{number}", (f"{text}{number}",))
        seen = recording.slot(f"{text}/{number}", "seen", f"{text}{number}", "contents")
        left = recording.slot(f"{text}/{number}", "exit", None, "")
        assert seen is not None and left is not None
        recording.write(seen, text)
        recording.mark(left, ["failed", None, f"ValueError: {text}"])
        recording.cut()
    recording.close()
