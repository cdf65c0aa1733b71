"""The author's kit: run one stage, check its contract, see the order of events, on a problem with a known answer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from learner.learner import Learner
from learner.recipes import Part
from stages import Frame, Outcome, Runner, UndeclaredChange, assemble
from stages.stage import as_stage, slot_of
from state import State, TrainState
from state.schema import build, upgrade


def toy_learner(*, callbacks: Iterable[Any] = (), **settings: Any) -> Learner:
    """A Learner of y = 3x: eight batches of eight numbers, validated on two. After three epochs the weight is near 3.

    Args:
        callbacks, settings: what Learner takes.

    Example:
        >>> from learner.testing import toy_learner
        >>> learner = toy_learner()
        >>> learner.fit(epochs=3)[-1]["valid_loss"] < 0.01
        True
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(10, 8, 1, generator=generator)
    batches = [(batch, 3 * batch) for batch in inputs]
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(0.0)
        model.bias.fill_(0.0)
    settings.setdefault("train", batches[:8])
    settings.setdefault("valid", batches[8:])
    optimizer = settings.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = settings.pop("loss_fn", nn.functional.mse_loss)
    return Learner(model, loss_fn, optimizer, callbacks=callbacks, device="cpu", **settings)


def run_stage(stage: Part, state: State | None = None, **values: Any) -> Frame:
    """Run one stage alone, guarded as in a Learner under `debug()`.

    Args:
        stage: the stage, or a function made by `@stage`.
        state: the State it runs on; by default a TrainState. Its class may lack fields that the stage brings.
        values: fields to set first.

    Returns:
        All values afterwards.

    Raises:
        GraphError: it reads something that is neither in `state` nor in `values`.
        UndeclaredChange: it changes something in place that it does not declare.

    Example:
        >>> from learner import stage
        >>> from learner.testing import run_stage
        >>> @stage(writes=("inputs",))
        ... def scale(inputs):
        ...     return inputs / 255
        >>> run_stage(scale, inputs=torch.tensor([255.0])).inputs
        tensor([1.])
    """
    held = state if state is not None else TrainState()
    made = as_stage(stage, "run_stage")
    first = assemble(made, [], type(held))
    upgrade(held, first.schema)
    for name, value in values.items():
        setattr(held, name, value)
    build(held)
    grads = (f"{name}.grads" for name in held.components(nn.Module))  # those that a test has put there
    assembly = assemble(made, [], type(held), held, [*held.__dict__, *grads])
    assembly.require_sound()
    runner = Runner(assembly, held)
    runner.watch_by("contents", debug=True)
    runner.run_alone()
    return Frame(held.__dict__)


def assert_contract(stage: Part, state: State | None = None, **values: Any) -> None:
    """Assert that a stage does what it declares: reads no more, writes what it promises and nothing else.

    Raises:
        AssertionError: a field or part changed that it does not declare, or a promised one did not get a value.
    """
    made = as_stage(stage, "assert_contract")
    held = state if state is not None else TrainState()
    assembly = assemble(made, [], type(held))
    upgrade(held, assembly.schema)
    for name, value in values.items():
        setattr(held, name, value)
    before = dict(held.__dict__)
    try:
        after = run_stage(made, held)
    except UndeclaredChange as error:
        raise AssertionError(str(error)) from error
    access = assembly.root.access
    missing = [name for name in access.field_writes if name not in after]
    assert not missing, f"{slot_of(made)} promises {missing} and left it without a value"
    changed = [name for name, value in after.items() if name not in before or held.__dict__[name] is not before[name]]
    undeclared = sorted(set(changed) - set(access.field_writes))
    assert not undeclared, f"{slot_of(made)} changed {undeclared}, which it does not declare in writes"


def events(learner: Learner) -> list[str]:
    """The list to which every before and after of every slot is appended from now on: "before fit", "after fit: ok".

    Example:
        >>> from learner.testing import events, toy_learner
        >>> learner = toy_learner()
        >>> seen = events(learner)
        >>> history = learner.fit(batches=1)
        >>> seen[:4]
        ['before train', 'before epoch', 'before fit', 'before fetch']
    """
    seen: list[str] = []
    for place in learner.assembly.places:
        learner.before(place.path)(_noting(seen, f"before {place.slot}"))
        learner.after(place.path)(_noting_outcome(seen, f"after {place.slot}"))
    return seen


def _noting(seen: list[str], text: str) -> Callable[[Any], None]:
    def note(state: Any) -> None:
        seen.append(text)

    return note


def _noting_outcome(seen: list[str], text: str) -> Callable[[Any, Outcome], None]:
    def note(state: Any, outcome: Outcome) -> None:
        seen.append(f"{text}: {outcome.kind}")

    return note
