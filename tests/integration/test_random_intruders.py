"""Random intruders: in a program that is sound, one actor does what it may not, the first time it runs.

It changes what it does not declare, or does not give back what it restores: it is named with the part, and nobody else
is. Or it raises: that comes out, or ends the scope that it cancels, or an error of ours says what cannot follow; and
then the program runs again.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import pytest
from hypothesis import assume, given, seed
from hypothesis import strategies as st

from learner import Cancel, Skip, StageError, StateError
from stages import UndeclaredChange
from tests.integration.trees.building import Builder, change
from tests.integration.trees.choices import PARTS, programs
from tests.integration.trees.components import World
from tests.integration.trees.faults import Judged, mended
from tests.integration.trees.oracle import Play
from tests.integration.trees.places import Actor, all_atoms, atoms, key_of
from tests.integration.trees.programs import Program
from tests.integration.trees.running import runner_of, table, times

RAISED: dict[str, Callable[[], BaseException]] = {
    "error": lambda: ValueError("theirs"),
    "ctrl-c": KeyboardInterrupt,
    "skip": Skip,
    **{f"cancel {scope}": partial(Cancel, scope, "theirs") for scope in ("batch", "epoch", "mine", "run")},
}


def test_an_intruder_is_named_and_what_is_raised_comes_out() -> None:
    prove(120)


@pytest.mark.slow
def test_and_that_10_000_times(record_property: Any) -> None:
    started, found = perf_counter(), Counter[str]()
    for number in range(20):  # each by itself: what is remembered of the examples of one takes memory
        found.update(prove(500, number))
    seconds = round(perf_counter() - started)
    record_property(
        "told", table({"random intruders": found.total(), **dict(sorted(found.items())), "seconds": seconds})
    )


def prove(examples: int, number: int = 0) -> Counter[str]:
    """How often an intruder did what."""
    found: Counter[str] = Counter()

    @seed(number)
    @times(examples)
    @given(program=programs(), choice=st.integers(0, 2**30))
    def prove_one(program: Program, choice: int) -> None:
        judged, on = mended(program, 0), set(program.switches)
        by_hand = Play(judged.plan, numbers=on)
        assume(by_hand.violation is None)
        act = (assert_change_is_named, assert_keeping_is_named, assert_raised_comes_out)[choice % 3]
        found[act(judged, on, by_hand, choice // 3)] += 1

    prove_one()
    return found


def assert_change_is_named(judged: Judged, on: set[int], by_hand: Play, choice: int) -> str:
    """Somebody changes a part that it may not change."""
    part = (*PARTS, "rng")[choice % (len(PARTS) + 1)]
    actors = {actor.path: actor for actor in judged.plan.actors}
    open_to = [
        (tag, path, is_early)
        for tag, (path, is_early) in by_hand.worked.items()
        if not atoms(part) & (actors[path].may_change | excused(actors[path]))
    ]
    assume(open_to)
    tag, path, is_early = open_to[choice // 11 % len(open_to)]
    world, waiting = World(on), [tag]

    def intrude(who: str) -> None:
        if who in waiting:
            waiting.clear()
            change(world, part)

    error = blamed(judged, Builder(world, intrude), debug=not is_early or choice % 2 == 0)
    assert (error.actor, [one.name for one in error.moves]) == (path, [part])
    assert repr(part) in str(error) and error.source in str(error)
    return "undeclared changes named"


def assert_keeping_is_named(judged: Judged, on: set[int], by_hand: Play, choice: int) -> str:
    """Somebody keeps what it is to give back."""
    lenders = [actor.tag for actor in judged.plan.actors if actor.act.restores and actor.tag in by_hand.worked]
    assume(lenders)
    tag = lenders[choice % len(lenders)]
    broken = Play(judged.plan, numbers=on, broken=tag).violation
    assume(broken)
    assert broken
    error = blamed(judged, Builder(World(on), broken=tag), debug=True)
    assert error.actor == broken[0]
    assert "give it back" in str(error) or "forbids that" in str(error)
    assert {one.name for one in error.moves} <= set(map(key_of, broken[1]))
    return "kept loans named"


def assert_raised_comes_out(judged: Judged, on: set[int], by_hand: Play, choice: int) -> str:
    """Somebody raises; the program ends with that, or by it, or with an error of ours, and runs again."""
    assume(by_hand.worked)
    waiting = [[*by_hand.worked][choice % len(by_hand.worked)]]
    kind = [*RAISED][choice // 97 % len(RAISED)]
    raised = RAISED[kind]()

    def intrude(who: str) -> None:
        if who in waiting:
            waiting.clear()
            raise raised

    runner = runner_of(judged.program, Builder(World(on), intrude))
    try:
        runner.run()
    except (StageError, StateError):
        assert kind not in ("error", "ctrl-c")
    except BaseException as error:
        assert error is raised and runner.outcome.error in (None, raised)
    assert not waiting
    runner.run()
    assert runner.outcome.ok
    return f"raised: {kind}"


def excused(actor: Actor) -> frozenset[str]:
    """What is not held against an actor: what it gives back at once, and of who steps an optimizer the parameters."""
    steps = ["model.params"] if "optimizer.state" in actor.act.writes else []
    return all_atoms([*actor.named(actor.act.restores), *steps])


def blamed(judged: Judged, builder: Builder, *, debug: bool) -> UndeclaredChange:
    """The error that ends a run, with nobody else blamed in it."""
    with pytest.raises(UndeclaredChange) as caught:
        runner_of(judged.program, builder, debug=debug).run()
    error = caught.value
    others = [note for note in error.__notes__ if "UndeclaredChange" in note and f": {error.actor} " not in note]
    assert not others, others
    return error
