"""Random trees: what the check accepts runs as the oracle says; what it refuses has every fault that it is refused for.

The oracle (see `trees`) knows nothing of how the library checks and runs: it plays a program by hand over plain
numbers, once for each part that runs only sometimes. A reader is worst off when nothing of that kind has run but what
it stands in.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages import Runner, UndeclaredChange, assemble
from stages.callbacks import hooks_of
from state.recording import Recording
from state.schema import upgrade
from state.stores import MemoryStore
from tests.integration.trees.building import Builder
from tests.integration.trees.components import Values, World
from tests.integration.trees.faults import Judged, mended
from tests.integration.trees.oracle import Play, switches
from tests.integration.trees.programs import Program, programs


def assert_refused_or_runs(program: Program, keep: int) -> None:
    judged = mended(program, keep)
    world = World(set())
    builder = Builder(world)
    state = world.state(program.given)
    before = dict(state.__dict__)
    assembly = assemble(builder.tree(program.tree), hooks_of(builder.callbacks(program)), type(state), state)
    errors = [finding for finding in assembly.findings if finding.severity == "error"]
    assert type(state) is Values and state.__dict__ == before and not world.told
    if errors or judged.all():
        judged.assert_told_by(errors)
        return
    numbers = switches(program)
    for switched_on in dict.fromkeys([tuple(numbers), tuple(numbers[::2]), ()]):
        assert_runs(judged, program, set(switched_on))


def assert_runs(judged: Judged, program: Program, switched_on: set[int]) -> None:
    """A run under the full guard is the one by hand: what actors see, what State holds, what is in every part."""
    by_hand = Play(judged.plan, numbers=switched_on)
    world = World(switched_on)
    builder = Builder(world)
    state = world.state(program.given)
    assembly = assemble(builder.tree(program.tree), hooks_of(builder.callbacks(program)), type(state), state)
    upgrade(state, assembly.schema)
    runner = Runner(assembly, state, Recording(MemoryStore(), "summary", {}))
    runner.watch_by("contents", debug=True)
    if by_hand.violation is not None:
        with pytest.raises(UndeclaredChange, match="forbids") as caught:
            runner.run()
        assert caught.value.actor == by_hand.violation[0]
        return
    runner.run()
    assert world.told == by_hand.told
    assert world.numbers() == by_hand.parts
    held = {name: value for name, value in by_hand.values.items() if isinstance(value, int) and name in state.specs}
    assert {name: value for name, value in state.__dict__.items() if isinstance(value, int | float)} == held


kept = st.sampled_from([0, 0, 0, 1, 99])


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(program=programs(), keep=kept)
def test_what_is_accepted_runs_and_what_is_refused_has_that_fault(program: Program, keep: int) -> None:
    assert_refused_or_runs(program, keep)
