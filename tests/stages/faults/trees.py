"""What faulty trees are made of, and what the check says of them."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from learner import Callback, GraphError, InvariantWarning, Learner, TrainState, after, before, field
from learner.loading import NotBuilt
from learner.testing import toy_learner
from stages import Chain, Composite, Fetch, Finding, Fit, Stage, Window, assemble
from stages.callbacks import hooks_of
from stages.errors import DeclarationError
from stages.finding import Kind
from state import State


class Values(State):
    """Two values of a batch, one of a scope that nothing opens by itself, one that has to be given, and a model."""

    a: int = field(scope="batch")
    b: int = field(scope="batch")
    kept: Any = field(description="has to be given")
    model: nn.Module = field(description="has to be given")


@dataclass(frozen=True)
class Acts(Stage):
    """Does what it is told to declare."""

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    brought: tuple[tuple[str, Any], ...] = ()
    unsafe: bool = False
    inline: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        return {name: (int, given) for name, given in self.brought}

    def run(self, state: Any) -> None: ...


class Uses(Stage):
    """Takes the view of a State class."""

    reads = ("model",)

    def run(self, state: Values) -> None: ...


class Holds(Composite):
    """Holds whatever is put into it later."""

    def hold(self, **stages: Stage) -> "Holds":
        object.__setattr__(self, "stages", stages)
        return self


class Brings(Callback):
    """Brings a field, and reads it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fields(self) -> dict[str, Any]:
        return {self.name: (int, 0)}

    @after("read", reads=lambda self: (self.name,))
    def look(self, state: Any) -> None: ...


class Rival(State):
    a: str = field(scope="batch")


class Opaque: ...


class Unsaved(Values):
    opaque: Opaque


class Volatile(Values):
    opaque: Opaque = field(saved="volatile", because="made anew")


class Misspelt(Values):
    c: int = field(scope="bacth")


class Typo(TrainState):
    valid_acuracy: float = field(scope="epoch")


class Rate(TrainState):
    schedule: LRScheduler = field(factory=lambda state: LambdaLR(state.optimizer, lambda n: 0.5**n))


class Bound(Values):
    other: nn.Module
    number: int = 0


READ, WRITE = Acts(reads=("a",)), Acts(writes=("a",))
BOTH = Chain(write=WRITE, read=READ, opens="batch")
GRADS = ("model.grads",)


def hook(point: Any, name: str = "hook") -> Any:
    """A function of that name at a point; one that stands around gives way once."""

    def generator(state: Any) -> Any:
        yield

    def function(state: Any) -> None: ...

    made = generator if point.side == "around" else function
    made.__name__ = name
    return point(made)


def found(tree: Stage, *callbacks: Any, schema: type[State] = Values, **given: Any) -> list[Finding]:
    """What the check says of a tree over a State that was given a model."""
    return list(assemble(tree, hooks_of(callbacks), schema, schema(model=nn.Linear(1, 1), **given)).findings)


def trained(*callbacks: Any, **settings: Any) -> list[Finding]:
    """What it says of a Learner."""
    try:
        return toy_learner(callbacks=callbacks, **settings).check()
    except GraphError as error:
        return list(error.findings)


def counting(scope: str, set_back: str = "", *, in_training: bool = False) -> list[Finding]:
    """What it says of a Learner that counts in its validation, and maybe before some phase begins from 0."""

    class Counting(Callback):
        def fields(self) -> dict[str, Any]:
            return {"seen": (int, field(default=0, scope=scope))}

        @after("batch" if in_training else "validate/batch", writes=("seen",))
        def count(self, seen: int) -> int:
            return seen + 1

    @before(set_back or "fit", writes=("seen",))
    def zero() -> int:
        return 0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InvariantWarning)
        return trained(Counting(), *([zero] if set_back else []))


def keeping(make: Callable[[], object]) -> list[Finding]:
    """What it says of a Learner with a hook that has something for itself."""
    kept = make()

    @after("update", writes=("optimizer.hyper",))
    def keep(optimizer: Any) -> None:
        assert kept is not None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InvariantWarning)
        return trained(keep)


def moving(point: Any) -> Any:
    """A hook that moves the scheduler."""

    def move(schedule: LRScheduler) -> None:
        schedule.step()

    return point(move)


def swapped(new: Stage, *callbacks: Any) -> list[Finding]:
    """What it says of another gradient in a Learner."""
    learner = toy_learner(callbacks=callbacks)
    try:
        learner.swap("gradient", new)
    except GraphError as error:
        return list(error.findings)
    return learner.check()


def loaded(**settings: Any) -> list[Finding]:
    """What a command says of a Learner that it cannot load."""
    try:
        return toy_learner(**settings).check()
    except DeclarationError as error:
        return list(NotBuilt(error).findings)


def window(**settings: Any) -> Composite:
    """A phase that fetches in a Window."""
    return Fit(Window(2, Fetch(), Acts(reads=("batch",))), **settings)


def itself(*, is_whole: bool) -> Composite:
    inner = Holds()
    return Composite(outer=inner.hold(inner=inner if is_whole else Holds()))


GRADIENT = ("reads", "model", "loss_fn", "inputs", "targets", "model.grads")
ALL = Acts(reads=GRADIENT[1:], writes=("outputs", "loss", "model.grads"))


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        faulty, near: the tree that has it, and one that nearly has it: what is found in each.
        who: actors that the finding names.
        told: the sentence that says what is wrong; `ways` how to put it right.
    """

    kind: Kind
    faulty: Callable[[], list[Finding]]
    near: Callable[[], list[Finding]]
    who: tuple[str, ...]
    told: str
    ways: str
    severity: str = "error"


def with_target(copy: Callable[[nn.Module], nn.Module]) -> list[Finding]:
    """What it says of a Learner whose model is followed by another one."""

    @after("update", touches=("rng",), writes=("target.params",))
    def follow(model: nn.Module, target: nn.Module) -> None: ...

    return noted({"model": (model := nn.Linear(1, 1)), "target": copy(model)}, model, follow)


def tied(*, by_data: bool) -> list[Finding]:
    """What it says of a Learner with two layers that have one weight."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    if by_data:
        model[1].weight.data = model[0].weight.data
    else:
        model[1].weight = model[0].weight
    return noted(model, model)


def noted(models: Any, trained: nn.Module, *callbacks: Any) -> list[Finding]:
    """What is said of a Learner besides what would keep it from being built."""
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    data = [(torch.ones(2, 1), torch.ones(2, 1))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InvariantWarning)
        learner = Learner(models, nn.MSELoss(), optimizer, train=data, callbacks=callbacks, device="cpu")
    return [one for one in learner.check() if one.severity == "warning"]
