"""Hanging: which places each hook stands at."""

from collections import defaultdict
from collections.abc import Iterator

from stages.binding import names_of
from stages.callbacks import Hook
from stages.errors import DeclarationError, UnknownSlot
from stages.finding import Finding
from stages.place import ROOT, HookPlace, Place, filled, matches
from state.access import Access


def hang(hooks: list[Hook], places: list[Place]) -> Iterator[Finding]:
    """Put every hook to the places its target names; a finding for each that matches none."""
    by_slot: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        by_slot[place.slot].append(place)
    known: dict[str | type, list[Place]] = {}
    for hook in hooks:
        names = names_of(hook.callback)
        target = hook.point.target
        if target not in known:
            last = target.rpartition("/")[2] if isinstance(target, str) else "*"
            nearby = places[:1] if target == ROOT else places if "*" in last else by_slot.get(last, [])
            known[target] = [place for place in nearby if matches(place, target, None)]
        inside = narrowed(hook)
        found = [place for place in known[target] if all(matches(place, target, one) for one in inside)]
        if not found:
            yield Finding("error", "unmatched target", (hook.name,), _unmatched(hook, places))
        for place in found:
            path = f"{place.path}:{hook.point.side}:{hook.name}"
            try:
                access = filled(hook.contract.access, place)
            except DeclarationError as error:
                yield Finding("error", "unmatched target", (path,), f"{hook.name}: {error}")
                continue
            getattr(place, hook.point.side).append(HookPlace(hook, path, access.renamed(names), names, place))


def unplaced(hooks: list[Hook], places: list[Place]) -> Iterator[tuple[str, Access]]:
    """What hooks without a place declare of the fields of others."""
    placed = {id(hung.hook) for place in places for hung in place.hooks}
    for hook in hooks:
        if id(hook) not in placed:
            access, own = hook.contract.access.renamed(names_of(hook.callback)), hook.callback.fields()
            names = [
                name for name in (*access.reads, *access.writes) if not ("{" in name or "*" in name or name in own)
            ]
            yield hook.name, Access(tuple(name for name in names if name.partition(".")[0] not in own))


def narrowed(hook: Hook) -> list[str | type]:
    """What a hook has to stand inside of, by its author and by its user."""
    given = (hook.point.options.get("within"), vars(hook.callback).get("_within"))
    return [inside for inside in given if inside is not None]


def _unmatched(hook: Hook, places: list[Place]) -> str:
    target = hook.point.target
    if isinstance(target, type):
        told = f"{hook.name} stands {hook.point.side} {target.__name__}, but the tree has no such phase."
        return f"{told} Put one into the tree, or take the hook out."
    if paths := [place.path for place in places if matches(place, target, None)]:
        inside = [one.__name__ if isinstance(one, type) else one for one in narrowed(hook)]
        shown = " and ".join(map(repr, inside))
        told = f"{hook.name} stands {hook.point.side} {target!r} within {shown}, but that slot is not inside it."
        return f"{told} It is at {', '.join(map(repr, paths))}: name a place above that."
    return str(UnknownSlot(target, [place.path for place in places], hook.name))
