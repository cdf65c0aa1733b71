"""Changed: what a program that goes on with a run has otherwise than the program that began it, in words."""

from collections.abc import Iterator, Mapping
from difflib import ndiff
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stages import Assembly
from stages.describing import settings_of
from state import State
from state.packing import Packer

_PLAIN = (bool, int, float, str, type(None))
_MOVES = {"last_epoch", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "last_lr", "step_count"}
"""What a scheduler counts; the rest of its state are its settings."""

_REMEDY = "for those of the code: learner.load(path), set them in its param_groups, then fit() without resume="
_SCHEDULED = ". The initial_lr of a schedule is also in its base_lrs"


def described(assembly: Assembly, state: State, seed: int | None) -> dict[str, Any]:
    """What is compared: stages, hooks that may change something, their plain settings, those of schedules, the seed."""
    owners: dict[str, object] = {place.path: place.stage for place in assembly.places if place.kind == "stage"}
    owners |= {hook.name: hook.callback for hook in assembly.hooks if not hook.observes}
    settings = {
        f"{owner}.{name}": value for owner, thing in owners.items() for name, value in settings_of(thing).items()
    }
    held = {name: value for name, value in state.__dict__.items() if isinstance(value, LRScheduler)}
    schedules = {name: _settings(Packer().pack(one.state_dict(), name)) for name, one in held.items()}
    return {"tree": _lines(assembly), "settings": settings, "schedules": schedules, "seed": seed}


def hyper_of(state: State) -> dict[str, list[Any]]:
    """The settings of the optimizers by name, "optimizer.hyper.lr", each with its value in every parameter group."""
    return {
        f"{name}.hyper.{key}": [_plain(group.get(key)) for group in optimizer.param_groups]
        for name, optimizer in state.components(Optimizer).items()
        for key in optimizer.param_groups[0]
        if key not in ("params", "param_names")
    }


def changes(then: Mapping[str, Any], now: Mapping[str, Any], held: Mapping[str, list[Any]]) -> list[str]:
    """What differs, one line each; of the trees, and of the optimizers' settings, the lines that do.

    Args:
        held: what the optimizers have now that the checkpoint was taken up.
    """
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
    if lost := "".join(_lost(then.get("hyper", {}), now["hyper"], held)):
        remedy = _REMEDY + (_SCHEDULED if ".initial_lr=" in lost else "")
        told.append(f"the optimizer's settings, which are those of the checkpoint ({remedy}):{lost}")
    return told


def _lost(then: Mapping[str, list[Any]], now: Mapping[str, list[Any]], held: Mapping[str, list[Any]]) -> Iterator[str]:
    """The settings that the code has otherwise than it had, and that the checkpoint has overwritten."""
    for name in [name for name in then if name in now and name in held]:
        scheduled = f"{name.removesuffix('lr')}initial_lr"  # what the user gave; the scheduler has set the other
        if name.endswith(".lr") and scheduled in then and scheduled in now:
            continue
        before, after, stays = _shown(then[name]), _shown(now[name]), _shown(held[name])
        if before != after and after != _shown(held[name][: len(now[name])]):
            began = "" if stays == before else f" ({before} when the run began)"
            yield f"\n    {name}={stays} in the checkpoint{began}, {after} in the code"


def _shown(values: list[Any]) -> str:
    """One value for all groups, or that of each."""
    return repr(values[0] if all(value == values[0] for value in values) else values)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if type(value) in _PLAIN else type(value).__name__


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
