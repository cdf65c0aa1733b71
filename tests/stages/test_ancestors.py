"""A part that is run alone: what stands open round it, and where it is on record."""

from typing import Any

import pytest

from learner import Composite, State, field, stage
from learner.testing import toy_learner
from stages import Runner, assemble
from state import ChangeLog, Position
from state.recording import Recording
from state.stores import MemoryStore


class Values(State):
    of_turn: int = field(scope="turn", default=7)
    seen: int = 0


class Turns(Composite):
    """One round of a scope of its own, in another one."""

    opens = "outer"
    each = "turn"
    runs = "1+"

    def run(self, state: Any) -> None:
        with state.round():
            super().run(state)


@stage(state=Values, writes=("seen",))
def look(of_turn: int) -> int:
    return of_turn


@pytest.mark.parametrize(
    ("path", "phase", "batch"), [("epoch/fit", "fit", 7), ("fit/batch", "fit", 0), ("validate/batch", "validate", 0)]
)
def test_part_run_alone_is_on_record_where_it_stands_in_the_tree(path: str, phase: str, batch: int) -> None:
    learner = toy_learner()
    learner.fit(epochs=1)
    if path != "epoch/fit":
        learner.insert(first_batch, before=f"{path}/unpack")
    learner.run(path)
    assert learner.log.blame("loss").position == Position(1, phase, batch, learner.state.updates - (phase == "fit"))


@stage(writes=("batch",))
def first_batch(train_loader: Any) -> Any:
    return train_loader[0]


def test_scopes_of_the_ancestors_are_open_and_told_from_outside_inwards() -> None:
    store = MemoryStore()
    recording = Recording(store)
    state = Values()
    runner = Runner(assemble(Composite(turns=Turns(look)), [], Values, state), state, recording)
    runner.run("turns/look")
    assert state.seen == 7
    told = [(c.kind, c.evidence) for c in ChangeLog(store, recording).changes() if c.kind in ("open", "close")]
    assert told == [("open", "run"), ("open", "outer"), ("open", "turn"), ("close", "turn"), ("close", "outer")]


def test_values_of_the_ancestors_stay_when_the_part_fails() -> None:
    @stage(state=Values, writes=("of_turn",))
    def fail(of_turn: int) -> int:
        raise ZeroDivisionError

    state = Values()
    runner = Runner(assemble(Composite(turns=Turns(fail)), [], Values, state), state)
    with pytest.raises(ZeroDivisionError):
        runner.run("turns/fail")
    assert state.of_turn == 7
    assert not runner.scopes.is_open("turn")
