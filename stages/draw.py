"""Drawings of an assembled tree: as text, and as a Mermaid flowchart for documents."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from textwrap import wrap

from stages.assembly import Assembly
from stages.place import CHECKPOINT, INLINE, HookPlace, Place, filled
from stages.slots import snake_case
from stages.stage import Composite, Stage, slot_of
from state.access import Access
from state.errors import short
from state.grid import as_html

WIDTH = 120
LABELS = 56
"""The widest column of names; what a longer name reads and writes stands in the line below it."""

_GLUE = "\x00"  # a space at which no line is broken


def draw_tree(assembly: Assembly) -> str:
    """The tree as text, in the order it runs: a line for each slot and hook, with what it reads and writes.

    A line is the slot, the stage where it is not the usual one or has settings, and `reads -> writes`; after `~` what
    may change on the way. Hooks stand in the slot they belong to: before-hooks first, then those around it, after-hooks
    last. What a composite forbids, and who is unsafe, is said in brackets.

        batch  FitBatch
          unpack           batch -> inputs, targets
          gradient
            forward        model, inputs -> outputs  ~ model.buffers, rng
    """
    rows = [(plain("  " * depth + label), access) for depth, label, access in _rows(assembly.root)]
    column = min(max(len(label) for label, _ in rows), LABELS) + 2
    lines = []
    for label, access in rows:
        told = wrap(access, WIDTH - column, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        told = [line.replace(_GLUE, " ") for line in told]
        if len(label) + 2 <= column and told:
            label = f"{label:<{column}}{told.pop(0)}"
        lines += [label, *(" " * column + rest for rest in told)]
    return "\n".join(lines)


def draw_html(assembly: Assembly) -> str:
    """The same lines as an HTML table, as notebooks show it."""
    indented = ((f"{chr(0x2003) * 2 * depth}{plain(label)}", access) for depth, label, access in _rows(assembly.root))
    return as_html(("slot or hook", "reads -> writes"), [(label, told.replace(_GLUE, " ")) for label, told in indented])


def draw_mermaid(assembly: Assembly) -> str:
    """The tree as a Mermaid flowchart: a subgraph for each composite, hooks rounded, observers on dotted arrows, unsafe
    ones in red.

    Labels are escaped, so that no name can break out of its place in a page.
    """
    numbers = {id(place): f"n{number}" for number, place in enumerate(assembly.places)}
    hooks = [hung for place in assembly.places for hung in place.hooks]
    numbers.update((id(hung), f"h{number}") for number, hung in enumerate(hooks))
    arrows: list[str] = []
    lines = [*_mermaid_hooks(_ahead(assembly.root), numbers, "  "), *_mermaid(assembly.root, numbers, arrows, "  ")]
    lines += _mermaid_hooks(assembly.root.after, numbers, "  ")
    arrows += _arrows(_line(assembly.root), numbers)
    unsafe = [place for place in assembly.places if place.kind == "stage" and place.access.unsafe]
    marked = [numbers[id(item)] for item in (*unsafe, *(hung for hung in hooks if hung.access.unsafe))]
    red = ["  classDef unsafe stroke:#d00,color:#d00", f"  class {','.join(marked)} unsafe"] if marked else []
    return "\n".join(["flowchart TD", *lines, *arrows, *red])


def plain(text: str) -> str:
    """Text without line breaks and control characters: names and settings are the user's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _rows(root: Place) -> Iterator[tuple[int, str, str]]:
    """Depth, label and access of each line."""
    waiting: list[tuple[int, Place | HookPlace, Place]] = [(0, root, root)]
    while waiting:
        depth, item, place = waiting.pop()
        if isinstance(item, HookPlace):
            yield depth, _hook_label(item), _access(filled(item.hook.contract.access, place).renamed(item.names))
            continue
        access = _declared(place)
        yield depth, _label(place), _access(access) if place.kind == "stage" else ""
        below: list[tuple[int, Place | HookPlace, Place]] = [
            (depth + 1, hung, place) for hung in (*place.before, *place.around)
        ]
        below += [(depth + 1, child, child) for child in place.children.values()]
        below += [(depth + 1, hung, place) for hung in place.after]
        waiting.extend(reversed(below))


def _declared(place: Place) -> Access:
    """What a stage declares, in State's names; of parts that it touches if they exist, those that do."""
    access = place.contract.access.renamed(place.names)
    there = (name.removesuffix("?") for name in access.touches)
    return replace(access, touches=tuple(name for name in there if "*" in name or name in place.access.touches))


def _label(place: Place) -> str:
    """The slot, its stage where that is not the usual one, and what sets it apart."""
    if place.kind == CHECKPOINT:
        return f"({place.slot})"
    if place.kind == INLINE:
        return f"{place.slot} (inline)"
    marks = [f"forbids {', '.join(place.forbids)}"] if place.forbids else []
    marks += ["unsafe"] if place.access.unsafe else []
    return _name(place) + (f" ({'; '.join(marks)})" if marks else "")


def _name(place: Place) -> str:
    told = told_as(place.stage)
    if isinstance(place.stage, Composite):
        usual = {snake_case(type(place.stage).__name__)}
    else:
        usual = {slot_of(place.stage)}
    return place.slot if place.slot in usual and not told.endswith(")") else f"{place.slot}  {told}"


def told_as(stage: Stage) -> str:
    """A stage as its author prints it: the settings of a dataclass that are not the default, or none."""
    name = type(stage).__name__
    text = short(stage)
    if text == f"{name}()" or isinstance(stage, Composite):
        return name
    if is_dataclass(stage) and text.startswith(f"{name}("):
        given = {each.name: getattr(stage, each.name) for each in fields(stage) if each.repr and each.init}
        usual = {each.name: each.default for each in fields(stage)}
        told = [f"{key}={short(value, 24)}" for key, value in given.items() if repr(value) != repr(usual[key])]
        return f"{name}({', '.join(told)})" if told else name
    return text


def _hook_label(hung: HookPlace) -> str:
    hook = hung.hook
    words = ["observer"] if hook.observes else ["unsafe"] if hung.access.unsafe else []
    words += [f"{which} {options}" for which in ("every", "first") if (options := hook.point.options.get(which))]
    words += ["when"] if hook.point.options.get("when") is not None else []
    return f"{hook.point.side} {hook.name}" + (f" ({', '.join(words)})" if words else "")


def _access(access: Access) -> str:
    """`inputs, model -> outputs  ~ model.buffers, rng`."""
    reads = [plain(name) + "?" if name in access.optional else plain(name) for name in access.reads]
    told = ", ".join(reads) + (f" ->{_GLUE}" if access.writes else "") + ", ".join(map(plain, access.writes))
    told += f"  ~{_GLUE}{', '.join(map(plain, access.touches))}" if access.touches else ""
    told += f"  restores{_GLUE}{', '.join(map(plain, access.restores))}" if access.restores else ""
    return told.lstrip()


def _line(place: Place) -> list[Place | HookPlace]:
    """A place and its hooks in running order; a point without hooks is left out."""
    if place.kind == CHECKPOINT and not place.hooks:
        return []
    return [*_ahead(place), place, *place.after]


def _mermaid(place: Place, numbers: dict[int, str], arrows: list[str], indent: str) -> Iterator[str]:
    """The lines of one place and all below it; the arrows come after all subgraphs, where they tie nothing to one."""
    number = numbers[id(place)]
    children = [child for child in place.children.values() if _line(child)]
    if not children:
        yield f'{indent}{number}["{_escaped(_label(place))}"]'
        return
    label = _label(place) + (f", each {place.each}" if place.each else "")
    yield f'{indent}subgraph {number}["{_escaped(label)}"]'
    for child in children:
        yield from _mermaid_hooks(_ahead(child), numbers, indent + "  ")
        yield from _mermaid(child, numbers, arrows, indent + "  ")
        yield from _mermaid_hooks(child.after, numbers, indent + "  ")
    yield f"{indent}end"
    arrows += _arrows([item for child in children for item in _line(child)], numbers)


def _ahead(place: Place) -> list[HookPlace]:
    """The hooks that stand before the stage, and those that stand around it."""
    return [*place.before, *place.around]


def _mermaid_hooks(hooks: list[HookPlace], numbers: dict[int, str], indent: str) -> Iterator[str]:
    for hung in hooks:
        yield f'{indent}{numbers[id(hung)]}("{_escaped(_hook_label(hung))}")'


def _arrows(items: list[Place | HookPlace], numbers: dict[int, str]) -> Iterator[str]:
    for first, second in zip(items, items[1:], strict=False):
        observer = any(isinstance(item, HookPlace) and item.hook.observes for item in (first, second))
        yield f"  {numbers[id(first)]} {'-.->' if observer else '-->'} {numbers[id(second)]}"


def _escaped(text: str) -> str:
    """Text as a Mermaid label: what is not a letter, a digit or harmless becomes a character code."""
    return "".join(c if c.isalnum() or c in " _-./,:=" else f"#{ord(c)};" for c in plain(text))
