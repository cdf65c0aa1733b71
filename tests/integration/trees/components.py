"""Components: what the actors of a program change in place, made so that each part of them holds one whole number."""

from typing import Any

import torch
from torch import nn

from learner import State, field

SEED = 5


class Holder(nn.Module):
    """A module with two parameters and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.bias = nn.Parameter(torch.zeros(1))
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
    """The fields of `programs.FIELDS`, the counters of a loop over batches, and the components."""

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
        values: dict[str, Any] = {name: 7 if name == "a" else getattr(self, name) for name in sorted(given)}
        return Values(**values)

    def next(self) -> int:
        """The next number to write."""
        self.written += 1
        return self.written

    def numbers(self, atoms: Any) -> dict[str, int]:
        """What each of these parts holds."""
        return {atom: number_in(getattr(self, atom.partition(".")[0], None), atom) for atom in atoms}


def number_in(component: Any, atom: str) -> int:
    """The number in a part that has no names below it, such as `model.params.weight`."""
    match atom.split(".")[1:]:
        case ["params" | "buffers", *_]:
            return _only(_tensor(component, atom))
        case ["grads"]:
            grads = {0 if each.grad is None else _only(each.grad) for each in component.parameters()}
            (number,) = grads
            return number
        case ["mode"]:
            return int(not component.training)
        case ["hyper", name]:
            return int(component.param_groups[0][name]) - 1
        case ["state"] if isinstance(component, Tally):
            return _only(component.count)
        case ["state"]:
            return _only(*(kept["number"] for kept in component.state.values())) if component.state else 0
    return _draws()


def put(component: Any, atom: str, number: int) -> None:
    """Change a part in place, so that it holds this number; a mode holds one modulo 2."""
    match atom.split(".")[1:]:
        case ["params" | "buffers", *_]:
            with torch.no_grad():
                _tensor(component, atom).fill_(number)
        case ["grads"]:
            for each in component.parameters():
                each.grad = torch.full_like(each, number)
        case ["mode"]:
            component.train(number % 2 == 0)
        case ["hyper", name]:
            component.param_groups[0][name] = number + 1.0
        case ["state"] if isinstance(component, Tally):
            component.count.fill_(number)
        case ["state"]:
            component.state[component.param_groups[0]["params"][0]]["number"] = torch.tensor(float(number))
        case _:
            torch.set_rng_state(_drawn[number])


def _tensor(component: Any, atom: str) -> torch.Tensor:
    named: dict[str, torch.Tensor] = {"weight": component.weight, "bias": component.bias, "buffers": component.seen}
    return named[atom.rpartition(".")[2]]


def _only(*tensors: torch.Tensor) -> int:
    """The one number in all elements of these tensors."""
    (number,) = {value for tensor in tensors for value in tensor.flatten().tolist()}
    return int(number)


def _states() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    states = []
    for _ in range(5_000):
        states.append(generator.get_state())
        torch.rand((), generator=generator)
    return states


_drawn = _states()
_number_of = {state.numpy().tobytes(): number for number, state in enumerate(_drawn)}


def _draws() -> int:
    """How many numbers the generator of torch has drawn since it was seeded."""
    return _number_of[torch.get_rng_state().numpy().tobytes()]
