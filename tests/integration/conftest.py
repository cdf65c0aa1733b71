"""What proofs need: two loops run on parts made alike and compared, and refusals that leave all as it was."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner import Learner, StageError, StateError
from learner.errors import LearnerError

OURS = (StateError, StageError, LearnerError)
Run = Callable[[SimpleNamespace], list[Tensor]]


def proves_equal(build: Callable[[], SimpleNamespace], by_hand: Run, staged: Run) -> None:
    """Run both loops on parts made alike; twice the one by hand."""
    first, again, ours = (outcome_of(build, run) for run in (by_hand, by_hand, staged))
    assert first["losses"], "the loop must train on something"
    assert_same(first, again, "the loop by hand is not deterministic")
    assert_same(ours, first, "the staged loop differs")


def outcome_of(build: Callable[[], SimpleNamespace], run: Run) -> dict[str, Any]:
    """Everything a run comes to, the state of the random generator included."""
    torch.manual_seed(3)
    parts = build()
    start = {name: [value.clone() for value in part.parameters()] for name, part in modules_of(parts).items()}
    losses = run(parts)
    modules = modules_of(parts)
    assert not all(all(map(torch.equal, start[name], modules[name].parameters())) for name in start), "nothing learned"
    return {
        "losses": losses,
        "weights": {name: module.state_dict() for name, module in modules.items()},
        "modes": {name: [part.training for part in module.modules()] for name, module in modules.items()},
        "optimizers": {name: one.state_dict() for name, one in vars(parts).items() if isinstance(one, Optimizer)},
        "rng": torch.get_rng_state(),
    }


def modules_of(parts: SimpleNamespace) -> dict[str, nn.Module]:
    """The modules of a program, by name."""
    return {name: part for name, part in vars(parts).items() if isinstance(part, nn.Module)}


def assert_same(ours: Any, theirs: Any, told: str, path: str = "") -> None:
    """Equal to the last bit, through mappings and sequences."""
    assert type(ours) is type(theirs), f"{told}: {path}"
    if isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), f"{told}: {path}"
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), f"{told}: {path}"
        for key in ours:
            assert_same(ours[key], theirs[key], told, f"{path}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), f"{told}: {path}"
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, told, f"{path}/{number}")
    else:
        assert ours == theirs, f"{told}: {path}"


def losses_of(learner: Learner, epochs: int) -> list[Tensor]:
    """Fit, with an observer that collects the loss of every batch, of validation too."""
    losses: list[Tensor] = []

    @learner.after("batch")
    def collect(state: Any) -> None:
        losses.append(state.loss.detach().clone())

    learner.fit(epochs=epochs)
    assert learner.outcome.ok
    return losses


def standing(learner: Learner) -> tuple[Any, ...]:
    """What a refusal must leave as it was: the tree, its hooks, the class of State and all values in it."""
    learner_places = [place.path for place in learner.assembly.places]
    values = {name: id(value) for name, value in learner.state.__dict__.items()}
    return learner_places, list(learner.hooks), type(learner.state), values, repr(learner)


def refused(learner: Learner, act: Callable[[], Any], error: type[Exception], match: str) -> Any:
    """The error of a refusal that changed nothing, and after which the Learner still trains."""
    before = standing(learner)
    with pytest.raises(error, match=match) as caught:
        act()
    assert isinstance(caught.value, OURS)
    assert str(caught.value).isascii()
    assert standing(learner) == before
    learner.fit(epochs=1)
    assert learner.outcome.ok
    return caught.value


def stopped(learner: Learner, error: type[Exception], match: str, note: str) -> Any:
    """The error by which a fit is stopped at the boundary of the actor that did it, with one note of ours."""
    with pytest.raises(error, match=match) as caught:
        learner.fit(epochs=2)
    assert isinstance(caught.value, OURS)
    assert [one for one in caught.value.__notes__ if note in one], caught.value.__notes__
    assert sum(one.startswith("In ") for one in caught.value.__notes__) == 1
    assert learner.outcome.kind == "failed" and learner.outcome.error is caught.value
    return caught.value


@pytest.fixture(name="proves_equal")
def proves_equal_fixture() -> Callable[[Callable[[], SimpleNamespace], Run, Run], None]:
    """The proof that a staged loop equals one by hand."""
    return proves_equal


@pytest.fixture(name="losses_of")
def losses_of_fixture() -> Callable[[Learner, int], list[Tensor]]:
    """The function that fits and collects every loss by an observer."""
    return losses_of


@pytest.fixture(name="outcome_of")
def outcome_of_fixture() -> Callable[[Callable[[], SimpleNamespace], Run], dict[str, Any]]:
    """The function that tells everything a run comes to."""
    return outcome_of


@pytest.fixture(name="assert_same")
def assert_same_fixture() -> Callable[[Any, Any, str], None]:
    """The comparison to the last bit."""
    return assert_same


@pytest.fixture(name="refused")
def refused_fixture() -> Callable[..., Any]:
    """The proof that something is refused with nothing changed."""
    return refused


@pytest.fixture(name="stopped")
def stopped_fixture() -> Callable[..., Any]:
    """The proof that a fit is stopped by an error of ours with one note."""
    return stopped
