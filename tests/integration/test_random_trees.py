"""Random trees: what the check accepts runs as the oracle says; what it refuses has every fault that it is refused for.

The oracle (see `trees`) knows nothing of how the library checks and runs: it plays a program by hand over plain
numbers, once for each way in which what runs only sometimes may run.
"""

from collections import Counter
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from stages import UndeclaredChange
from stages.draw import draw_tree
from tests.integration.trees.building import Builder
from tests.integration.trees.choices import programs
from tests.integration.trees.components import Values, World
from tests.integration.trees.faults import Judged, mended
from tests.integration.trees.oracle import Play
from tests.integration.trees.places import ALL_PARTS
from tests.integration.trees.programs import Program
from tests.integration.trees.running import put_together, runner_of, table, times


def test_what_is_accepted_runs_and_what_is_refused_has_that_fault() -> None:
    prove(120)


@pytest.mark.slow
def test_and_that_10_000_times(record_property: Any) -> None:
    started, found = perf_counter(), Counter[str]()
    for number in range(20):  # each by itself: what is remembered of the examples of one takes memory
        found.update(prove(500, number))
    seconds = round(perf_counter() - started)
    record_property(
        "told", table({"random programs": found.pop("all"), **dict(sorted(found.items())), "seconds": seconds})
    )


def prove(examples: int, number: int = 0) -> Counter[str]:
    """How many programs were accepted, and how many refused for what."""
    found: Counter[str] = Counter()

    @seed(number)
    @times(examples)
    @given(program=programs(), keep=st.sampled_from([0, 0, 0, 1, 99]))
    def prove_one(program: Program, keep: int) -> None:
        judged = mended(program, keep)
        found.update(["all", *outcomes_of(judged)])

    prove_one()
    return found


def outcomes_of(judged: Judged) -> set[str]:
    """Hold a program with its faults against what the library says of it, and run it, if it has none."""
    builder = Builder(World(set()))
    assembly, state = put_together(judged.program, builder)
    errors = [finding for finding in assembly.findings if finding.severity == "error"]
    assert type(state) is Values and state.__dict__ == vars(builder.world.state(judged.program.given))
    assert not builder.world.told
    if errors or judged.all():
        judged.assert_told_by(errors)
        assert draw_tree(put_together(judged.program, builder)[0]) == draw_tree(assembly)
        return {f"refused: {finding.kind}" for finding in errors} | {"refused"}
    numbers = judged.program.switches
    for switched_on in dict.fromkeys([tuple(numbers), tuple(numbers[::2])]):
        assert_runs(judged, set(switched_on))
    return {"accepted"}


def assert_runs(judged: Judged, switched_on: set[int]) -> None:
    """A run under the full guard is the one by hand: what actors see, what State holds, what is in every part."""
    by_hand = Play(judged.plan, numbers=switched_on)
    world = World(switched_on)
    runner = runner_of(judged.program, Builder(world))
    if by_hand.violation is not None:
        with pytest.raises(UndeclaredChange, match="forbids") as caught:
            runner.run()
        assert caught.value.actor == by_hand.violation[0]
        return
    runner.run()
    assert world.told == by_hand.told
    assert world.numbers(ALL_PARTS) == by_hand.parts
    held = {name: value for name, value in by_hand.values.items() if isinstance(value, int) and name in Values.specs}
    assert {name: value for name, value in runner.values.items() if isinstance(value, int | float)} == held
