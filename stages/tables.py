"""Tables: the fields of an assembled tree with who writes and reads them, and one slot explained."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from stages.assembly import Assembly
from stages.check import actors, scopes_of
from stages.draw import WIDTH, plain
from stages.graph import Flow, counted, flow
from stages.order import covers
from stages.place import HookPlace, Place
from stages.slots import find_one
from state.access import Access
from state.fields import MISSING
from state.grid import as_html
from state.scopes import RUN

_COLUMNS = ("name", "type", "scope", "written by", "read by", "description")


@dataclass(frozen=True)
class FieldRow:
    """One field, or a part that somebody declares.

    Attributes:
        type: as annotated; "part" for a part.
        written_by, read_by: actor paths, in the order they run; an observer, which reads everything, is not among them.
        saved: "saved", "derived" or "volatile".
    """

    name: str
    type: str
    scope: str
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]
    description: str
    saved: str


class FieldTable(tuple[FieldRow, ...]):
    """Rows of fields; printed as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        return format_fields(self)

    def _repr_html_(self) -> str:
        return as_html(_COLUMNS, [tuple(map(plain, cells)) for cells in _cells(self)])


def fields_table(assembly: Assembly) -> FieldTable:
    """A row for each field of the schema, followed by rows for those of its parts that somebody declares."""
    written: dict[str, dict[str, None]] = defaultdict(dict)
    read: dict[str, dict[str, None]] = defaultdict(dict)
    counts = {place.path: counted(place) for place in assembly.places}
    for path, access in actors(assembly.places):
        for name in (*access.writes, *counts.get(path, ())):
            written[name][path] = None
        for name in access.reads:
            read[name][path] = None
    parts: dict[str, dict[str, None]] = defaultdict(dict)
    for name in (*written, *read):
        if "." in name:
            parts[name.partition(".")[0]][name] = None
    scopes = scopes_of(assembly.places, assembly.names)
    rows = []
    for field, spec in assembly.schema.specs.items():
        for name in (field, *sorted(parts[field])):
            is_part = name != field
            kind, told = ("part", "") if is_part else (re.sub(r"[a-z_]+\.", "", spec.type_text), spec.description)
            scope = scopes.get(name, spec.scope)
            saved = "volatile" if name.endswith(".grads") else spec.saved
            rows.append(FieldRow(name, kind, scope, tuple(written[name]), tuple(read[name]), told, saved))
    return FieldTable(rows)


def format_fields(rows: Sequence[FieldRow]) -> str:
    """Rows of fields as aligned text, at most 120 columns wide; actors by as much of their path as tells them apart."""
    return "\n".join(_aligned([_COLUMNS, *_cells(rows)]))


def _cells(rows: Sequence[FieldRow]) -> list[tuple[str, ...]]:
    short = short_names(path for row in rows for path in (*row.written_by, *row.read_by))

    def listed(paths: tuple[str, ...]) -> str:
        return ", ".join(dict.fromkeys(short[path] for path in paths))

    return [(r.name, r.type, r.scope, listed(r.written_by), listed(r.read_by), r.description) for r in rows]


def explain(assembly: Assembly, path: str) -> str:
    """What one slot reads and from whom, what it writes and for whom, and its hooks with the reasons for their order.

    Args:
        path: a slot, or as much of its path as tells it apart.

    Raises:
        UnknownSlot, AmbiguousSlot: it fits none, or several.
    """
    places = {place.path: place for place in assembly.places}
    place = places[find_one(path, list(places))]
    flows = flow(assembly)
    lines = [f"{place.path}  {_kind(place)}"]
    if place.kind == "stage":
        ahead = len(place.before) + len(place.around)
        inside = list(actors(place.walk()))[ahead : -len(place.after) or None]
        lines += _explain_access(assembly, place, inside, flows)
    for side, hooks in (("before", place.before), ("around", place.around), ("after", place.after)):
        if hooks:
            lines.append(f"  hooks {side} it, in this order:")
            lines += _explain_hooks(assembly, hooks)
    if not place.hooks:
        lines.append("  no hooks")
    return "\n".join(plain(line) for line in lines)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """For each actor path the shortest end of it that no other has: `gradient/forward`; a hook by its name."""
    waiting = list(dict.fromkeys(paths))
    short: dict[str, str] = {}
    size = 1
    while waiting:
        ends: dict[str, list[str]] = defaultdict(list)
        for path in waiting:
            ends[_end(path, size)].append(path)
        for end, same in ends.items():
            if len(same) == 1 or all(end == path for path in same):
                short.update(dict.fromkeys(same, end))
        waiting = [path for path in waiting if path not in short]
        size += 1
    return short


def _end(path: str, size: int) -> str:
    """The last `size` slots of a path; of a hook its name, then with slots, at last its side too."""
    slots, colon, hook = path.partition(":")
    if not colon:
        return "/".join(path.split("/")[-size:])
    if size > slots.count("/") + 2:
        return path
    name = hook.partition(":")[2]
    return name if size == 1 else f"{'/'.join(slots.split('/')[1 - size :])}:{name}"


def _kind(place: Place) -> str:
    if place.kind != "stage":
        told = {"inline": f"an inline stage of {type(place.stage).__name__}", "checkpoint": "a point for hooks"}
        return told[place.kind]
    words = [type(place.stage).__name__]
    words += [f"opens {place.opens!r}"] if place.opens else []
    words += [f"each round opens {place.each!r}"] if place.each else []
    words += [f"forbids {', '.join(place.forbids)}"] if place.forbids else []
    return ", ".join([*words, *(["unsafe"] if place.access.unsafe else [])])


def _explain_access(
    assembly: Assembly, place: Place, inside: list[tuple[str, Access]], flows: list[Flow]
) -> Iterator[str]:
    """Reads with their writers, writes with their readers; of a composite what passes its border."""
    paths = {path for path, _ in inside}
    counts = [name for each in place.walk() for name in counted(each) if each.path in paths]
    writes = dict.fromkeys([*(name for _, access in inside for name in access.writes), *counts])
    reads = dict.fromkeys(name for _, access in inside for name in access.reads)
    for name in reads:
        fed = [each for each in flows if each.reader in paths and (covers(each.name, name) or covers(name, each.name))]
        from_outside = dict.fromkeys(each.writer for each in fed if each.writer not in paths or len(paths) == 1)
        if from_outside:
            yield f"  reads {name}, written by {', '.join(from_outside)}"
        elif name not in writes or not fed:
            yield f"  reads {name}, {_origin(assembly, name)}"
    for name in writes:
        served = [each for each in flows if each.name == name and each.writer in paths]
        readers = dict.fromkeys(each.reader for each in served if each.reader not in paths or len(paths) == 1)
        if readers:
            yield f"  writes {name}, read by {', '.join(readers)}"
        elif not served:
            yield f"  writes {name}, which only the log and observers read"
    touches = dict.fromkeys(name for _, access in inside for name in access.touches)
    if touches:
        yield f"  may change {', '.join(touches)} on the way"


def _origin(assembly: Assembly, name: str) -> str:
    """Where a value comes from that no actor writes before."""
    spec = assembly.names.get(name)
    if spec is None or "." in name:
        return "a part of what State was given"
    if spec.scope == RUN:
        return "which State was given" if spec.default is MISSING else f"by default {spec.default!r}"
    if spec.factory is not None or spec.default is not MISSING:
        return f"its default each time {spec.scope!r} opens"
    return "which may have no value there"


def _explain_hooks(assembly: Assembly, hooks: list[HookPlace]) -> Iterator[str]:
    names = {hung.path: hung.hook.name for hung in hooks}
    for number, hung in enumerate(hooks, start=1):
        access = hung.access
        does = [f"reads {', '.join(access.reads)}"] if access.reads else []
        does += [f"writes {', '.join(access.writes)}"] if access.writes else []
        does += [f"restores {', '.join(access.restores)}"] if access.restores else []
        does += ["unsafe"] if access.unsafe else []
        told = "an observer" if hung.hook.observes else "; ".join(does) or "reads and writes nothing"
        yield f"    {number}. {hung.hook.name}: {told}"
        for edge in assembly.edges:
            if edge.first == hung.path and edge.second in names:
                yield f"       before {names[edge.second]}: it {edge.reason}"


def _aligned(table: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows in columns of at most 22, the last as wide as is left; what is longer goes on in the next line."""

    def column(number: int, width: int) -> list[list[str]]:
        return [wrap(plain(row[number]), width, break_long_words=False, break_on_hyphens=False) for row in table]

    columns = [column(number, 22) for number in range(len(table[0]) - 1)]
    widths = [max(len(line) for cell in cells for line in cell) for cells in columns]
    columns.append(column(-1, max(22, WIDTH - sum(widths) - 2 * len(widths))))
    for row in zip(*columns, strict=True):
        for number in range(max(len(cell) for cell in row)):
            parts = [cell[number] if number < len(cell) else "" for cell in row]
            yield "  ".join([*map(str.ljust, parts[:-1], widths), parts[-1]]).rstrip()
