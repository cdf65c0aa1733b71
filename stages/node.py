"""Node: one place of a bound tree, ready to run: hooks before, the body, hooks after, whatever happens."""

import math
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from stages.actor import Actor
from stages.body import children_body, stage_body
from stages.calling import Body
from stages.cancel import OK, Cancel, Exhausted, Outcome, Reached, Skip, forget, is_failure
from stages.errors import Misuse
from stages.hooking import around_of, hook_body
from stages.notes import noted
from stages.pairs import Around, Entered
from stages.place import CHECKPOINT, INLINE, Place
from stages.round import Round
from stages.stage import Stage
from stages.stage_view import StageView
from stages.timing import TimedRule, rules_of
from state.access import View
from state.watch import Look

if TYPE_CHECKING:
    from stages.runner import Runner


class Node(Actor):
    """One place of the tree, bound to a state.

    `execute` runs it. `begin` and `end` are its two halves, for whoever stands between them: `Runner.inside` and inline
    stages. After-hooks run exactly once if `begin` was called, whatever the outcome; one that fails does not skip the
    others. The first error wins, later ones become notes of it; an error wins over a Cancel, a wide Cancel over a
    narrow one.

    Attributes:
        holder: the node of the stage: itself, or what an inline stage is inline in.
        taken: how it ended, where a Skip or a Cancel ended here.
    """

    def __init__(self, runner: "Runner", place: Place, holder: "Node | None" = None) -> None:
        super().__init__(runner, place.path, place.access, "stage", place.contract.source, place.names)
        self.place = place
        self.stage = place.stage
        if place.kind == "stage":
            self.tell_settings(place.stage)
        self.forbidden = place.forbidden
        self.has_own_code = place.has_own_code
        self.lent: list[Look] = []  # what it is to restore, as it was
        self.holder = holder or self
        self.opens, self.each = place.opens, place.each
        self.hidden: list[Any] = []
        self.started: list[int] = []
        self.enter_slot = self.slot("enter", None, "")
        self.exit_slot = self.slot("exit", None, "")
        self.count: Callable[[BaseException | None], None] | None = None
        self.children = {
            slot: Node(runner, child, self if child.kind == INLINE else None) for slot, child in place.children.items()
        }
        self.by_stage = {id(child.stage): child for child in self.children.values() if child.place.kind == "stage"}
        self.before = tuple(hook_body(runner, hook) for hook in place.before)
        self.around = tuple(around_of(runner, hook) for hook in place.around)
        self.after = tuple(hook_body(runner, hook) for hook in place.after)
        self.entered: list[tuple[Around, Entered, Look | None]] = []
        invariants = runner.invariants.get(place.path, []) if place.kind == "stage" else []
        self.outer_rules, self.inner_rules = rules_of(self, invariants)
        self.round: Round | None = None
        self.taken = OK
        if self.each is not None:
            self.round = Round(self, self.each, place.counts)
            counted = self.children.get(self.each)
            if counted is not None:
                counted.count = self.round.count
            point = self.children.get(CHECKPOINT)
            if point is not None and point.place.kind == CHECKPOINT and point.place.hooks:
                self.round.point = point
        self.is_always_asked = any(not one.sampled for one in invariants)
        self.is_bare = not (place.hooks or self.opens or self.count or self.is_always_asked)
        self.steps: tuple[tuple[Body, tuple[Node, ...]], ...] = ()
        self.run_children = children_body(self)
        self.body = stage_body(self)

    def view(self, kind: type[View]) -> View:
        made = super().view(kind)
        if isinstance(made, StageView):
            object.__setattr__(made, "_run_children", self.holder.run_children)
        return made

    def run(self) -> Outcome:
        """Run this place for itself; how it ended, if not by an exception."""
        self.taken = OK
        self.execute()
        return self.taken

    def execute(self) -> None:
        """Run this place once: hooks before, body, hooks after."""
        if not self.is_bare or self.runner.timed:
            error = None
            try:
                self.begin()
                self.body()
                if self.runner.audited and self.has_own_code:
                    self.settle()
            except BaseException as raised:
                error = raised
            self.end(error)
        else:
            try:
                self.body()
            except BaseException as raised:
                error = self.ended_by(raised)
                if isinstance(error, Skip):
                    self._take(error)
                    return
                if error is raised:
                    raise
                raise error from None

    def resume(self) -> None:
        """Run this place from where a checkpoint was taken inside it: its before-hooks had run by then."""
        error = None
        before, self.before = self.before, ()
        try:
            try:
                self.begin()
            finally:
                self.before = before
            assert self.runner.resumption is not None
            self.runner.resumption.entered(self)
            self.body()
            if self.runner.audited and self.has_own_code:
                self.settle()
        except BaseException as raised:
            error = raised
        self.end(error)

    def look_again(self) -> None:
        """Run the observers before it: what they noted is in no checkpoint. A Cancel of theirs had its turn."""
        for hook, placed in zip(self.before, self.place.before, strict=True):
            if placed.hook.observes:
                try:
                    hook(OK)
                except (Cancel, Skip) as signal:
                    forget(signal)

    def begin(self) -> None:
        """Open the scope, if it opens one, run the before-hooks, enter those around it."""
        runner = self.runner
        if runner.audited and runner.guard is not None:
            runner.guard.begin()
        if self.round is not None:
            self.round.plain = None
        if runner.timed and runner.recording is not None and self.enter_slot is not None:
            self.started.append(perf_counter_ns())
            runner.recording.mark(self.enter_slot, None)
        else:
            self.started.append(0)
        if self.opens is not None:
            self.hidden.append(runner.open(self))
        is_asked = runner.audited or self.is_always_asked
        for rule in self.outer_rules if is_asked else ():
            rule.begin()
        for hook in self.before:
            hook(OK)
        for rule in self.inner_rules if is_asked else ():
            rule.begin()
        if runner.resumption is not None:
            runner.resumption.refill(runner.scopes.is_open)
        for around in self.around:
            entered = around.enter()
            if entered is not None:
                self.entered.append((around, *entered))
        if runner.guard is not None and self.access.restores and self.place.kind == "stage":
            self.lent.append(runner.guard.look_at(self.access.restores))

    def end(self, error: BaseException | None) -> None:
        """Leave the hooks around it, count, run the after-hooks, close the scope; raise what is left of `error`."""
        if error is not None:
            error = noted(self.runner, self.ended_early(error) if self.has_own_code else error, self)
        if self.lent and self.runner.guard is not None:
            try:
                self.runner.guard.prove(self, self.lent.pop())
            except BaseException as raised:
                error = _heavier(self.runner, error, noted(self.runner, raised, self), "the guard")
        while self.entered:
            around, running, before = self.entered.pop()
            try:
                around.leave(running, before, self._outcome(error))
            except BaseException as raised:
                error = _heavier(self.runner, error, noted(self.runner, raised, self), around.actor.path)
        is_asked = self.runner.audited or self.is_always_asked
        for rule in self.inner_rules if is_asked else ():
            error = self._ask(rule, error)
        if self.count is not None:
            self.count(error)
        for hook in self.after:
            try:
                hook(self._outcome(error))
            except BaseException as raised:
                who = self.place.after[self.after.index(hook)].path
                error = _heavier(self.runner, error, noted(self.runner, raised, self), who)
        for rule in self.outer_rules if is_asked else ():
            error = self._ask(rule, error)
        started = self.started.pop() if self.started else 0  # Ctrl-C may come before `begin` got that far
        if started or error is not None:
            self._tell_exit(error, perf_counter_ns() - started if started else None)
        if self.opens is not None and self.hidden:
            self.runner.close(self, self.hidden.pop(), keep=error is not None and is_failure(error))
            if isinstance(error, Cancel) and error.scope == self.opens:
                self._take(error)
                return
        if isinstance(error, Skip):
            self._take(error)
        elif error is not None:
            raise error

    def _ask(self, rule: TimedRule, error: BaseException | None) -> BaseException | None:
        """What is left of `error` when an invariant was asked at the end."""
        try:
            rule.end(error)
        except BaseException as raised:
            return _heavier(self.runner, error, noted(self.runner, raised, self), "an invariant")
        return error

    def _take(self, signal: BaseException) -> None:
        """Let a signal end here."""
        self.taken = self._outcome(signal)
        forget(signal)

    def ended_by(self, raised: BaseException) -> BaseException:
        """`raised` as it leaves this place: with its note, its author if it is a Cancel, and a row in the log."""
        error = noted(self.runner, raised, self)
        self._tell_exit(error, None)
        return error

    def _tell_exit(self, error: BaseException | None, duration_ns: int | None) -> None:
        """A row in the log: how this place ended."""
        recording = self.runner.recording
        if recording is not None and self.exit_slot is not None:
            outcome = self._outcome(error)
            recording.mark(self.exit_slot, [outcome.kind, duration_ns, outcome.told])

    def _outcome(self, error: BaseException | None) -> Outcome:
        return OK if error is None else Outcome.of(error, is_loop=self.round is not None)

    def run_child(self, stage: Stage) -> None:
        """Run a stage that this one holds.

        Raises:
            Misuse: it holds no such stage.
        """
        self.settle()
        child = self.by_stage.get(id(stage))
        if child is None:
            raise Misuse(f"{self.path} runs {stage!r}, which it does not hold. It holds {list(self.children)}.")
        child.execute()

    def walk(self) -> "list[Node]":
        """This node and all below it."""
        return [self, *(deep for child in self.children.values() for deep in child.walk())]


def _heavier(runner: "Runner", error: BaseException | None, raised: BaseException, who: str) -> BaseException:
    """Which of two exceptions goes on: an error before a Cancel, a wide Cancel before a narrow one, else the first.

    `who` raised the second, for the note of the first.

    A loader's end is wider than a Cancel of its round, and a Cancel of the run than the end that `fit` asked for.
    """

    def weight(one: BaseException) -> float:
        match one:
            case Skip():
                return -math.inf
            case Exhausted():
                return 0.5 - (runner.scopes.depth(runner.round.scope) if runner.round is not None else 0)
            case Reached():
                return -0.5
            case Cancel():
                return -runner.scopes.depth(one.scope)
            case _:
                return 1

    if error is None or raised is error or weight(raised) > weight(error):
        return raised
    if is_failure(raised):
        error.add_note(f"Then {who} raised {type(raised).__name__}: {raised}")
    return error
