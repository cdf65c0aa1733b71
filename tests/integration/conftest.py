"""What proofs need: two loops run on parts made alike and compared, refusals that leave all as it was, the page on
events."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner import Cancel, Learner, StageError, StateError
from learner.errors import LearnerError

OURS = (StateError, StageError, LearnerError)
Run = Callable[[SimpleNamespace], list[Tensor]]
Debugging = Callable[[], AbstractContextManager[None]]
EVENTS = Path(__file__).parents[2] / "docs/reference/events.md"


def proves_equal(debugging: Debugging, build: Callable[[], SimpleNamespace], by_hand: Run, staged: Run) -> None:
    """Run both loops on parts made alike, each twice; the second time of ours everything is looked at."""
    first, again, ours = (outcome_of(build, run) for run in (by_hand, by_hand, staged))
    assert first["losses"], "the loop must train on something"
    assert_same(first, again, "the loop by hand is not deterministic")
    assert_same(ours, first, "the staged loop differs")
    with debugging():
        assert_same(outcome_of(build, staged), first, "the staged loop differs under debug()")


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


class Peers:
    """docs/reference/events.md: the names that its program defines, made anew, and the tables under each heading."""

    def __init__(self) -> None:
        text = EVENTS.read_text(encoding="utf-8")
        self.text = text
        self.names: dict[str, Any] = {}
        for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            exec(block, self.names)
        self.tables: dict[str, list[dict[str, str]]] = {}
        head: list[str] = []
        for line in text.splitlines():
            cells = [cell.strip().strip("`") for cell in line.strip("|").split(" | ")] if line.startswith("|") else []
            if line.startswith("#"):
                rows = self.tables[line.strip("# ")] = []
            elif cells and head and not cells[0].startswith("---"):
                rows.append(dict(zip(head, cells, strict=True)))
            head = head or cells if cells else []

    def points(self, heading: str) -> list[tuple[str, Any]]:
        """The events under a heading, each with its point, in order."""
        rows = [row for row in self.tables[heading] if "point of our tree" in row]
        return [(f"{row.get('phase', '')} {row['event']}".strip(), self.read(row["point of our tree"])) for row in rows]

    def scope(self, heading: str, signal: str) -> str:
        """What our Cancel for a signal of theirs ends."""
        (cancel,) = [row["ours"] for row in self.tables[heading] if row.get("signal") == signal]
        scope: str = self.read(cancel).scope
        return scope

    def read(self, cell: str) -> Any:
        """What the code in a cell comes to."""
        return eval(cell, self.names)


class Watch:
    """An observer at every point under some headings of that page; at the `nth` time of one, it cancels `scope`."""

    def __init__(self, peers: Peers, *headings: str, at: str = "", scope: str = "", nth: int = 1) -> None:
        self.seen: list[str] = []
        self.place, self.scope, self.left = at, scope, nth
        self.callbacks = [
            point(self._observer(event)) for heading in headings for event, point in peers.points(heading)
        ]

    def at(self, place: str) -> None:
        """Cancel, if it is the time and the place."""
        if place == self.place:
            self.left -= 1
            if self.left == 0:
                raise Cancel(self.scope, place)

    def _observer(self, event: str) -> Callable[[Any], None]:
        def observe(state: Any) -> None:
            self.seen.append(event)
            self.at(event)

        return observe


def closed(events: list[str], pairs: list[tuple[str, str]], ends: set[str]) -> list[str]:
    """`events` with those of `ends` that are missing, where what they end stops; `pairs` has the outer ones first."""
    depth = {name: number for number, pair in enumerate(pairs) for name in pair}
    begins = {begin for begin, _ in pairs}
    result: list[str] = []
    open_ones: list[int] = []
    for event in [*events, None]:
        least = -1 if event is None else depth.get(event, len(pairs)) + (event not in begins)
        while open_ones and open_ones[-1] >= least:
            end = pairs[open_ones.pop()][1]
            result += [end] if end in ends else []
        if event is not None:
            result.append(event)
            if event in begins:
                open_ones.append(depth[event])
            elif open_ones and open_ones[-1] == depth.get(event):
                open_ones.pop()
    return result


@pytest.fixture(name="peers")
def peers_fixture() -> Peers:
    """The page on events of others."""
    return Peers()


@pytest.fixture(name="watched")
def watched_fixture(peers: Peers) -> Callable[..., Watch]:
    """A function that makes a Watch over that page."""
    return lambda *headings, **cancel: Watch(peers, *headings, **cancel)


@pytest.fixture(name="closed")
def closed_fixture() -> Callable[[list[str], list[tuple[str, str]], set[str]], list[str]]:
    """The change that ends what was begun."""
    return closed


@pytest.fixture(name="proves_equal")
def proves_equal_fixture(debugging: Debugging) -> Callable[[Callable[[], SimpleNamespace], Run, Run], None]:
    """The proof that a staged loop equals one by hand."""
    return partial(proves_equal, debugging)


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
