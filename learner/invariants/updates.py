"""What is so of an update: it changes what it should and nothing else, of this model, at a rate that somebody set."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner.components import lost_tensors
from learner.invariants.standing import UPDATE, warned
from stages import Invariant, Update, Writes
from stages.check import actors
from stages.invariants import Wrong
from stages.place import ROOT, Place
from state.insides import COLLECTIONS, in_field
from state.parts import optimized

RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""A gradient counts if an element is more than so much of the largest of its optimizer, and that more than so much."""

FIRST = 3
"""So many updates may not take away what the groups of an optimizer differ in."""

_MAY_STAY = (torch.optim.LBFGS, torch.optim.Rprop)


def invariants() -> tuple[Invariant, ...]:
    """What is so of updates."""
    distinct = Distinct()
    return (
        warned(
            "an update changes what has a gradient, and nothing that is frozen",
            moves_what_it_should,
            around=UPDATE,
            compares=("*.params",),
            hooks=False,
        ),
        warned("an optimizer updates what State holds", updates_what_is_held, before=Writes("*.state"), then="raise"),
        warned("a parameter is changed by one optimizer", Rivals(), around=UPDATE, compares=("*.params",), hooks=False),
        warned("groups of an optimizer that differ go on to differ", distinct.begin, before=ROOT, sampled=False),
        warned("groups of an optimizer that differ go on to differ", distinct, before=Writes("*.state"), hooks=False),
        warned(
            "what is kept does not change with the parameters",
            of_its_own,
            around=UPDATE,
            compares=("*.params",),
            hooks=False,
        ),
    )


def moves_what_it_should(state: Any, changed: tuple[str, ...], place: Place) -> str | None:
    """An update changes what has a gradient, and nothing that is frozen.

    Where an optimizer changed nothing at all, it was not stepped. What is small beside the others, or below what its
    type can hold at this rate, may stay; so may what LBFGS and Rprop have, and all where a gradient is not finite.
    """
    names, moved, wrong = names_of_parameters(state), set(changed), []
    for optimizer in stepped(state, place):
        rated = [(p, rate, names[id(p)]) for p, rate in _rated(optimizer) if id(p) in names]
        largest = max((_largest(p) for p, _, _ in rated), default=0.0)
        is_ours = isinstance(place.stage, Update)  # a stage of the user's may freeze, and average, what it has stepped
        is_stepped = is_ours and any(not moved.isdisjoint(called) for _, _, called in rated)
        may_stay = not is_stepped or largest == float("inf") or isinstance(optimizer, _MAY_STAY)
        for parameter, rate, called in rated:
            is_moved = not moved.isdisjoint(called)
            if is_ours and is_moved and not parameter.requires_grad and _largest(parameter) == 0.0:
                wrong.append(f"{called[0]} is frozen and changed")
            is_large = _largest(parameter) > max(RELATIVE * largest, ABSOLUTE)
            if not (is_moved or may_stay) and parameter.requires_grad and is_large and _is_felt(parameter, rate):
                wrong.append(f"{called[0]} has a gradient and did not change")
    return shown(wrong)


def updates_what_is_held(state: Any, place: Place) -> Wrong | None:
    """What an optimizer updates is what State holds, so that it is used, and saved."""
    values = {name: value for scope in ("run", "epoch", "phase") for name, value in state.values_of(scope).items()}
    lost = [tensor for optimizer in stepped(state, place) for tensor in lost_tensors(optimizer, values)]
    if not lost:
        return None
    told = f"it updates {len(lost)} tensors that nothing in State holds, the first of shape {tuple(lost[0].shape)}"
    return Wrong(told, ("*.params",))


class Rivals:
    """In one batch, a parameter is changed by one optimizer: a second one undoes what the first one did."""

    def __init__(self) -> None:
        self._changed: dict[str, tuple[int, str]] = {}

    def __call__(self, state: Any, changed: tuple[str, ...], place: Place, batches_seen: int) -> str | None:
        owners = [name.partition(".")[0] for name in place.access.writes if name.endswith(".state")]
        if len(owners) != 1:
            return None
        for name in changed:
            before = self._changed.get(name, (batches_seen, owners[0]))
            if before[0] == batches_seen and before[1] != owners[0]:
                return f"{name} is changed by {before[1]!r} and by {owners[0]!r} in one batch"
            self._changed[name] = batches_seen, owners[0]
        return None


class Distinct:
    """What differs between the groups of an optimizer when a run begins is not made the same by its first updates.

    A zero is where a warm-up begins, or a schedule ends.
    """

    def __init__(self) -> None:
        self._differing: dict[tuple[str, str], list[Any]] = {}
        self._asked: dict[str, int] = {}

    def begin(self, state: Any) -> None:
        """A run begins."""
        self._asked.clear()
        self._differing.clear()
        for name, optimizer in state.components(Optimizer).items():
            for key in optimizer.param_groups[0] if optimizer.param_groups else ():
                values = _of_groups(optimizer, key)
                if len(set(values)) > 1:
                    self._differing[name, key] = values

    def __call__(self, state: Any, place: Place) -> Wrong | None:
        """Before an update."""
        optimizers = {id(one) for one in stepped(state, place)}
        stepping = {name: one for name, one in state.components(Optimizer).items() if id(one) in optimizers}
        for name in stepping:
            self._asked[name] = self._asked.get(name, 0) + 1
        for (name, key), before in self._differing.items():
            if self._asked.get(name, 0) > FIRST or name not in stepping:
                continue
            now = _of_groups(stepping[name], key)
            if len(now) == len(before) and len(set(now)) == 1 and now[0]:
                told = (
                    f"{key} was {shown([*map(str, before)])} in the groups of {name!r}, and is {now[0]} in all of them"
                )
                return Wrong(f"{told} now: scale what a group has, or set it by group", (f"{name}.hyper.{key}",))
        return None


def _of_groups(optimizer: Optimizer, key: str) -> list[Any]:
    """What each group has under a key, if these are plain numbers."""
    values = [group.get(key) for group in optimizer.param_groups]
    is_plain = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    return values if is_plain and key != "initial_lr" else []


def of_its_own(state: Any, changed: tuple[str, ...], place: Place) -> Wrong | None:
    """What was written to a field that outlives the batch is no view of parameters, which change with each update."""
    memory = memory_of_parameters(state, changed)
    written = {name for _, access in actors(place.root.walk()) for name in access.writes}
    for scope in ("run", "epoch", "phase"):
        for field, value in state.values_of(scope).items():
            if field not in written:  # the batches of a run are many
                continue
            inside = in_field(value) if isinstance(value, (Tensor, *COLLECTIONS)) else None
            for below, one in zip(*inside, strict=True) if inside is not None else ():
                owner = owner_of(one, memory)
                if owner:
                    full = f"{field}.{below}" if below else field
                    return Wrong(
                        f"{full} has its memory in common with {owner}, and changes with it: clone it", (field,)
                    )
    return None


def memory_of_parameters(state: Any, changed: tuple[str, ...]) -> dict[int, str]:
    """Where the parameters that changed have their memory, each with its name."""
    names = names_of_parameters(state)
    return {
        parameter.untyped_storage().data_ptr(): names[id(parameter)][0]
        for module in state.components(nn.Module).values()
        for parameter in module.parameters()
        if not set(changed).isdisjoint(names[id(parameter)]) and parameter.layout == torch.strided
    }


def owner_of(value: Any, memory: Mapping[int, str]) -> str | None:
    """The parameter whose memory a tensor has, if that is no parameter itself."""
    is_view = isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.layout == torch.strided
    return memory.get(value.untyped_storage().data_ptr()) if is_view else None


def stepped(state: Any, place: Place) -> list[Optimizer]:
    """The optimizers whose state the stage at a place declares to write."""
    return _written(state, place.access.writes)


def in_tree(state: Any, place: Place) -> list[Optimizer]:
    """The optimizers whose state somebody in the tree of a place declares to write."""
    return _written(state, [name for _, access in actors(place.root.walk()) for name in access.writes])


def _written(state: Any, names: Iterable[str]) -> list[Optimizer]:
    owners = {name.partition(".")[0] for name in names if name.endswith(".state")}
    return [optimizer for name, optimizer in state.components(Optimizer).items() if name in owners]


def _rated(optimizer: Optimizer) -> Iterator[tuple[Tensor, Any]]:
    """The parameters of an optimizer, each with its learning rate."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter, group.get("lr", 1.0)


def _largest(parameter: Tensor) -> float:
    """The largest element of a gradient, infinite if one is not finite; 0 where there is none that can be used."""
    gradient = parameter.grad
    if gradient is None or not gradient.numel() or gradient.layout != torch.strided or gradient.is_meta:
        return 0.0
    largest = float(gradient.detach().abs().max())
    return largest if largest < float("inf") else float("inf")


def _is_felt(parameter: Tensor, rate: Any) -> bool:
    """Whether an update at this rate can make a difference to an element: one by the gradient, and one by the rate."""
    if not isinstance(rate, int | float | Tensor) or parameter.grad is None or not parameter.is_floating_point():
        return False
    with torch.no_grad():
        by_gradient = parameter - rate * parameter.grad != parameter
        by_rate = rate > 2 * torch.finfo(parameter.dtype).eps * parameter.abs()
        return bool((by_gradient & by_rate & parameter.isfinite()).any())


def names_of_parameters(state: Any) -> dict[int, tuple[str, ...]]:
    """What each parameter is called, as `changed` has it, by its identity; a tied one has several names."""
    names: dict[int, tuple[str, ...]] = {}
    for field, module in state.components(nn.Module).items():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            names[id(parameter)] = (*names.get(id(parameter), ()), f"{field}.params.{name}")
    return names


def updated_by_optimizers(state: Any) -> set[int]:
    """The parameters that the optimizers of State have, by their identities."""
    return set(map(id, optimized(*state.components(Optimizer).values())))


def shown(names: list[str], limit: int = 3) -> str | None:
    """The first of these, and how many more; None for none."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else None
