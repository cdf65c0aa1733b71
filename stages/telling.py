"""Telling: what the log is told of the parts that a stage or a hook changed."""

from functools import partial
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LRScheduler

from stages.calling import Body
from stages.check import actors
from stages.order import covers
from stages.watching import look_at_part
from state.recording import PartPen, Recording

if TYPE_CHECKING:
    from stages.actor import Actor


def nothing() -> None:
    """What there is to tell of who changes no part."""


def tell_parts_of(actor: "Actor") -> Body:
    """The function that tells the log that the parts were changed: inferred from the declaration and a good end."""
    if actor.runner.recording is not None:
        actor.runner.recording.touches(actor.path, actor.access.touches)
    tell, watchers = _tell_of(actor), actor.runner.watchers
    names = (*actor.access.part_writes, *actor.access.touches)
    parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
    waited_for = [(name, watchers[name]) for name in parts if name in watchers]
    if not waited_for:
        return tell

    def tell_and_look() -> None:
        tell()
        for name, those in waited_for:
            look_at_part(actor, name, those)

    return tell_and_look


def _tell_of(actor: "Actor") -> Body:
    recording = actor.runner.recording
    names = (*actor.access.part_writes, *actor.access.spoils)
    names = tuple(name for name in names if "." in name and not _is_scalar(name))
    pairs = [(name, slot) for name in names if (slot := actor.slot("write", name, "inferred")) is not None]
    if recording is None or not pairs:
        return nothing
    pens = [recording.part_pen(name) for name, _ in pairs]
    if any(pens):
        return _tell_measured(actor, recording, pairs, pens)
    put, rows = recording.pen(pairs[0][1])[0], tuple(value for _, slot in pairs for value in (slot, None))
    return lambda: put(rows)


def _tell_measured(
    actor: "Actor", recording: Recording, pairs: list[tuple[str, int]], pens: list[PartPen | None]
) -> Body:
    watch = actor.runner.parts

    def tell() -> None:
        for (name, slot), pen in zip(pairs, pens, strict=True):
            recording.mark(slot, None if pen is None else pen(partial(watch.part, name)))

    return tell


def watched_parts(actor: "Actor", *, is_leaf: bool = True) -> list[tuple["Actor", str, str]]:
    """The parts with plain values that an actor writes, or may write: (actor, component, part).

    Args:
        is_leaf: whether no stages run inside it; then what it touches counts too, and is told if it stays.
    """
    if actor.runner.recording is None:
        return []
    known = actor.runner.assembly.names
    exchanged = [f"{name}.{part}" for name in actor.access.field_writes for part in ("hyper", "mode", "state")]
    touched = actor.access.touches if is_leaf else ()
    own = (*actor.access.part_writes, *touched, *(name for name in exchanged if name in known))
    names = known if actor.access.unsafe else own
    pairs = dict.fromkeys(tuple(name.split(".")[:2]) for name in names if "." in name)
    values = actor.runner.values
    return [
        (actor, owner, part)
        for owner, part in pairs
        if _is_scalar(f"{owner}.{part}") or (part == "state" and isinstance(values.get(owner), LRScheduler))
    ]


def watching(call: Body, watched: list[tuple["Actor", str, str]]) -> Body:
    """`call`, with a row in the log for each plain value of a part that is another one afterwards, however it ends.

    What is another one before it was changed by somebody who does not declare it, unless somebody touches it.
    """
    touched = {(owner, part) for actor, owner, part in watched if _is_touched(actor, f"{owner}.{part}")}

    def compare() -> None:
        for actor, owner, part in watched:
            runner = actor.runner
            if (owner, part) in touched:
                runner.scalars.note(owner, part)
                continue
            told = runner.scalars.compare(owner, part)
            if runner.guard is not None:
                runner.guard.tell_plain(f"{owner}.{part}", told)
        try:
            call()
        finally:
            for actor, owner, part in watched:
                actor.runner.scalars.compare(owner, part, actor.path)

    return compare


def _is_touched(actor: "Actor", part: str) -> bool:
    """Whether anybody in the tree may change a part on the way, of which there is no row."""
    return any(covers(name, part) for _, access in actors(actor.runner.assembly.places) for name in access.touches)


def _is_scalar(name: str) -> bool:
    """Whether a part is made of plain values, which can be compared: `optimizer.hyper`, `model.mode`."""
    return name.split(".")[1] in ("hyper", "mode")
