"""Phases: loops over a loader, each round a batch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from stages.errors import DeclarationError
from stages.stage import Composite, Stage
from state.errors import a_kind
from state.fields import field
from state.parts import optimized


class Phase(Composite):
    """A loop over a loader, each round a batch. Derive from `TrainingPhase` or `EvaluationPhase` rather than from this.

    Args:
        stages, slots: what runs on each batch, as in Composite: also `each="update"`, where a Window among the stages
            takes several batches for one update. `fetch` among them ends the loop.
        loader: the field that holds the data, if not the class's own.
    """

    opens = "phase"
    each = "batch"
    runs = "1+"
    counts: ClassVar[tuple[str | None, str | None]] = ("batch_index", None)
    touches: ClassVar[tuple[str, ...]] = ("*.mode", "rng")
    loader: ClassVar[str] = ""

    def __init__(self, *stages: Stage | Callable[..., Any], loader: str = "", **slots: Any) -> None:
        super().__init__(*stages, **slots)
        if self.each != "batch":  # a Window in it counts the batches
            object.__setattr__(self, "counts", (None, None))
        if not isinstance(loader, str):
            told = "loader= names a field, such as 'noisy_loader'. The data go to Learner(valid={'noisy': ...})."
            raise DeclarationError(type(self).__name__, f"got {a_kind(loader)}; {told}")
        if loader:
            object.__setattr__(self, "loader", loader)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]  # the loader is a setting of each object
        if not self.loader:
            told = "Pass loader='train_loader', or give its class loader = ..., the field that holds the data."
            raise DeclarationError(type(self).__name__, f"has nothing to run over. {told}")
        return (self.loader,)

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("batches",)

    def fields(self) -> dict[str, Any]:
        data = field(description="what this phase runs over", saved="volatile", because="made anew")
        return {self.loader: (Any, data)} if self.loader else {}

    @property
    def word(self) -> str:
        """What `{phase}` stands for in names: "train" where the loader is `train_loader`."""
        return self.loader.removesuffix("_loader")

    def run(self, state: Any) -> None:
        with self.mode(state):
            state.batches = state.iterate(getattr(state, self.loader))
            while True:  # until fetch finds no further batch
                with state.round():
                    super().run(state)

    def mode(self, state: Any) -> AbstractContextManager[None]:
        """The train, eval and gradient modes that hold while this phase runs."""
        return nullcontext()


class TrainingPhase(Phase):
    """A phase that trains: train mode, gradients on. Its batches count in `batches_seen` and `samples_seen`.

    Puts into train mode what an optimizer of State updates; a frozen teacher keeps its mode. A module that is in train
    mode already is left alone, with whatever of it was frozen by hand, unless its class, or that of a submodule, has a
    `train` of its own: that decides each time.
    """

    counts = ("batch_index", "batches_seen")
    loader = "train_loader"

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*super().reads, "*.hyper")  # the optimizers, whose parameters tell what is trained

    def mode(self, state: Any) -> AbstractContextManager[None]:
        return training(state.components(nn.Module).values(), state.components(Optimizer).values())


class EvaluationPhase(Phase):
    """A phase that only looks: eval mode, no gradients. Afterwards each submodule has the mode it had before."""

    touches = ("rng",)
    restores = ("*.mode",)
    loader = "valid_loader"

    def mode(self, state: Any) -> AbstractContextManager[None]:
        return evaluating(state.components(nn.Module).values())


class Fit(TrainingPhase):
    """Train on every batch of `train_loader`, once."""


class Validate(EvaluationPhase):
    """Evaluate on every batch of `valid_loader`, once."""


class Predict(EvaluationPhase):
    """Compute the outputs for every batch of `predict_loader`, once."""

    loader = "predict_loader"


@contextmanager
def training(modules: Iterable[nn.Module], optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Train mode for the modules that the optimizers update, and gradients on."""
    updated = set(map(id, optimized(*optimizers)))
    for module in modules:
        decides = any(type(part).train is not nn.Module.train for part in module.modules())
        if (decides or not module.training) and any(id(parameter) in updated for parameter in module.parameters()):
            module.train()
    with torch.enable_grad():
        yield


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode for the modules and no gradients; on every exit each submodule gets its mode back."""
    whole = [(module, module.training) for module in modules]
    found = [(part, part.training) for module, _ in whole for part in module.modules()]
    try:
        for module, _ in whole:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for module, was_training in whole:  # a module may do more than set a flag
            module.train(was_training)
        for part, was_training in found:
            part.training = was_training
