"""Changed: what a program that goes on with a run has otherwise than the program that began it, in words."""

from collections.abc import Mapping
from difflib import ndiff
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from stages import Assembly
from state import State
from state.packing import Packer

_PLAIN = (bool, int, float, str, type(None))
_MOVES = {"last_epoch", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "last_lr", "step_count"}
"""What a scheduler counts; the rest of its state are its settings."""


def described(assembly: Assembly, state: State, seed: int | None) -> dict[str, Any]:
    """What is compared: stages, hooks that may change something, their plain settings, those of schedules, the seed."""
    owners: dict[str, object] = {place.path: place.stage for place in assembly.places if place.kind == "stage"}
    owners |= {hook.name: hook.callback for hook in assembly.hooks if not hook.observes}
    settings = {
        f"{owner}.{name}": value
        for owner, thing in owners.items()
        for name, value in getattr(thing, "__dict__", {}).items()
        if type(value) in _PLAIN and not name.startswith("_")
    }
    held = {name: value for name, value in state.__dict__.items() if isinstance(value, LRScheduler)}
    schedules = {name: _settings(Packer().pack(one.state_dict(), name)) for name, one in held.items()}
    return {"tree": _lines(assembly), "settings": settings, "schedules": schedules, "seed": seed}


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, one line each; of the trees the lines that do."""
    told = []
    if differing := [line for line in ndiff(then["tree"], now["tree"]) if line[0] in "+-"]:
        told.append("the tree:" + "".join(f"\n    {line}" for line in differing))
    for name in [name for name in then["settings"] if name in now["settings"]]:
        if (before := then["settings"][name]) != (after := now["settings"][name]):
            told.append(f"{name}={before!r} then, {after!r} now")
    if then["seed"] != now["seed"]:
        told.append(f"seed={then['seed']!r} then, {now['seed']!r} now, which seeds nothing any more")
    for name in [name for name in then["schedules"] if name in now["schedules"]]:
        if then["schedules"][name] != now["schedules"][name]:
            told.append(f"{name}: its settings are those of the checkpoint, not those that it was made with")
    return told


def _settings(packed: Any) -> Any:
    """A packed state without what moves."""
    if isinstance(packed, dict) and "dict" in packed:
        pairs = [pair for pair in packed["dict"] if not str(pair[0]).startswith("_") or pair[0] == "_schedulers"]
        return {str(key): _settings(value) for key, value in pairs if key not in _MOVES}
    return [_settings(each) for each in packed] if isinstance(packed, list) else packed


def _lines(assembly: Assembly) -> list[str]:
    """The stages, and the hooks that may change something, in the order they stand."""
    lines = []
    for place in assembly.places:
        if place.kind == "stage":
            lines.append(f"{place.path}: {type(place.stage).__name__}")
        for hung in place.hooks:
            access = hung.access
            if access.writes or access.touches or access.restores or access.spoils or access.unsafe:
                lines.append(f"{place.path} {hung.hook.point.side} {hung.hook.name}")
    return lines
