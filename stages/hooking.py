"""Hooking: the functions that run the hooks of one place, each given how the stage ended."""

from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from stages.actor import Actor
from stages.calling import call_of
from stages.cancel import OK, Outcome, Skip
from stages.errors import ContractBroken
from stages.notes import noted
from stages.pairs import Around
from stages.telling import nothing, tell_parts_of, watched_parts, watching
from stages.timing import tell_time
from state.access import View
from state.errors import FieldNotReady

if TYPE_CHECKING:
    from stages.place import HookPlace
    from stages.runner import Runner

HookBody = Callable[[Outcome], None]


def hook_body(runner: "Runner", placed: "HookPlace") -> HookBody:
    """The function that runs one hook at one place, given how the stage ended."""
    hook = placed.hook
    actor = Actor(runner, placed.path, placed.access, "hook", hook.contract.source, placed.names)
    actor.forbidden = placed.place.forbidden
    if not hook.observes:
        actor.tell_settings(hook.callback)
    tell_parts, tell = tell_parts_of(actor), tell_time(actor)
    outcome: list[Outcome] = []
    inner = call_of(actor, hook.call, hook.contract, View, outcome)
    watched = watched_parts(actor)
    if watched:
        inner = watching(inner, watched)
    has_parts = tell_parts is not nothing
    takes_outcome = any(parameter.name == "outcome" for parameter in hook.contract.parameters)
    is_told = takes_outcome or bool(placed.access.field_writes)  # for what it owes
    needed = (placed.access.readable - placed.access.optional) & actor.known.keys()

    def run(how: Outcome) -> None:
        if not takes_outcome and how is not OK and not runner.values.keys() >= needed:
            return  # the stage ended early, before there was what this hook reads
        if is_told:
            outcome[:] = (how,)
        started = perf_counter_ns() if runner.timed else 0
        try:
            inner()
            if started:
                tell(perf_counter_ns() - started)
            if runner.audited:
                actor.settle()
        except BaseException as raised:
            early = actor.ended_early(raised)
            if hook.observes and not takes_outcome and _is_gone(early, how, actor):
                return
            if isinstance(early, Skip) and hook.point.side == "after":
                told = "raises Skip after its stage has ended. Return instead, or hook it before."
                raise ContractBroken(actor.path, told) from None
            error = noted(runner, early, actor)
            if error is raised:
                raise
            raise error from None
        if has_parts:
            tell_parts()

    is_wanted = thinned(runner, placed, actor)
    if is_wanted is None:
        return run

    def run_sometimes(how: Outcome) -> None:
        if is_wanted(how):
            run(how)

    return run_sometimes


def around_of(runner: "Runner", placed: "HookPlace") -> Around:
    """A hook around one place, ready to be entered."""
    actor = Actor(runner, placed.path, placed.access, "hook", placed.hook.contract.source, placed.names)
    actor.forbidden = placed.place.forbidden
    if not placed.hook.observes:
        actor.tell_settings(placed.hook.callback)
    return Around(actor, placed, thinned(runner, placed, actor))


def thinned(runner: "Runner", placed: "HookPlace", actor: Actor) -> Callable[[Outcome], bool] | None:
    """Whether a hook runs now, by `every`, `first` and `when`; None where it always does."""
    hook = placed.hook
    if not hook.is_thinned:
        return None
    every, first, when = hook.every, hook.first, hook.point.options.get("when")
    everything = runner.observer_view(actor)

    def is_wanted(how: Outcome) -> bool:
        if every is not None and runner.number_of(every.unit) % every.number:
            return False
        if first is not None and runner.number_of(first.unit) > first.number:
            return False
        try:
            return when is None or bool(when(everything))
        except FieldNotReady as raised:
            if not _is_gone(raised, how, actor):
                raise
            return False

    return is_wanted


def _is_gone(raised: BaseException, how: Outcome, actor: Actor) -> bool:
    """Whether a hook only missed a value that there would be, had the stage not ended early."""
    return how is not OK and isinstance(raised, FieldNotReady) and raised.actor == actor.path
