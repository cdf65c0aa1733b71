"""Aliases: tensors in State that have their memory in common."""

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from state import State
from state.insides import COLLECTIONS, in_field, optimizer_state, stateful


class Alias(NamedTuple):
    """Tensors that show the same memory: who changes one of them changes the others.

    Attributes:
        names: of the tensors: "model.0.weight", "ema.0.weight", "inputs".
        kind: "same" for one tensor under several names, "shared" for several tensors over one storage.
    """

    names: tuple[str, ...]
    kind: str


def aliases(state: State) -> list[Alias]:
    """The groups of tensors in State that have their memory in common, by where they are found first.

    What an optimizer holds of a module's parameters is no news, and the data of loaders are left out.
    """
    places: dict[tuple[str, int], list[tuple[str, Tensor]]] = {}
    for field, value in state.__dict__.items():
        spec = type(state).specs[field]
        if spec.scope == "run" and spec.saved == "volatile" and isinstance(value, COLLECTIONS):
            continue  # the data
        for name, tensor in _tensors(field, value):
            try:
                storage = tensor.untyped_storage().data_ptr()
            except Exception:  # sparse, or a subclass without memory
                continue
            if storage:
                places.setdefault((str(tensor.device), storage), []).append((name, tensor))
    found = []
    for group in places.values():
        names = tuple(dict.fromkeys(name for name, _ in group))
        if len(names) > 1:
            is_one = len({id(tensor) for _, tensor in group}) == 1
            found.append(Alias(names, "same" if is_one else "shared"))
    return found


def _tensors(field: str, value: Any) -> list[tuple[str, Tensor]]:
    if isinstance(value, nn.Module):
        named = [*value.named_parameters(remove_duplicate=False), *value.named_buffers(remove_duplicate=False)]
        return [(f"{field}.{name}", tensor) for name, tensor in named]
    if isinstance(value, Tensor):
        return [(field, value)]
    inside = optimizer_state(value) if isinstance(value, Optimizer) else in_field(value)
    if inside is None and hasattr(value, "state_dict") and not isinstance(value, type):
        inside = stateful(value)
    if inside is None:
        return []
    pairs = zip(inside.names, inside.values, strict=True)
    return [(f"{field}.{name}", one) for name, one in pairs if isinstance(one, Tensor)]
