"""What is so of modes: training trains, an evaluation only looks, and what is frozen stays as it is."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stages.check import actors
from stages.invariants import Wrong
from stages.place import Place
from state import ChangeLog


def in_train_mode(state: Any, place: Place) -> Wrong | None:
    """Who writes the gradients of a model that is trained finds it in train mode. Only the flag of the whole counts."""
    optimizers = state.components(Optimizer).values()
    updated = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    written = {name.partition(".")[0] for name in place.access.writes if name.endswith(".grads")}
    for name, module in state.components(nn.Module).items():
        if name in written and not module.training and any(id(p) in updated for p in module.parameters()):
            return Wrong(f"{name} is in eval mode", (f"{name}.mode", f"{name}.mode.*"))
    return None


def in_eval_mode(state: Any, place: Place) -> Wrong | None:
    """Who computes outputs in an evaluation finds the models in eval mode. Only the flag of the whole counts."""
    read = {name.partition(".")[0] for name in place.access.reads}
    for name, module in state.components(nn.Module).items():
        if name in read and module.training:
            return Wrong(f"{name} is in train mode", (f"{name}.mode", f"{name}.mode.*"))
    return None


def left_as_found(changed: tuple[str, ...], place: Place, log: ChangeLog) -> Wrong | None:
    """An evaluation, with what stands before and around it, gives the models back as it found them.

    Who stands after it may know from it what to put there, such as the best weights so far.
    """
    parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in changed)
    left = [part for part in parts if not log.blame(part).actor.startswith(f"{place.path}:after:")]
    if not left:
        return None
    names = [name for name in changed if any(name.startswith(f"{part}.") for part in left)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Wrong(f"{', '.join(names[:3])}{more} changed", tuple(left))


def stale_statistics(state: Any, place: Place, log: ChangeLog) -> Wrong | None:
    """Of a model that follows another one, the statistics follow too, or somebody may make them anew."""
    modules = state.components(nn.Module)
    root = [*place.ancestors()][-1]
    access = [one for _, one in actors(root.walk())]
    may = {name for one in access for name in (*one.writes, *one.touches)}
    updated = {id(p) for o in state.components(Optimizer).values() for group in o.param_groups for p in group["params"]}
    for name, module in modules.items():
        is_averaged = f"{name}.params" in may and not any(id(p) in updated for p in module.parameters())
        if not is_averaged or not _statistics(module) or f"{name}.buffers" in may or any(one.unsafe for one in access):
            continue
        for other, trained in modules.items():
            if other == name or _statistics(trained).keys() != _statistics(module).keys():
                continue
            pairs = zip(_statistics(module).values(), _statistics(trained).values(), strict=True)
            is_written = any(row.actor != "setup" for row in log.where(field=f"{name}.params")[-1:])
            if is_written and not all(torch.equal(one, two) for one, two in pairs):
                told = f"{name}.buffers are what they were at the start, while those of {other} moved"
                return Wrong(f"{told}: let who writes {name}.params copy them as well", (f"{name}.params",))
    return None


def _statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one for name, one in module.named_buffers() if one.is_floating_point() and not one.is_meta}


def frozen_statistics(state: Any, changed: tuple[str, ...]) -> Wrong | None:
    """A layer with parameters, all of which are frozen, keeps its statistics too."""
    modules = state.components(nn.Module)
    for name in changed:
        field, _, below = name.split(".", 2)
        layer = modules[field].get_submodule(below.rpartition(".")[0])
        own = list(layer.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            told = f"{name} changed, and the parameters of that layer are frozen: put it into eval mode to keep it"
            return Wrong(told, (f"{field}.mode.frozen",))
    return None
