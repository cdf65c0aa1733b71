"""Recorder: the change log for a loop that uses no Learner."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from learner.components import check_state
from learner.opening import Audit, open_recording, tell_setup
from stages.cancel import Cancel, Outcome
from stages.errors import Misuse
from stages.scalars import Scalars
from state import ChangeLog, State, UnknownField
from state.access import view_table
from state.errors import FieldNotReady
from state.fields import MISSING
from state.openings import Openings
from state.schema import vocabulary
from state.scopes import Scopes
from state.state import Link, writer

Opened = tuple[str, dict[str, Any] | None, int | None, int, bool]
"""(scope, the values it hides, the batch round it, the number of the next batch there, whether the log was told)."""


class Recorder:
    """Gives validation, scopes and the change log to a loop of your own. Undeclared writes are recorded, not refused.

    Args:
        state: the State whose fields the loop uses.
        run_dir: a family of runs such as "runs/mine": this run gets the next number. None: nothing on disk.
        audit: what the log keeps, as in Learner.

    Attributes:
        log: the change log.

    A block that opens "batch" counts batches from 0, as position. Scalars of an optimizer (`optimizer.hyper.lr`) are
    compared at each end of a block, so a scheduler's step shows, with the block as its actor.

    Example:
        >>> from torch import nn, ones
        >>> from learner import Recorder, TrainState
        >>> recorder = Recorder(TrainState(model=nn.Linear(2, 1)))
        >>> with recorder.stage("batch", opens="batch") as state:
        ...     state.inputs = ones(4, 2)
        ...     with recorder.stage("forward"):
        ...         state.outputs = state.model(state.inputs)
        >>> print(recorder.log.blame("outputs").actor)
        batch/forward
    """

    def __init__(self, state: State, *, run_dir: str | Path | None = None, audit: Audit = "summary") -> None:
        check_state(state, "Recorder")
        self.state = state
        self._recording, store, self.run_dir = open_recording(run_dir, audit, who="Recorder")
        self.log = ChangeLog(store, self._recording)
        self._scopes = Scopes(state)
        self._view: RecorderView | None = None
        self._path = ""
        self._openings = Openings(self._recording, self._scopes)
        self._batch: int | None = None  # the number of the batch that is open
        self._next = 0  # the number of the next one in what holds it
        self._plain = 0  # the least number that no batch has had which the log was not told of
        self._scalars = Scalars(state, self._recording)
        state._link = Link(weakref.ref(self), self._recording, lambda name: "Write it first, in this scope.")
        if self._recording is not None:
            for actor in ("setup", "user", "external"):
                self._recording.actor(actor, "reserved", "")
            for name, spec in vocabulary(type(state), state).items():
                default = spec.first if "." not in name else MISSING
                self._recording.field(name, spec.scope, spec.type_text, spec.description, default)
            tell_setup(self._recording, state)
            for name in state.components(Optimizer):
                self._scalars.note(name, "hyper")
            for name in state.components(LRScheduler):
                self._scalars.note(name, "state")

    @contextmanager
    def stage(self, name: str, *, opens: str | None = None) -> "Iterator[RecorderView]":
        """A block whose writes are recorded under its name; blocks nest, and the names join to a path.

        Args:
            name: of the block: "gradient".
            opens: a scope that is open inside, whose values end with the block, and whose Cancel the block takes.
        """
        outer_path, outer_view = self._path, self._view
        self._tell_scalars()
        path = f"{outer_path}/{name}" if outer_path else name
        opened = self._open(path, opens) if opens is not None else None
        self._path = path
        view = outer_view or RecorderView(self)
        self._view = view
        error: BaseException | None = None
        self._mark("enter", None)
        started = perf_counter_ns()
        try:
            yield view
        except BaseException as raised:
            error = raised
        self._tell(error, perf_counter_ns() - started)
        if opened is not None:
            self._close(opened, keep=error is not None and not isinstance(error, Cancel))
        self._path, self._view = outer_path, outer_view
        if outer_view is None:
            view.end()
            self._flush()
        if error is not None and not (isinstance(error, Cancel) and error.scope == opens):
            raise error

    def close(self) -> None:
        """Close the log. What is in it stays readable."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None
            self.log = ChangeLog.open(self.run_dir) if self.run_dir is not None else self.log

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def write(self, name: str, value: Any) -> None:
        """Write a field in the name of the block we are in."""
        slot = self._slot("write", name, "write")
        writer(self.state, name, self._path, self._recording, slot)(value)

    @property
    def path(self) -> str:
        """The path of the block we are in."""
        return self._path

    def _open(self, path: str, scope: str) -> Opened:
        self._move()
        hidden = self._scopes.open(scope)
        told = self._tell_open(path, scope, hides=hidden is not None)
        opened = (scope, hidden, self._batch, self._next + (scope == "batch"), told)
        if scope == "batch":
            self._batch = self._next
        self._next = 0  # batches count anew in what holds them
        self._move()
        return opened

    def _close(self, opened: Opened, *, keep: bool) -> None:
        scope, hidden, self._batch, self._next, told = opened
        self._scopes.close(scope, hidden, keep=keep)
        self._move()
        if told and self._recording is not None:
            self._openings.close(self._path, scope, self._recording.position, keep=keep)

    def _tell_open(self, path: str, scope: str, *, hides: bool) -> bool:
        """Tell the log of a scope that opens, but for plain batches: their numbers tell them apart."""
        if self._recording is None:
            return False
        self._recording.actor(path, "stage", "")
        numbered = scope == "batch" and self._next >= self._plain
        told = self._openings.open(path, scope, (None, None, None, None), hides=hides, numbered=numbered)
        if numbered and not told:
            self._plain = self._next + 1
        return told

    def _tell_scalars(self) -> None:
        """Log the scalars that changed since a block last began or ended, in the name of the block we are in."""
        if self._recording is not None:
            if self._path:
                self._recording.actor(self._path, "stage", "")
            self._scalars.compare_hyper(self._path or "user")

    def _tell(self, error: BaseException | None, duration_ns: int) -> None:
        """Log the scalars that changed and how the block ended."""
        if self._recording is None:
            return
        self._tell_scalars()
        if isinstance(error, Cancel):
            error.by = error.by or self._path
        outcome = Outcome() if error is None else Outcome.of(error)
        self._mark("exit", [outcome.kind, duration_ns, outcome.told])

    def _mark(self, kind: str, value: object) -> None:
        """Log that the block we are in was entered or left."""
        slot = self._slot(kind, None, "")
        if self._recording is not None and slot is not None:
            self._recording.mark(slot, value)

    def _slot(self, kind: str, name: str | None, evidence: str) -> int | None:
        if self._recording is None:
            return None
        if self._path:
            self._recording.actor(self._path, "stage", "")
        return self._recording.slot(self._path or "user", kind, name, evidence)

    def _flush(self) -> None:
        if self._recording is not None:
            self._recording.flush()

    def _move(self) -> None:
        """Go to the position where we are now."""
        if self._recording is not None:
            values = self.state.__dict__
            self._recording.cut()
            self._recording.position = (values.get("epoch"), None, self._batch, values.get("updates"))


class RecorderView:
    """State as a Recorder's block sees it: every field, each write recorded. Not to be used after its block."""

    def __init__(self, recorder: Recorder) -> None:
        object.__setattr__(self, "_recorder", recorder)

    def end(self) -> None:
        """Refuse any further use."""
        object.__setattr__(self, "_recorder", None)

    def ready(self, name: str) -> bool:
        """Whether field `name` has a value now."""
        return self._live(name).state.ready(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        recorder = self._live(name)
        specs = recorder.state.specs
        if name not in specs:
            raise UnknownField(name, specs)
        if not recorder.state.ready(name):
            raise FieldNotReady(name, recorder.path, "Write it first, in this scope.")
        return recorder.state.__dict__[name]

    def __setattr__(self, name: str, value: Any) -> None:
        recorder = self._live(name)
        if name not in recorder.state.specs:
            raise UnknownField(name, recorder.state.specs)
        recorder.write(name, value)

    def __dir__(self) -> list[str]:
        recorder = object.__getattribute__(self, "_recorder")
        return [] if recorder is None else list(recorder.state.specs)

    def __repr__(self) -> str:
        recorder = object.__getattribute__(self, "_recorder")
        if recorder is None:
            return "state of a block that has ended"
        return view_table(recorder.path, dict.fromkeys(recorder.state.specs, "rw"), recorder.state.__dict__)

    def _live(self, name: str) -> Recorder:
        recorder: Recorder | None = object.__getattribute__(self, "_recorder")
        if recorder is None:
            told = "Use the one that its `with recorder.stage(...)` block gives you, inside it."
            raise Misuse(f"{name!r} was asked of a view whose block has ended. {told}")
        return recorder
