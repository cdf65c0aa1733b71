"""Around: the hooks that stand around a stage, each a generator that is resumed with the outcome."""

from collections.abc import Callable, Generator
from contextlib import suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NoReturn

from stages.cancel import OK, Outcome, Skip
from stages.errors import ContractBroken
from stages.notes import noted
from stages.timing import tell_time
from state.access import View
from state.errors import a_kind
from state.watch import Look

if TYPE_CHECKING:
    from stages.actor import Actor
    from stages.place import HookPlace

Entered = Generator[Any, Outcome, Any]


class Around:
    """One hook around one place. What it restores is on record when it is lent and when it is given back."""

    def __init__(self, actor: "Actor", placed: "HookPlace", is_wanted: Callable[[Outcome], bool] | None) -> None:
        self.actor = actor
        self.hook = placed.hook
        self.view = actor.view(View)
        self.is_wanted = is_wanted
        self.tell_time = tell_time(actor)
        self.spent: list[int] = []  # ns up to the `yield`, where that is timed; else 0
        self.lent, self.returned = (
            [slot for name in placed.access.restores if (slot := actor.slot("write", name, evidence)) is not None]
            for evidence in ("until restored", "restored")
        )
        self.changed = [
            slot for name in placed.access.part_writes if (slot := actor.slot("write", name, "inferred")) is not None
        ]

    def enter(self) -> tuple[Entered, Look | None] | None:
        """Run it up to its `yield`; None where it is thinned out."""
        if self.is_wanted is not None and not self.is_wanted(OK):
            return None
        guard, restores = self.actor.runner.guard, self.actor.access.restores
        before = guard.look_at(restores) if guard is not None and restores else None
        started = perf_counter_ns() if self.actor.runner.timed else 0
        running = self._started()
        self.spent.append(perf_counter_ns() - started if started else 0)
        self._tell(self.lent)
        try:
            self.actor.settle()
        except BaseException as raised:
            with suppress(Exception):  # what is wrong with it was found already
                self.leave(running, before, Outcome.of(raised))
            raise
        return running, before

    def leave(self, running: Entered, before: Look | None, how: Outcome) -> None:
        """Resume it with the outcome, to its end; what it lent has to be what it was `before`."""
        guard = self.actor.runner.guard
        spent, started = self.spent.pop(), perf_counter_ns()
        try:
            running.send(how)
        except StopIteration:
            if spent:
                self.tell_time(spent + perf_counter_ns() - started)
            self.actor.settle()  # first, so that what it changed is held against nobody else, whatever is wrong with it
            self._keep_promises(how)
            self._tell(self.changed)
            if guard is not None and before is not None:
                guard.prove(self.actor, before)
            self._tell(self.returned)
            return
        except Skip:
            told = "raises Skip after its stage has ended. Return instead, or raise it before the `yield`."
            raise ContractBroken(self.actor.path, told) from None
        except BaseException as raised:
            self._raise(raised)
        with suppress(Exception):  # it may yield once more on being closed
            running.close()
        raise ContractBroken(self.actor.path, "yields twice. It stands around one run of its stage: yield once.")

    def _started(self) -> Entered:
        values, names = self.actor.runner.values, self.actor.names
        given: list[Any] = []
        for parameter in self.hook.contract.parameters:
            field = names.get(parameter.name, parameter.name)
            if parameter.name == "state":
                given.append(self.view)
            elif parameter.optional or field in values:
                given.append(values.get(field))
            else:
                raise self.actor.not_ready(field)
        self.view._written.clear()
        running: Entered = self.hook.call(*given)
        if not isinstance(running, Generator):
            told = f"gave {a_kind(running)}, no generator. Take off what wraps it (@contextmanager, say)."
            raise ContractBroken(self.actor.path, told)
        try:
            next(running)
        except StopIteration:
            told = "ended without `yield`, so the stage would have run outside of it. Yield on every way through."
            raise ContractBroken(self.actor.path, told) from None
        except BaseException as raised:
            self._raise(raised)
        return running

    def _keep_promises(self, how: Outcome) -> None:
        """Refuse that it ends after a good stage without a value in a field that it is to write."""
        for name in self.actor.access.field_writes if how.ok else ():
            if name not in self.actor.runner.values and name not in self.actor.access.unsure:
                told = f"declares that it writes {name!r} and ended without a value there."
                raise ContractBroken(self.actor.path, told) from None

    def _raise(self, raised: BaseException) -> NoReturn:
        """Raise what came out of it, with its note and with its own cause; or what it changed before, undeclared."""
        error = noted(self.actor.runner, self.actor.ended_early(raised), self.actor)
        if error is raised:
            raise error
        raise error from None

    def _tell(self, slots: list[int]) -> None:
        recording = self.actor.runner.recording
        if recording is not None:
            for slot in slots:
                recording.mark(slot, None)
