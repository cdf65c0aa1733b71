"""Random intruders: whoever changes in place what it does not declare is named, with the part, and nobody else is.

Into a program that is sound, one actor more is put to work: the first time it runs, it changes something by one of the
edit routes. Or one that restores something does not give it back.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from stages import Runner, UndeclaredChange, assemble
from stages.callbacks import hooks_of
from state.recording import Recording
from state.schema import upgrade
from state.stores import MemoryStore
from tests.integration.trees.building import Builder
from tests.integration.trees.components import World
from tests.integration.trees.faults import Judged, mended
from tests.integration.trees.intrusions import ROUTES, other_object
from tests.integration.trees.oracle import Play, switches
from tests.integration.trees.plan import Actor, atoms, key_of
from tests.integration.trees.programs import Program, programs

choices = st.integers(0, 2**30)


def blamed(judged: Judged, world: World, builder: Builder, *, debug: bool) -> UndeclaredChange:
    """The error that ends a run, with nobody else blamed in it."""
    program = judged.program
    state = world.state(program.given)
    assembly = assemble(builder.tree(program.tree), hooks_of(builder.callbacks(program)), type(state), state)
    upgrade(state, assembly.schema)
    runner = Runner(assembly, state, Recording(MemoryStore(), "summary", {}), guard="contents")
    if debug:
        runner.watch_by("contents", debug=True)
    with pytest.raises(UndeclaredChange) as caught:
        runner.run()
    error = caught.value
    others = [note for note in error.__notes__ if "UndeclaredChange" in note and f": {error.actor} " not in note]
    assert not others, others
    return error


def sound_program(program: Program) -> tuple[Judged, set[int], Play]:
    """The program without faults, all that a person can switch on, and its run by hand, in which nobody is blamed."""
    judged = mended(program, 0)
    on = set(switches(program))
    by_hand = Play(judged.plan, numbers=on)
    assume(by_hand.violation is None)
    return judged, on, by_hand


def innocent(actor: Actor, part: str) -> bool:
    """Whether an actor may not change a part, nor is excused for what an optimizer does that it steps."""
    steps = part == "model.params" and "optimizer.state" in actor.named(actor.act.writes)
    return not (steps or atoms(part) & actor.may_change)


def assert_intruder_is_named(program: Program, choice: int) -> None:
    judged, on, by_hand = sound_program(program)
    actors: dict[str, Any] = {actor.path: actor for actor in judged.plan.actors}
    actors |= {spot.path: spot.actor for spot in judged.plan.spots if spot.kind == "inline"}
    first: dict[str, tuple[str, bool]] = {}
    for tag, path, is_early in by_hand.ran:
        if not (actors[path].spot.kind == "stage" and actors[path].act is actors[path].spot.node.act) or (
            actors[path].spot.node.kind != "inline"
        ):
            first.setdefault(tag, (path, is_early))
    part, change = ROUTES[choice % len(ROUTES)]
    open_to = [(tag, *found) for tag, found in first.items() if innocent(actors[found[0]], part)]
    is_lent = any(actor.act.restores for actor in judged.plan.actors)
    assume(open_to and not (is_lent and change is other_object))  # nobody can give that back who copies values
    tag, path, is_early = open_to[choice // len(ROUTES) % len(open_to)]
    world, done = World(on), []

    def intrude(who: str) -> None:
        if who == tag and not done:
            done.append(who)
            change(world)

    error = blamed(judged, world, Builder(world, intrude), debug=not is_early or choice % 2 == 0)
    assert (error.actor, [one.name for one in error.moves]) == (path, [part])
    assert repr(part) in str(error) and error.source in str(error)


def assert_who_does_not_give_back_is_named(program: Program, choice: int) -> None:
    judged, on, _ = sound_program(program)
    lenders = [actor.tag for actor in judged.plan.actors if actor.act.restores and "." not in actor.act.restores[0][-3:]]
    assume(lenders)
    tag = lenders[choice % len(lenders)]
    by_hand = Play(judged.plan, numbers=on, broken=tag)
    assume(by_hand.violation is not None)
    assert by_hand.violation
    world = World(on)
    error = blamed(judged, world, Builder(world, broken=tag), debug=True)
    assert error.actor == by_hand.violation[0]
    assert "give it back" in str(error) or "forbids that" in str(error)
    assert {one.name for one in error.moves} <= set(map(key_of, by_hand.violation[1]))


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(program=programs(), choice=choices)
def test_whoever_changes_what_it_does_not_declare_is_named(program: Program, choice: int) -> None:
    assert_intruder_is_named(program, choice)


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(program=programs(), choice=choices)
def test_whoever_does_not_give_back_what_it_restores_is_named(program: Program, choice: int) -> None:
    assert_who_does_not_give_back_is_named(program, choice)
