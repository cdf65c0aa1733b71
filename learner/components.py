"""Components: from what a person hands to `Learner(...)` to the fields of a State."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from learner.errors import AlreadyBound, ArgumentError
from learner.recipes import supervised
from stages.errors import listed
from stages.stage import paths_of
from state import State, TrainState, field
from state.errors import a_kind, short
from state.parts import tensors, trained
from state.schema import compose

Models = nn.Module | Mapping[str, nn.Module]
MakeOptimizer = Callable[[Iterator[nn.Parameter]], Optimizer]
Optimizers = Optimizer | MakeOptimizer | Mapping[str, Optimizer | MakeOptimizer]
Loaders = Iterable[Any] | Mapping[str, Iterable[Any]] | None


def make_state(
    models: Models, loss_fn: Callable[..., Any] | None, optimizers: Optimizers | None, device: torch.device
) -> State:
    """A TrainState that holds the components, with a field for each name that it lacks.

    Raises:
        ArgumentError: something is no module or no optimizer, or an optimizer updates nothing of the models.
    """
    modules = dict(models) if isinstance(models, Mapping) else {"model": models}
    for name, module in modules.items():
        if name in TrainState.specs and TrainState.specs[name].annotation is not nn.Module:
            told = f"State has a field of that name: {TrainState.specs[name].description}. Give the model another."
            raise ArgumentError("Learner", "model", f"a model is called {name!r}. {told}")
        if not isinstance(module, nn.Module):
            raise ArgumentError("Learner", "model", f"{name!r} is {a_kind(module)}; it wants an nn.Module.")
    if loss_fn is not None and not callable(loss_fn):
        told = "it wants a function or a module: loss_fn(outputs, targets) gives a scalar."
        raise ArgumentError("Learner", "loss_fn", f"loss_fn is {a_kind(loss_fn)}; {told}")
    made = _optimizers(optimizers, modules)
    values = {**modules, **made, "device": device, **({} if loss_fn is None else {"loss_fn": loss_fn})}
    brought = {
        name: (nn.Module if isinstance(value, nn.Module) else Optimizer, field(description="given to Learner"))
        for name, value in values.items()
        if name not in TrainState.specs
    }
    return compose([("TrainState", TrainState)], [("Learner", brought)] if brought else [])(**values)


def data_fields(train: Any, valid: Loaders) -> dict[str, Any]:
    """The fields that hold the data: `train_loader`, and `valid_loader` or `{name}_loader` for each of several sets.

    Raises:
        ArgumentError: one of them cannot be iterated, or has a name that cannot be used.
    """
    if isinstance(valid, list | tuple) and valid and all(hasattr(one, "dataset") for one in valid):
        told = 'Name them: valid={"clean": ..., "noisy": ...}.'
        raise ArgumentError("Learner", "valid", f"valid= holds {len(valid)} loaders. {told}")
    sets = valid if isinstance(valid, Mapping) else {} if valid is None else {"valid": valid}
    taken = {slot for path in paths_of(supervised(), "train") for slot in path.split("/")} - {"validate"} | {"predict"}
    for name in sets:
        if not isinstance(name, str) or not name.isidentifier() or name in taken:
            told = f"Each set names a phase and its fields: a word other than {', '.join(sorted(taken))}."
            raise ArgumentError("Learner", "valid", f"valid= calls a set {name!r}. {told}")
    data = {"train": train, **sets}
    for name, loader in data.items():
        check_loader(loader, name)
    return {f"{name}_loader": loader for name, loader in data.items()}


def validation_sets(valid: Loaders) -> bool | list[str]:
    """Whether to validate, or the names of several sets."""
    return list(valid) if isinstance(valid, Mapping) else valid is not None


def check_loader(loader: Any, argument: str) -> None:
    """Refuse what cannot be iterated.

    Raises:
        ArgumentError: it has no `__iter__`.
    """
    if not hasattr(type(loader), "__iter__") and not hasattr(type(loader), "__getitem__"):
        told = "Give a DataLoader, a list of batches, or any object that can be iterated again and again."
        raise ArgumentError("Learner", argument, f"{argument}= is {a_kind(loader)}, which cannot be iterated. {told}")


def check_state(state: Any, who: str = "Learner") -> None:
    """Refuse what no Learner or Recorder can take over; `who` it is.

    Raises:
        ArgumentError: it is no State.
        AlreadyBound: a Learner holds it.
    """
    if not isinstance(state, State):
        raise ArgumentError(who, "state", f"state is {short(state)}; it wants an object of a State class.")
    if state._link is not None and state._link.owner() is not None:
        told = "One State belongs to one Learner at a time: call close() on the other, or make a new State."
        raise AlreadyBound(f"This {type(state).__name__} is bound to another Learner. {told}")


def check_optimizers(state: State) -> None:
    """Refuse an optimizer that updates what nothing in State holds: it was made from another model, a copy, or before
    a layer was put into the place of another.

    Raises:
        ArgumentError: naming the optimizer.
    """
    for name, optimizer in state.components(Optimizer).items():
        lost = [tuple(tensor.shape) for tensor in lost_tensors(optimizer, state.__dict__)]
        if not lost:
            continue
        held = sorted(state.components(nn.Module))
        told = "Make it from the parameters of the model that you pass, after any copy, wrapper or exchange of layers"
        if len(lost) == len(list(tensors(optimizer))):
            raise ArgumentError("Learner", name, f"{name!r} updates no parameter of {held}. {told}.")
        problem = f"{name!r} updates {len(lost)} tensors that nothing in State holds, of shape {lost[0]}"
        forgotten = _not_updated(state)
        problem += f", and no optimizer updates {listed(forgotten)}." if forgotten else "."
        remedy = f"{told}; or give what holds them a field, so that checkpoints have it."
        raise ArgumentError("Learner", name, f"{problem} {remedy}")


def _not_updated(state: State) -> list[str]:
    """What is to be trained and no optimizer has, as "model.params.0.weight"."""
    updated = {id(tensor) for optimizer in state.components(Optimizer).values() for tensor in tensors(optimizer)}
    found = trained(state.components(nn.Module))
    return [f"{field}.params.{name}" for field, name, parameter in found if id(parameter) not in updated]


def lost_tensors(optimizer: Optimizer, values: Mapping[str, Any]) -> list[torch.Tensor]:
    """What an optimizer updates and none of these values holds, but for optimizers."""
    owned = {id(t) for value in values.values() if not isinstance(value, Optimizer) for t in tensors(value)}
    return [tensor for tensor in tensors(optimizer) if id(tensor) not in owned]


def pick_device(device: str | torch.device) -> torch.device:
    """`device`, where "auto" is the accelerator if there is one.

    Raises:
        ArgumentError: torch knows no such device.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, TypeError, AssertionError) as error:  # AssertionError: torch was built without it
        told = str(error).splitlines()[0]
        raise ArgumentError("Learner", "device", f"device={device!r} cannot be used here: {told}") from None


def _optimizers(given: Optimizers | None, modules: Mapping[str, nn.Module]) -> dict[str, Optimizer]:
    if given is None:
        return {}
    named = dict(given) if isinstance(given, Mapping) else {"optimizer": given}
    return {name: _optimizer(name, one, modules) for name, one in named.items()}


def _optimizer(name: str, given: Any, modules: Mapping[str, nn.Module]) -> Optimizer:
    """An optimizer as it is, or made from the parameters of the model that its name begins with."""
    if isinstance(given, Optimizer):
        return given
    if not callable(given):
        told = "it wants an optimizer, or a function that makes one of the parameters."
        raise ArgumentError("Learner", name, f"{name!r} is {a_kind(given)}; {told}")
    stem = "model" if name == "optimizer" else name.removesuffix("_optimizer")
    if stem not in modules:
        told = f"the models are {sorted(modules)}. Give an optimizer instead, or call it '<model>_optimizer'."
        raise ArgumentError("Learner", name, f"which parameters is {name!r} to be made of? {told}")
    made = given(modules[stem].parameters())
    if not isinstance(made, Optimizer):
        raise ArgumentError("Learner", name, f"{name!r} made {a_kind(made)}, not an optimizer.")
    return made
