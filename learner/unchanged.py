"""Unchanged: why the last update did not change a parameter."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner.errors import ArgumentError
from state import ChangeLog, State
from state.errors import StateError, UnknownField
from state.parts import optimized, parts_of


def why_unchanged(state: State, log: ChangeLog, name: str) -> str:
    """Every reason there is for a parameter to stay as it is, from what State holds now and from the log.

    Args:
        name: "model.0.weight", or "model.params.0.weight".

    Raises:
        UnknownField: no module in State has such a parameter.
    """
    owner, parameter, name = _found(state, name)
    if still := _still_moved(state, parameter):
        return f"{name}: {owner}.params was last written by {_last_writer(log, owner)}. {still}"
    reasons = _frozen(parameter) + _in_groups(state, parameter) + _gradient(parameter) + _updates(parameter, state, log)
    reasons += _rounded(state, parameter)
    told = f"{name}: {owner}.params was last written by {_last_writer(log, owner)}."
    others = _other_writers(state, log, owner)
    if others and not any(one is parameter for held in state.components(Optimizer).values() for one in optimized(held)):
        told += f" No optimizer trains it: {', '.join(others)} may write it."
        return "\n- ".join([told, *_rounds_away(parameter)])
    if not reasons:
        return f"{told} Nothing keeps an optimizer from changing it: it requires gradients, has one, and is in a group."
    return "\n- ".join([f"{told} It stays as it is, because", *reasons])


def _found(state: State, name: str) -> tuple[str, Tensor, str]:
    modules = {field: value for field, value in state.__dict__.items() if isinstance(value, nn.Module)}
    known = {f"{field}.{below}": (field, one) for field, module in modules.items() for below, one in _named(module)}
    field, _, below = name.partition(".")
    plain = f"{field}.{below.removeprefix('params.')}"
    if plain not in known:
        if field in state.__dict__ and (field not in modules or below in parts_of(nn.Module)):
            told = f"{name!r} is no slot and no parameter. log.blame({name!r}) says who wrote it, fields who may."
            raise ArgumentError("explain()", "name", told)
        raise UnknownField(name, known, who="explain(): State")
    owner, parameter = known[plain]
    return owner, parameter, plain


def _named(module: nn.Module) -> list[tuple[str, Tensor]]:
    return list(module.named_parameters(remove_duplicate=False))


def _frozen(parameter: Tensor) -> list[str]:
    if parameter.requires_grad:
        return []
    return ["it is frozen: its requires_grad is False. learner.log.history('model.mode.frozen') tells since when."]


def _still_moved(state: State, parameter: Tensor) -> str:
    """What an optimizer does to a frozen parameter that has a gradient all the same, such as zeros; if it has one."""
    if parameter.requires_grad or parameter.grad is None:
        return ""
    for field, optimizer in state.components(Optimizer).items():
        if any(one is parameter for one in optimized(optimizer)):
            told = f"It is frozen, and {field!r} may change it all the same: it has a gradient, and even one of zeros "
            return f"{told}lets momentum and weight decay act. Clear it: optimizer.zero_grad(set_to_none=True)."
    return ""


def _in_groups(state: State, parameter: Tensor) -> list[str]:
    reasons, held = [], False
    for field, value in state.__dict__.items():
        for number, group in enumerate(value.param_groups if isinstance(value, Optimizer) else ()):
            if not any(one is parameter for one in group["params"]):
                continue
            held = True
            if float(group.get("lr", 1.0)) == 0.0:
                reasons.append(f"the learning rate of its group is 0: {field}.param_groups[{number}]['lr'].")
    if not held:
        told = (
            "no optimizer in State has it in a group: it was made, or put in the place of another, after the optimizer."
        )
        reasons.append(f"{told} Add it by optimizer.add_param_group(...), or make the optimizer later.")
    return reasons


def _gradient(parameter: Tensor) -> list[str]:
    gradient = parameter.grad
    if not parameter.requires_grad:
        return []
    if gradient is None:
        return ["it has no gradient: the loss does not depend on it, or its gradient was cleared and none came since."]
    if not torch.count_nonzero(gradient):
        return ["its gradient is zero everywhere: a ReLU that is dead, a mask, or a loss that is flat there."]
    if not bool(torch.isfinite(gradient).all()):
        return ["its gradient is not finite: with precision='fp16' such an update is skipped."]
    return []


def _rounded(state: State, parameter: Tensor) -> list[str]:
    """Whether a step of the size of the learning rate, as Adam's is about, is less than the type of it can hold."""
    is_read = parameter.is_floating_point() and not parameter.is_meta and parameter.layout == torch.strided
    if not is_read or parameter.dtype.itemsize < 2 or not parameter.numel():
        return []
    for field, optimizer in state.components(Optimizer).items():
        for group in optimizer.param_groups:
            rate = group.get("lr")
            if not rate or not any(one is parameter for one in group["params"]):
                continue
            half = parameter.detach().abs() * (torch.finfo(parameter.dtype).eps / 2)
            share = float((half > float(rate)).float().mean())
            if share > 0.5:
                told = f"a step of {float(rate):g}, the rate of {field!r}, is lost in rounding for {share:.0%} of it"
                return [f"{told}, which is {parameter.dtype}: keep it in float32, and compute in less (precision=)."]
    return []


def _updates(parameter: Tensor, state: State, log: ChangeLog) -> list[str]:
    updates = state.__dict__.get("updates")
    if updates == 0:
        return ["no update was made so far: state.updates is 0."]
    reasons = []
    for name, optimizer in state.components(Optimizer).items():
        if not any(one is parameter for one in optimized(optimizer)):
            continue
        for actor in _steppers(log, name):
            exits, steps = log.where(kind="exit", actor=actor), log.where(field=f"{name}.state", actor=actor)
            is_last = exits and exits[-1].seq > (steps[-1].seq if steps else -1)
            if is_last and not str(exits[-1].after).startswith("ok"):
                reasons.append(f"{actor} did not end well the last time: {exits[-1].after}, {exits[-1].position}.")
    return reasons


def _steppers(log: ChangeLog, optimizer: str) -> list[str]:
    """The stages that declare to step an optimizer."""
    return [actor for use in log.writers() if use.field == f"{optimizer}.state" for actor in use.declared]


def _other_writers(state: State, log: ChangeLog, owner: str) -> list[str]:
    """Who declares to write the parameters of a module, and steps no optimizer: the maker of an average, say."""
    try:
        uses = log.writers()
    except StateError:
        return []
    stepping = {actor for name in state.components(Optimizer) for actor in _steppers(log, name)}
    return [actor for use in uses if use.field == f"{owner}.params" for actor in use.declared if actor not in stepping]


def _rounds_away(parameter: Tensor) -> list[str]:
    """What its type does to small steps."""
    if parameter.dtype not in (torch.float16, torch.bfloat16):
        return []
    eps = torch.finfo(parameter.dtype).eps
    return [f"its type is {parameter.dtype}, where a step of less than {eps / 2:.2g} of a number is lost."]


def _last_writer(log: ChangeLog, owner: str) -> str:
    try:
        change = log.blame(f"{owner}.params")
    except StateError:
        return "nobody that the log knows of"
    return f"{change.actor} at {change.position}" if str(change.position) else change.actor
