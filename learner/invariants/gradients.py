"""What is so of gradients: what is to learn gets one, who has one is updated, and none is kept for nothing."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner.invariants.updates import stepped
from stages.invariants import Wrong
from stages.place import Place

UPDATES = 3
"""So many updates of an optimizer are waited for."""


class Ungraded:
    """Whatever an optimizer is to train has a gradient in one of its first updates, and one of them is not zero."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._graded: set[int] = set()  # by any update: an optimizer may hold what another one trains
        self._has_any: dict[str, bool] = {}

    def __call__(self, state: Any, place: Place) -> str | None:
        count = self._seen.get(place.path, 0)
        if count >= UPDATES:
            return None
        trained = [
            parameter
            for optimizer in stepped(state, place)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        ]
        with_one = [parameter for parameter in trained if parameter.grad is not None]
        if not with_one:  # cleared already
            return None
        self._seen[place.path] = count + 1
        self._graded.update(map(id, with_one))
        self._has_any[place.path] = self._has_any.get(place.path, False) or any(has_any(one.grad) for one in with_one)
        if count + 1 < UPDATES:
            return None
        if not self._has_any[place.path]:
            return f"all its gradients were zero in {UPDATES} updates"
        names = {id(p): f"{f}.{n}" for f, m in state.components(nn.Module).items() for n, p in m.named_parameters()}
        without = [names.get(id(one), f"of shape {tuple(one.shape)}") for one in trained if id(one) not in self._graded]
        told = f"had no gradient in {UPDATES} updates: is something detached, or not used?"
        return f"{_shown(without)} {told}" if without else None


class Leaks:
    """Gradients that another loss has left, by somebody who only touches them, are cleared before any are added."""

    def __init__(self) -> None:
        self._left: dict[str, str] = {}

    def __call__(self, state: Any, changed: tuple[str, ...], place: Place) -> str | None:
        written = {name.partition(".")[0] for name in place.access.writes if name.endswith(".grads")}
        for field in written & self._left.keys():
            gradients = [p.grad for p in state.components(nn.Module)[field].parameters()]
            who = self._left.pop(field)
            if who != place.path and any(has_any(gradient) for gradient in gradients):
                return f"{field}.grads still had what {who} left there: clear them first"
        for field in {name.partition(".")[0] for name in changed} - written:
            self._left[field] = place.path
        return None


def unused_gradients(state: Any) -> str | None:
    """Whatever gets a gradient is updated by an optimizer of State."""
    found = [name for name, parameter in _not_updated(state).items() if has_any(parameter.grad)]
    return (
        f"{_shown(found)} got a gradient, and no optimizer updates it: add it to one, or freeze it" if found else None
    )


class Thawed:
    """Whatever is to be trained from some batch on is updated from then on."""

    def __init__(self) -> None:
        self._known: set[str] | None = None

    def __call__(self, state: Any) -> Wrong | None:
        now = _not_updated(state)
        known, self._known = self._known, {*now, *(self._known or ())}
        found = [name for name in now if known is not None and name not in known]
        if not found:
            return None
        fields = dict.fromkeys(f"{name.partition('.')[0]}.mode.frozen" for name in found)
        return Wrong(
            f"{_shown(found)} is to be trained now, and no optimizer has it: add_param_group(...)", tuple(fields)
        )


def _not_updated(state: Any) -> dict[str, nn.Parameter]:
    """The parameters that are to be trained and that no optimizer has, by name; none where there is no optimizer."""
    optimizers = state.components(Optimizer).values()
    updated = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    modules = state.components(nn.Module).items() if updated else ()
    return {
        f"{field}.{name}": parameter
        for field, module in modules
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and id(parameter) not in updated
    }


def kept_numbers(state: Any) -> Wrong | None:
    """A number that outlives its batch has no graph, and digits enough: a sum in half precision stops growing."""
    for scope in ("run", "epoch", "phase"):
        for name, value in state.values_of(scope).items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                continue
            if value.grad_fn is not None:
                told = f"{name!r} outlives the batch and has a graph, which keeps that of every batch: detach it"
                return Wrong(told, (name,))
            if value.dtype in (torch.float16, torch.bfloat16):
                told = f"{name!r} outlives the batch in {value.dtype}, where 256 and 1 may make 256: keep it in float32"
                return Wrong(told, (name,))
    return None


def has_any(gradient: Tensor | None) -> bool:
    """Whether an element is other than zero; so it is taken to be where that cannot be known."""
    return gradient is not None and (gradient.is_meta or bool((gradient != 0).any()))


def _shown(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
