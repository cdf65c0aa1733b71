"""Runner: a checked tree bound to a state, run as a plain interpreter of its nodes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from stages import own_loop
from stages.actor import Actor
from stages.ancestors import scopes_above
from stages.assembly import Assembly
from stages.cancel import OK, Cancel, Exhausted, Outcome, forget
from stages.check import updates_open
from stages.describing import describe
from stages.errors import Misuse
from stages.frame import Frame
from stages.freezing import freeze
from stages.guard import Guard, GuardLevel, Schedule
from stages.invariants import Invariant
from stages.limit import TOTALS, Limit
from stages.node import Node
from stages.notes import why_not_ready
from stages.phases import Phase
from stages.resuming import Resumption
from stages.round import Position, Round
from stages.scalars import Scalars
from stages.slots import find_one
from stages.stage_view import StageView
from stages.timing import TimedGuard
from stages.watching import Watchers
from state.access import Access, View
from state.openings import Openings
from state.recording import Recording
from state.scopes import Scopes
from state.state import State
from state.watch import Watch

_SCOPES = {"batches": ("batch",), "epochs": ("epoch",), "updates": ("update", "batch")}
"""The rounds that each unit counts."""

Opened = tuple[str, dict[str, Any] | None, Position, bool]
"""(scope, the values it hides, the position round it, whether the log was told of it)."""


class Runner:
    """Binds an assembly to a state and runs it, or parts of it.

    One interpreter of the tree: `Node.execute` is all there is between two stages, and where a stage has no hook, scope
    or count, and is not timed, not even that (`children_body`). While it runs, nothing else may run the same state.

    Attributes:
        timed: whether stages of this round are timed.
        guard: what looks for undeclared changes, or None.
        audited: whether it looks in this round.
        round: the innermost open round, or None.
        phase: slot of the innermost phase that runs, or None.
        limit: where `fit` ends, or None.
        outcome: how the last run ended.
        scalars: what the log knows of the plain values of parts.
    """

    def __init__(
        self,
        assembly: Assembly,
        state: State,
        recording: Recording | None = None,
        before: "Runner | None" = None,
        guard: GuardLevel = "off",
        watchers: Watchers | None = None,
        invariants: Mapping[str, list[Invariant]] | None = None,
    ) -> None:
        self.assembly = assembly
        self.watchers: Watchers = watchers or {}
        self.invariants = invariants or {}
        # what was warned of: (invariant, culprit), or (culprit, part)
        self.warned: set[tuple[str, str]] = before.warned if before is not None else set()
        self.scalars: Scalars = before.scalars if before is not None else Scalars(state, recording)
        self.state: State = state
        self.values: dict[str, Any] = state.__dict__
        self.recording: Recording | None = recording
        self.scopes: Scopes = Scopes(state, updates_open=updates_open(assembly.places))
        self.openings: Openings = Openings(recording, self.scopes)
        self.round: Round | None = None
        self.phase: str | None = None
        self.limit: Limit | None = None
        self.outcome: Outcome = before.outcome if before is not None else OK
        self.timed: bool = recording is not None
        self.guard: Guard | None = None
        self.parts = Watch(state)  # what looks at parts that are measured
        self.audited = False
        self.resumption: Resumption | None = None
        self.begins_pass: Callable[[str, Any], None] | None = None  # told of each phase that begins, with its loader
        self._runs = Schedule()
        self._phases: list[str | None] = []
        self.entered: Node | None = None
        self._is_running = False
        self.is_closed = False
        if recording is not None:
            describe(recording, assembly)
        self.user = Actor(self, "user", Access(), "reserved", "")
        self.external = Actor(self, "external", Access(), "reserved", "")
        self.watch_by(guard)
        self.root = Node(self, assembly.root)
        self.nodes = {node.path: node for node in self.root.walk()}
        for place in assembly.places:
            freeze(place.stage)
        for hook in assembly.hooks:
            if not hook.observes:
                freeze(hook.callback)

    def watch_by(self, level: GuardLevel, *, debug: bool = False) -> None:
        """Look for undeclared changes from now on, or no longer."""
        before = self.guard
        self.guard = None if level == "off" else TimedGuard(self, level, is_debugging=debug)
        if self.guard is not None and before is not None:
            self.guard.go_on(before)

    def find(self, path: str) -> Node:
        """The one node that `path` names.

        Raises:
            UnknownSlot, AmbiguousSlot: it names none, or several.
        """
        return self.nodes[find_one(path, [place.path for place in self.assembly.places if place.kind == "stage"])]

    def resume(self, resumption: Resumption, limit: Limit | None = None) -> None:
        """Run the tree from where it stood when a checkpoint was taken."""
        with self.running(limit, resumes=True):
            self.resumption, self.timed, self.openings.is_told_before = resumption, True, True
            try:
                self.root.resume()
            finally:
                self.resumption, self.openings.is_told_before = None, False

    def iterate(self, node: Node, loader: Any) -> Iterator[Any]:
        """The iterator for the pass of a phase over its loader."""
        if self.resumption is not None:
            return self.resumption.iterate(node, loader)
        if self.begins_pass is not None:
            self.begins_pass(node.path, loader)
        return iter(loader)

    def run(self, path: str = "", limit: Limit | None = None) -> Frame:
        """Run the tree, or the part at `path` with the scopes of its ancestors open.

        Returns:
            The values in these scopes at the end.
        """
        node = self.find(path) if path else self.root
        frame = Frame({})
        with self.running(limit), scopes_above(self, node):
            self.outcome = node.run()
            frame = self.frame(lambda scope: scope != "run")
        return frame

    def run_alone(self) -> None:
        """Run the tree on the values that the state has, scoped ones included, as a test of one stage does."""
        self.refuse_if_running()
        self.timed = self.audited = self.guard is not None  # where nothing is timed, leaves are run unlooked at
        try:
            self.root.execute()
        finally:
            self.timed, self.audited = self.recording is not None, False

    def inside(self, path: str) -> AbstractContextManager[None]:
        """Everything round the loop at `path`, for a loop of the user's own: hooks, scopes, modes.

        A Cancel that leaves the block is taken as `fit` takes it.
        """
        return own_loop.inside(self, path)

    def run_batch(self, batch: Any) -> Frame:
        """One round of a training phase on `batch`, which is given instead of fetched.

        Inside `inside(path)` it is a round of that loop; alone it is a phase of one batch, of the one training phase of
        the tree, with its hooks.
        """
        return own_loop.run_batch(self, batch)

    def open(self, node: Node) -> Opened:
        """Open the scope of a node that has `opens`; the answer is for `close`."""
        assert node.opens is not None
        hidden = self.scopes.open(node.opens)
        if isinstance(node.stage, Phase):
            self._phases.append(self.phase)
            self.phase = node.place.slot
        return self.enter(node, node.opens, hidden)

    def close(self, node: Node, opened: Opened, *, keep: bool) -> None:
        """Close it again."""
        if isinstance(node.stage, Phase):
            self.phase = self._phases.pop()
        self.leave(node, opened, keep=keep)

    def enter(self, node: Node, scope: str, hidden: dict[str, Any] | None, *, numbered: bool = False) -> Opened:
        """Go to the position of a scope that was just opened, and tell the log of it where that has to be told."""
        around = inside = self.read_position()
        if self.recording is not None:
            around = self.recording.position
            if scope not in ("phase", "batch"):  # the number may be that of a batch that is over
                inside = (*inside[:2], around[2], inside[3])
        told = self.openings.open(node.path, scope, inside, hides=hidden is not None, numbered=numbered)
        if self.recording is not None:
            self.recording.cut()
            self.recording.position = inside
        return scope, hidden, around, told

    def leave(self, node: Node, opened: Opened, *, keep: bool) -> None:
        """Close a scope, and go back to the position round it."""
        scope, hidden, around, told = opened
        self.scopes.close(scope, hidden, keep=keep)
        outside = (*around[:3], self.values.get("updates"))
        if told:
            self.openings.close(node.path, scope, outside, keep=keep)
        elif self.recording is not None:
            self.recording.cut()
            self.recording.position = outside

    def read_position(self) -> Position:
        """Where we are: epoch, phase, batch, updates."""
        get = self.values.get
        return (get("epoch"), self.phase, get("batch_index"), get("updates"))

    def number_of(self, unit: str) -> int:
        """The number in the run, from 1, of the round we are in; of the last one where none is open."""
        round, scopes = self.round, _SCOPES[unit]
        while round is not None and round.scope not in scopes:
            round = round.outer
        total = self.values.get(TOTALS[unit], 0)
        if round is None:
            return int(total)
        return (round.position[3] or 0) + 1 if unit == "updates" else round.number

    def explain(self, name: str) -> str:
        """Why a field has no value now: who writes it, and when."""
        return why_not_ready(self, name)

    def observer_view(self, actor: Actor) -> View:
        """A view for an actor that reads everything, by the names that `bind` gave."""
        return Actor(self, actor.path, Access(observer=True), "hook", actor.source, actor.names).view(View)

    def refuse_if_running(self) -> None:
        """Refuse what may not be done while stages run.

        Raises:
            Misuse: something runs, or the Learner was closed.
        """
        if self._is_running:
            told = "A hook runs no stages and changes no tree; put the work into a stage and swap it in before. "
            told += "Inside `with learner.inside(...)`, leave the block first."
            raise Misuse(f"This Learner is running. {told}")
        if self.is_closed:
            raise Misuse("This Learner was closed. Make a new one on the same State.")

    def frame(self, wanted: Callable[[str], bool]) -> Frame:
        """The values of the wanted scopes, as they are now."""
        specs = self.state.specs.values()
        return Frame(
            {spec.name: self.values[spec.name] for spec in specs if wanted(spec.scope) and spec.name in self.values}
        )

    def mode(self, node: Node) -> AbstractContextManager[None]:
        """The train, eval and gradient modes of a phase; nothing for another stage."""
        stage = node.stage
        return stage.mode(node.view(StageView)) if isinstance(stage, Phase) else nullcontext()

    @contextmanager
    def running(self, limit: Limit | None, *, resumes: bool = False) -> Iterator[None]:
        """One run at a time; the Cancel of the run ends here, and everything is flushed on every way out."""
        self.refuse_if_running()
        try:
            try:
                self._is_running = True
                self.scopes.clear()
                self.openings.begin_run(resumes=resumes)
                self.round, self.phase, self.limit, self.outcome = None, None, limit, OK
                self._phases.clear()
                self.scalars.compare_hyper()
                if self.guard is not None:
                    self.audited = self._runs.is_due(0) or self.guard.is_debugging
                    self.guard.start(raises=self._runs.is_early)
                yield
            except (Cancel, Exhausted) as signal:
                if isinstance(signal, Cancel) and not signal.by:
                    signal.by = "user"
                self.outcome = Outcome.of(signal, is_loop=True)
                forget(signal)
            finally:
                self._is_running = False
                self._leave()
        except BaseException as error:  # Ctrl-C may also come while a signal is taken or the log is flushed
            self.outcome = Outcome.of(error)
            raise

    def _leave(self) -> None:
        """What there is to do on every way out of a run."""
        self.timed, self.audited = self.recording is not None, False
        if self.recording is not None:
            self.scalars.compare_hyper()
            self.recording.flush()
            self.recording.position = (None, None, None, self.values.get("updates"))
