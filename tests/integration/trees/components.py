"""Components: what the actors of a program change in place, made so that each part holds one whole number."""

import random
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from learner import State, field
from tests.integration.trees.programs import DEFAULT, FIELDS, POSITION, TOTAL

SEED = 5


class Holder(nn.Module):
    """A module with two parameters and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.bias = nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros(2))


class Tally:
    """Anything that can be saved."""

    def __init__(self) -> None:
        self.count = torch.zeros(())

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.count = saved["count"]


class Values(State):
    a: int = field()
    b: int = field(scope="epoch")
    c: int = field(scope="batch", default=0)
    d: int = field(scope="batch")
    e: int = field(scope="mine")
    u: int = field(scope="update")
    batches_seen: int = field(default=0)
    batch_index: int = field(scope="batch")
    model: nn.Module = field()
    other: nn.Module = field()
    optimizer: torch.optim.Optimizer = field()
    tally: Tally = field()
    train_loader: Any = field(saved="volatile", because="given by the program")


assert {name: Values.specs[name].scope for name in (*FIELDS, TOTAL, POSITION)} == {
    **FIELDS,
    TOTAL: "run",
    POSITION: "batch",
}
assert Values.specs[DEFAULT].default == 0


class World:
    """The components of one run, what actors tell of it, and the switches of what runs only sometimes."""

    def __init__(self, switched_on: set[int]) -> None:
        torch.manual_seed(SEED)
        self.model, self.other, self.tally = Holder(), Holder(), Tally()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0, weight_decay=1.0)
        self.switched_on = switched_on
        self.told: list[Any] = []
        self.written = 0

    def state(self, given: set[str]) -> Values:
        """A State with what is given; a is 7."""
        components = {name: getattr(self, name) for name in ("model", "other", "optimizer", "tally") if name in given}
        return Values(**components, **({"a": 7} if "a" in given else {}))

    def next(self) -> int:
        """The next number to write."""
        self.written += 1
        return self.written

    def numbers(self) -> dict[str, Any]:
        """What each part holds."""
        found: dict[str, Any] = {}
        for name, module in (("model", self.model), ("other", self.other)):
            for part in ("params.weight", "params.bias", "buffers", "mode", "grads"):
                found[f"{name}.{part}"] = read(module, part)
        for component, part in (("optimizer", "hyper.lr"), ("optimizer", "hyper.weight_decay"), ("optimizer", "state")):
            found[f"{component}.{part}"] = read(self.optimizer, part)
        return {**found, "tally.state": read(self.tally, "state"), "rng": read(None, "")}


def read(component: Any, part: str) -> int:
    """The number in a part."""
    match component, part:
        case Holder(), "params.weight" | "params.bias" | "buffers":
            return _only(_tensor(component, part))
        case Holder(), "grads":
            grads = [each.grad for each in component.parameters()]
            return 0 if grads[0] is None else _only(*(grad for grad in grads if grad is not None))
        case Holder(), "mode":
            return int(not component.training)
        case torch.optim.Optimizer(), "state":
            kept = [entry["kept"] for entry in component.state.values()]
            return _only(*kept) if kept else 0
        case torch.optim.Optimizer(), _:
            return int(component.param_groups[0][part.partition(".")[2]]) - 1
        case Tally(), _:
            return _only(component.count)
    return _draws()


def add(component: Any, part: str) -> None:
    """Change a part in place: the number in it is one more. A mode is the number modulo 2."""
    match component, part:
        case Holder(), "params":
            add(component, "params.weight")
            add(component, "params.bias")
        case Holder(), "params.weight" | "params.bias" | "buffers":
            with torch.no_grad():
                _tensor(component, part).add_(1)
        case Holder(), "grads":
            for each in component.parameters():
                each.grad = torch.ones_like(each) if each.grad is None else each.grad + 1
        case Holder(), "mode":
            component.train(not component.training)
        case torch.optim.Optimizer(), "hyper":
            add(component, "hyper.lr")
            add(component, "hyper.weight_decay")
        case torch.optim.Optimizer(), "state":
            component.state[component.param_groups[0]["params"][0]]["kept"] = torch.tensor(read(component, part) + 1.0)
        case torch.optim.Optimizer(), _:
            component.param_groups[0][part.partition(".")[2]] += 1
        case Tally(), _:
            component.count += 1
        case None, _:
            torch.rand(())


def keep(component: Any, part: str) -> Any:
    """What `give_back` needs."""
    if isinstance(component, Holder) and part == "params":
        return [each.detach().clone() for each in component.parameters()]
    if isinstance(component, Holder):
        return component.training, [each.requires_grad for each in component.parameters()]
    if component is not None:
        return dict(component.param_groups[0])
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state()


def give_back(component: Any, part: str, kept: Any) -> None:
    """Put back what `keep` kept: the parameters or the mode of a module, hyper-parameters, the random generator."""
    if isinstance(component, Holder) and part == "params":
        with torch.no_grad():
            for each, value in zip(component.parameters(), kept, strict=True):
                each.copy_(value)
    elif isinstance(component, Holder):
        component.train(kept[0])
        for each, flag in zip(component.parameters(), kept[1], strict=True):
            each.requires_grad_(flag)
    elif component is not None:
        names = ["lr"] if part == "hyper.lr" else ["lr", "weight_decay"]
        component.param_groups[0].update({name: kept[name] for name in names})
    else:
        torch.set_rng_state(kept[0])
        random.setstate(kept[1])
        numpy.random.set_state(kept[2])


def _tensor(component: Any, part: str) -> Tensor:
    named = {"params.weight": component.weight, "params.bias": component.bias, "buffers": component.seen}
    return named[part]


def _only(*tensors: Tensor) -> int:
    """The one number in all elements of these tensors."""
    (number,) = {value for tensor in tensors for value in tensor.flatten().tolist()}
    return int(number)


_generator = torch.Generator().manual_seed(SEED)
_states = {_generator.get_state().numpy().tobytes(): 0}


def _draws() -> int:
    """How many numbers the global generator has drawn since it was seeded."""
    now = torch.get_rng_state().numpy().tobytes()
    while now not in _states and len(_states) < 10_000:
        torch.rand((), generator=_generator)
        _states[_generator.get_state().numpy().tobytes()] = len(_states)
    return _states[now]
