"""Runner: a checked tree bound to a state, run as a plain interpreter of its nodes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic
from typing import Any

from torch import Tensor

from stages.assembly import Assembly
from stages.cancel import OK, Cancel, Exhausted, Outcome
from stages.check import actors
from stages.errors import Misuse, StageError
from stages.node import Actor, Node, StageView
from stages.phases import Phase
from stages.place import Place
from stages.round import Position, Round
from stages.stage import find_one, freeze
from state.access import Access, View, view_class
from state.errors import UnknownField
from state.fields import MISSING
from state.recording import Recording
from state.scopes import Scopes
from state.state import State

_TOTALS = {"batches": "batches_seen", "updates": "updates", "epochs": "epochs_done"}
_SCOPES = {"batches": "batch", "epochs": "epoch"}


@dataclass(frozen=True)
class Limit:
    """When `fit` has what it asked for.

    Attributes:
        total: the field that counts, or "" for a limit in time.
        target: its value at the end.
        deadline: `time.monotonic()` at the end, for a limit in time.
        text: as the user wrote it, "batches=500".
    """

    total: str
    target: int
    deadline: float
    text: str

    def is_reached(self, values: Mapping[str, Any]) -> bool:
        """Whether a run with these values ends here."""
        return monotonic() >= self.deadline if not self.total else bool(values[self.total] >= self.target)

    def __str__(self) -> str:
        return f"fit({self.text})"


class Frame(Mapping[str, Any]):
    """Values as they were at the end of a round, by field; tensors are detached. Read them as items or attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {n: v.detach() if isinstance(v, Tensor) else v for n, v in values.items()}

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise UnknownField(name, self._values, who="This frame")
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Frame({', '.join(self._values)})"


class Runner:
    """Binds an assembly to a state and runs it, or parts of it.

    One interpreter of the tree: `Node.execute` is all there is between two stages. While it runs, nothing else may run
    the same state.

    Attributes:
        timed: whether stages of this round are timed.
        round: the innermost open round, or None.
        phase: slot of the innermost phase that runs, or None.
        limit: where `fit` ends, or None.
        outcome: how the last run ended.
    """

    def __init__(self, assembly: Assembly, state: State, recording: Recording | None = None) -> None:
        self.assembly = assembly
        self.state = state
        self.values = state.__dict__
        self.recording = recording
        self.scopes = Scopes(state)
        self.round: Round | None = None
        self.phase: str | None = None
        self.limit: Limit | None = None
        self.outcome = OK
        self.timed = recording is not None
        self._phases: list[str | None] = []
        self._entered: list[Node] = []
        self._is_running = False
        self._describe()
        self.root = Node(self, assembly.root)
        self.nodes = {node.path: node for node in self.root.walk()}
        for place in assembly.places:
            freeze(place.stage)
        for hook in assembly.hooks:
            if not hook.observes:
                freeze(hook.callback)

    def find(self, path: str) -> Node:
        """The one node that `path` names.

        Raises:
            UnknownSlot, AmbiguousSlot: it names none, or several.
        """
        return self.nodes[find_one(path, [place.path for place in self.assembly.places if place.kind == "stage"])]

    def run(self, path: str = "", limit: Limit | None = None) -> Frame:
        """Run the tree, or the part below `path` with the scopes of its ancestors open.

        Returns:
            The values of the ancestors' scopes at the end.
        """
        node = self.find(path) if path else self.root
        with self._running(limit):
            above = list(node.place.ancestors())[:0:-1]
            scopes = [scope for place in above for scope in (place.stage.opens, getattr(place.stage, "each", None)) if scope]
            hidden = [(scope, self.scopes.open(scope)) for scope in scopes]
            self._set_positions(above)
            failed = True
            try:
                node.execute()
                failed = False
            except (Cancel, Exhausted):
                failed = False
                raise
            finally:
                frame = Frame({name: self.values[name] for name in self.state.specs if self._is_frame_field(name)})
                for scope, outer in reversed(hidden):
                    self.scopes.close(scope, outer, keep=failed)
        return frame

    @contextmanager
    def inside(self, path: str) -> Iterator[None]:
        """Everything round the loop at `path`, for a loop of the user's own: hooks, scopes, modes.

        A Cancel that leaves the block is taken as `fit` takes it.
        """
        node = self.find(path)
        if node.round is None:
            raise Misuse(f"inside({path!r}) needs a loop such as 'fit'; {node.path} is none. Use run({path!r}).")
        with self._running(None):
            chain = [self.nodes[place.path] for place in node.place.ancestors()][::-1]
            with self._bracket(chain):
                yield

    def run_batch(self, batch: Any, path: str) -> Frame:
        """One round of the loop at `path` on `batch`, which is given instead of fetched."""
        loop = self.find(path)
        if not (self._entered and self._entered[-1] is loop):
            with self.inside(path):
                return self.run_batch(batch, path)
        if loop.round is None:
            raise Misuse(f"{loop.path} is no loop.")
        frame = Frame({})
        with loop.round:
            loop.runner.pen(loop, "batch")(batch)
            for slot, child in loop.children.items():
                if slot != "fetch" and child.place.kind == "stage":
                    child.execute()
            frame = Frame({n: self.values[n] for n, s in self.state.specs.items() if s.scope == "batch" and n in self.values})
        return frame

    def pen(self, actor: Actor, name: str) -> Any:
        """The function by which the runner writes `name` in the name of `actor`."""
        from state.state import writer

        return writer(self.state, name, actor.path, self.recording, actor.slot("write", name, "write"))

    def open(self, node: Node) -> Any:
        """Open the scope of a node that has `opens`."""
        scope = node.opens
        assert scope is not None
        if self.recording is not None:
            self.recording.cut()
        hidden = self.scopes.open(scope)
        if isinstance(node.stage, Phase):
            self._phases.append(self.phase)
            self.phase = node.place.slot
        self._reposition()
        return hidden

    def close(self, node: Node, hidden: Any, *, keep: bool) -> None:
        """Close it again."""
        assert node.opens is not None
        if self.recording is not None:
            self.recording.cut()
        self.scopes.close(node.opens, hidden, keep=keep)
        if isinstance(node.stage, Phase):
            self.phase = self._phases.pop()
        self._reposition()

    def read_position(self) -> Position:
        """Where we are: epoch, phase, batch, updates."""
        get = self.values.get
        return (get("epoch"), self.phase, get("batch_index"), get("updates"))

    def number_of(self, unit: str) -> int:
        """The number in the run, from 1, of the round we are in; of the last one where none is open."""
        round, scope = self.round, _SCOPES.get(unit, "batch")
        while round is not None and round.scope != scope:
            round = round.outer
        total = self.values.get(_TOTALS[unit], 0)
        if round is None:
            return int(total)
        return (round.position[3] or 0) + 1 if unit == "updates" else round.number

    def noted(self, error: BaseException, actor: Actor) -> BaseException:
        """`error` with one note: who, where, after which rounds; a Cancel with its author.

        A Cancel of a scope that is not open becomes an error.
        """
        if isinstance(error, Cancel):
            if not error.by:
                error.by = actor.path
                if not self.scopes.is_open(error.scope):
                    scopes = ["run", *(scope for scope in self.scopes.names if self.scopes.is_open(scope))]
                    told = f"{actor.path} cancels the scope {error.scope!r}, which is not open. Open are {scopes}."
                    return self._with_note(StageError(told), actor)
            return error
        return error if isinstance(error, Exhausted) else self._with_note(error, actor)

    def explain(self, name: str) -> str:
        """Why a field has no value now: who writes it, and when."""
        spec = self.state.specs[name]
        writers = [path for path, access in actors(self.assembly.places) if name in access.writes]
        if not writers:
            return f"Nobody in this tree writes it; set it, or pass {name}= to the State."
        who = " and ".join(writers[:2]) + (f" and {len(writers) - 2} more" if len(writers) > 2 else "")
        if spec.scope == "run":
            return f"{who} writes it. Read it after that."
        if self.scopes.is_open(spec.scope):
            return f"{who} writes it later in this {spec.scope}. Read it after that."
        return f"{who} writes it, and it is gone when its {spec.scope} ends."

    def observer_view(self, path: str) -> View:
        """A view that reads everything."""
        actor = Actor(self, path, Access(observer=True), "hook", "")
        return actor.view(View)

    def tell_scalar(self, actor: Actor, name: str, value: Any) -> None:
        """Log a plain value of a part that was found changed."""
        if self.recording is None:
            return
        self.recording.field(name, "run", type(value).__name__, "", MISSING)
        slot = actor.slot("write", name, "comparison")
        if slot is not None:
            self.recording.write(slot, value)

    @contextmanager
    def _running(self, limit: Limit | None) -> Iterator[None]:
        """One run at a time; the Cancel of the run ends here, and everything is flushed on every way out."""
        if self._is_running:
            raise Misuse("This Learner is running already. A hook runs no stages; put the work into a stage, and swap it in.")
        self._is_running = True
        self.scopes.clear()
        self.round, self.phase, self.limit, self.outcome = None, None, limit, OK
        self._phases.clear()
        self._entered.clear()
        try:
            yield
        except (Cancel, Exhausted) as signal:
            if isinstance(signal, Cancel) and not signal.by:
                signal.by = "user"
            self.outcome = Outcome.of(signal)
        except BaseException as error:
            self.outcome = Outcome.of(error)
            raise
        finally:
            self._is_running = False
            self.timed = self.recording is not None
            if self.recording is not None:
                self.recording.flush()
                self.recording.position = (None, None, None, self.values.get("updates"))

    @contextmanager
    def _bracket(self, chain: list[Node]) -> Iterator[None]:
        """The nodes of `chain` round whatever runs inside, each in a round of the one before."""
        node, *below = chain
        error: BaseException | None = None
        node.started.clear()
        try:
            node.begin()
            stage = node.stage
            with stage.mode(node.view(StageView)) if isinstance(stage, Phase) else nullcontext():
                if below:
                    with node.round or nullcontext(), self._bracket(below):
                        yield
                else:
                    self._entered.append(node)
                    yield
        except BaseException as raised:
            error = raised
        node.end(error)

    def _set_positions(self, above: list[Place]) -> None:
        """Give the ancestors' rounds their positions: the epoch is the one after those that are done."""
        for place in above:
            index, total = getattr(place.stage, "counts", (None, None))
            if index in self.state.specs and index not in self.values:
                self.values[index] = self.values.get(total, 0) if total in self.state.specs and total == "epochs_done" else 0
        self._reposition()

    def _reposition(self) -> None:
        if self.recording is not None:
            self.recording.position = self.read_position()

    def _is_frame_field(self, name: str) -> bool:
        return self.state.specs[name].scope != "run" and name in self.values

    def _with_note(self, error: BaseException, actor: Actor) -> BaseException:
        if not getattr(error, "_staged", False):
            epoch, phase, batch, updates = self.read_position()
            where = [f"epoch {epoch}"] if epoch is not None else []
            where += [f"{phase}, batch {batch}"] if phase is not None and batch is not None else []
            where += [f"update {updates}"] if updates is not None else []
            error.add_note(f"In {actor.path}" + (f" at {', '.join(where)}." if where else "."))
            error._staged = True  # type: ignore[attr-defined]  # so that parents do not repeat the note
        return error

    def _describe(self) -> None:
        """Tell the log the fields, and the reserved actors."""
        if self.recording is None:
            return
        for actor in ("setup", "user", "external"):
            self.recording.actor(actor, "reserved", "")
        for name, spec in self.assembly.names.items():
            scope = "batch" if name.endswith(".grads") else spec.scope
            default = spec.default if "." not in name else MISSING
            self.recording.field(name, scope, spec.type_text if "." not in name else "part", spec.description, default)
        for _, access in actors(self.assembly.places):
            for name in access.writes:
                if name not in self.assembly.names:
                    self.recording.field(name, "run", "part", "", MISSING)


