"""Bound: a state, the tree and the callbacks that run it, and how they are exchanged for others as a whole."""

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, get_args

from learner.callbacks.checkpoint import Checkpoint
from learner.callbacks.mean import Mean
from learner.checkpoints import Checkpoints
from learner.collector import collector_waits
from learner.components import check_optimizers
from learner.derived import scaled
from learner.errors import ArgumentError
from learner.history import History, RecordHistory, has_batches, has_epochs
from learner.invariants import defaults
from learner.keeping import Keeper
from learner.opening import hyper_values, seed_everything, tell_seed, tell_setup
from learner.passes import CountedLoader
from learner.precision import DTYPES, Precision, autocasts, check_precision, refuse_uncast
from learner.stopping import stoppable
from learner.suspects import suspect
from stages import Composite, Runner, assemble
from stages.assembly import Assembly, refuse_orphans
from stages.callbacks import Callback, FunctionCallback, HookMethod, Options, Point, Side, as_callback, hooks_of
from stages.check import actors, key_of
from stages.composing import values_brought
from stages.describing import tell_edit
from stages.errors import InvariantWarning
from stages.graph import refuse_starving
from stages.guard import GuardLevel
from stages.invariants import Invariant, placed
from stages.limit import Limit
from stages.watching import Watcher
from state import State
from state.errors import UnknownField, a_kind, nearest, short, suggestion
from state.parts import RNG
from state.recording import Recording
from state.schema import build, upgrade
from state.state import Link
from state.watch import Watch

Function = TypeVar("Function", bound=Callable[..., Any])


class Bound:
    """What a Learner runs. Every change is checked whole before anything is changed.

    Attributes:
        tree: the stages. callbacks: the user's. assembly: both put together and checked. runner: what runs them.
        seed: what the Learner was given. dtype: what autocast computes in, if it does.
    """

    def __init__(
        self,
        state: State,
        tree: Composite,
        callbacks: Iterable[Any],
        data: Mapping[str, Any],
        precision: Precision,
        guard: GuardLevel,
        invariants: Iterable[Invariant] | None,
    ) -> None:
        levels = get_args(GuardLevel)
        if guard not in levels:
            near = suggestion(nearest(str(guard), levels))
            raise ArgumentError("Learner", "guard", f"guard={guard!r} is none of {list(levels)}.{near}")
        if not isinstance(tree, Composite):
            told = "It wants a tree that holds stages: learner.recipes.supervised(), or Train(...)."
            raise ArgumentError("Learner", "stages", f"stages= is {short(tree)}. {told}")
        self.state = state
        self.history = History()
        self.tree = scaled(tree) if check_precision(precision) == "fp16" else tree
        self.dtype = DTYPES[precision]
        self.callbacks = _listed(callbacks)
        if self.dtype is not None:
            refuse_uncast(self.tree, self.callbacks, precision)
        self.recording: Recording | None = None
        self._guard: GuardLevel = guard
        self._is_debugging = False
        self.watchers: dict[str, list[Watcher]] = {}
        self.invariants = defaults() if invariants is None else tuple(invariants)
        self._means = [Mean("loss")] if {"loss", "batch"} <= state.specs.keys() else []  # one, so that its name stays
        self._data = data
        self._earlier: dict[str, object] = {}  # settings of optimizers, before a schedule was made that changes some
        self._given = frozenset(state.specs)  # fields of the user's own
        self._told: set[str] = set()  # fields whose first value is on record, and what was warned of
        check_optimizers(state)
        self.keeper = Keeper(self)
        self.assembly = self._assemble(self.tree, self.callbacks)
        self.assembly.require_sound()
        placed(self.invariants, self.assembly.places, self.assembly.names)
        unread = sorted(data.keys() - self.assembly.schema.specs.keys())
        if unread:
            told = "Put a phase that reads it into the tree: Fit(...) reads train_loader."
            raise ArgumentError("Learner", "train", f"nobody in this tree has the field {', '.join(unread)}. {told}")

    def start(self, owner: object, open_log: Callable[[], Recording | None], seed: int | None) -> None:
        """Bind for the first time, in the name of `owner`; the log is opened when nothing can be refused any more."""
        self._owner = weakref.ref(owner)
        self.seed = self._seed = seed
        self._take(self.assembly)
        self.recording = open_log()
        self.sow_loaders(seed)
        self._run(self.assembly)
        if self.runner.guard is not None:
            self.runner.guard.note()
        if self.recording is not None:  # what a person sets between two runs is on record too, however the program ends
            weakref.finalize(self, self.recording.flush)

    def sow(self) -> None:
        """Seed the random number generators, once, before anything runs; note what is compared when it is resumed."""
        self.keeper.note()
        if self._seed is not None:
            seed_everything(self._seed)
            tell_seed(self.recording, self._seed)
            self._seed = None
            if self.runner.guard is not None:
                self.runner.guard.accept(RNG)

    def sow_loaders(self, seed: int | None) -> None:
        """Let the loaders that were made without a seed have this one, or the 0 of those without a Learner's."""
        for loader in [value for value in self.state.__dict__.values() if isinstance(value, CountedLoader)]:
            loader.sow(seed)

    def fit(self, limit: Limit) -> None:
        """Run until `limit`, from where a checkpoint stood if one was taken up."""
        self.sow()
        writers = [callback for callback in self._members() if isinstance(callback, Checkpoint)]
        with stoppable(bool(writers)) as self.keeper.request, ExitStack() as open_writers:
            for callback in writers:
                callback.attach(self.keeper, self._checkpoints)  # it may have been given to another Learner since
                open_writers.enter_context(callback.writing())
            if self.keeper.waiting is None:
                self.runner.run(limit=limit)
            else:
                self.keeper.go_on(limit)

    def keep_in(self, run_dir: Path | None) -> None:
        """Where those callbacks write that keep checkpoints."""
        for callback in self._members():
            if isinstance(callback, Checkpoint):
                if run_dir is None:
                    told = "Checkpoint(...) wants a directory for the run. Say run_dir='runs/digits', say."
                    raise ArgumentError("Learner", "run_dir", told)
                self._checkpoints = Checkpoints(run_dir)
                callback.attach(self.keeper, self._checkpoints)

    def record_in(self, recording: Recording | None) -> None:
        """Write another log from now on."""
        if self.recording is not None:
            self.recording.close()
        self.recording = recording
        del self.runner  # whose scalars were told to the other log
        self._run(self.assembly)
        if recording is not None:
            weakref.finalize(self, recording.flush)

    def forget_seed(self) -> None:
        """Nothing is seeded any more: a checkpoint has put the generators where they were."""
        self._seed = None

    def edit(self, what: str, tree: Composite, told: str, *, swapped: str = "", may_lose_places: bool = False) -> None:
        """Take another tree, if it is sound and every hook of the user keeps its places; the log is `told` of it.

        Raises:
            GraphError: it is not; nothing has changed.
        """
        self.runner.refuse_if_running()
        assembly = self._assemble(tree, self.callbacks)
        refuse_orphans(self.assembly, assembly, what, self._members(), may_lose_places=may_lose_places)
        assembly.require_sound()
        if swapped:
            refuse_starving(self.assembly, assembly, swapped)
        self._bind(assembly)
        self.tree = tree
        tell_edit(self.recording, told)

    def set_callbacks(self, callbacks: list[Any]) -> None:
        """Take other callbacks, if the tree is sound with them."""
        self.runner.refuse_if_running()
        before = [hook.name for hook in self.assembly.hooks]
        self._bind(self._assemble(self.tree, callbacks))
        self.callbacks = callbacks
        after = [hook.name for hook in self.assembly.hooks]
        edits = [f"add {name}" for name in after if name not in before]
        edits += [f"remove {name}" for name in before if name not in after]
        tell_edit(self.recording, ", ".join(edits) or "exchange hooks")

    def hook(self, side: Side, target: str | type, options: Options) -> Callable[[Function], Function]:
        """A decorator that adds a function as a callback, and gives it back as it is."""

        def add(function: Function) -> Function:
            self.set_callbacks([*self.callbacks, FunctionCallback(Point(side, target, options)(function))])
            return function

        return add

    def debug(self, on: bool) -> None:
        """Look at everything in every round, or only as the guard's level asks."""
        self._is_debugging = on
        self.runner.watch_by("contents" if on else self._guard, debug=on)

    def watch(self, watcher: Watcher) -> None:
        """Let somebody wait for values of what the tree writes.

        Raises:
            UnknownField, ArgumentError: there is no such field or part, or nobody writes it.
        """
        self.runner.refuse_if_running()
        name = watcher.name
        known = set(self.assembly.names)
        part = ".".join(name.split(".")[:2])
        key = name if name in self.state.specs else part
        if key not in known:
            raise UnknownField(name, known, who="watch()")
        _refuse_unheld(self.state, key, name)
        # the guard finds plain values in any round, whoever changed them
        is_found = key.endswith((".hyper", ".mode")) and self.runner.guard is not None
        everyone = [one for _, one in actors(self.assembly.places)]
        if not is_found and not any(key in map(key_of, (*one.writes, *one.touches)) for one in everyone):
            raise ArgumentError("watch()", "name", f"nobody in this tree writes {name!r}.")
        self.watchers.setdefault(key, []).append(watcher)
        self._run(self.assembly)

    def unwatch(self, watcher: Watcher | None) -> None:
        """Let one, or all, wait no more."""
        self.runner.refuse_if_running()
        for those in self.watchers.values():
            those[:] = [one for one in those if watcher is not None and one is not watcher]
        self._run(self.assembly)

    def explain(self, name: str) -> str:
        """Why a field is not ready, and where its values are kept."""
        if name in self.history.names:
            kept = f"learner.history[{name!r}] keeps it, the last is {self.history[name][-1]:.4g}."
            return f"It ended with its epoch; {kept}"
        return self.runner.explain(name)

    def _members(self) -> list[Any]:
        """The user's callbacks, those in tuples too."""
        return _flat(self.callbacks)

    def _assemble(self, tree: Composite, callbacks: list[Any]) -> Assembly:
        own: list[Callback] = [*self._means] if has_batches(tree) else []
        if self.dtype is not None:
            own += autocasts(tree, self.dtype)
        own = [*own, *([RecordHistory(self.history)] if has_epochs(tree) else [])]
        with collector_waits():
            return assemble(tree, hooks_of([*own, *callbacks]), type(self.state), self.state, self._data)

    def _bind(self, assembly: Assembly) -> None:
        """Make the assembly the live one, if it is sound. A setting that it brings anew counts from now on."""
        assembly.require_sound()
        placed(self.invariants, assembly.places, assembly.names)
        before, values = values_brought(self.assembly.places), values_brought(assembly.places)
        known = type(self.state).specs.keys() - self._given
        self._take(assembly)
        self._run(assembly)
        for name, value in values.items():
            if name in known and before.get(name) != value and assembly.schema.specs[name].scope == "run":
                setattr(self.state, name, value)

    def _take(self, assembly: Assembly) -> None:
        """Give the state what the assembly brings. If a factory fails, the state is as it was."""
        cls, values = type(self.state), dict(self.state.__dict__)
        if hasattr(self, "runner"):
            self.runner.scalars.compare_hyper()
        self._earlier = hyper_values(self.state)
        try:
            upgrade(self.state, assembly.schema)
            for name, loader in self._data.items():
                setattr(self.state, name, loader)
            build(self.state)
        except BaseException:
            object.__setattr__(self.state, "__class__", cls)
            self.state.__dict__.clear()
            self.state.__dict__.update(values)
            raise
        self._data = {}

    def _run(self, assembly: Assembly) -> None:
        """From now on this assembly runs."""
        self.assembly = assembly
        before = getattr(self, "runner", None)
        invariants = placed(self.invariants, assembly.places, assembly.names)
        with collector_waits():
            self.runner = Runner(assembly, self.state, self.recording, before, "off", self.watchers, invariants)
        self.debug(self._is_debugging)
        self.keeper.follow(self.runner)
        self.suspects = suspect(assembly, self.state)
        for finding in [one for one in self.suspects if one.message not in self._told]:
            self._told.add(finding.message)
            if self.invariants:
                warnings.warn(InvariantWarning(finding.message), stacklevel=6)
        owner: Callable[[], object | None] = self._owner
        explain = weakref.WeakMethod(self.explain)  # a State that is kept does not keep the Learner
        self.state._link = Link(owner, self.recording, lambda name: _ask(explain(), name))
        self._told |= tell_setup(self.recording, self.state, self._told, self._earlier)
        for name in {full.partition(".")[0] for full in self._earlier}:
            self.runner.scalars.note(name, "hyper")
        self._earlier = {}
        self.runner.scalars.compare_hyper()


def _ask(explain: Callable[[str], str] | None, name: str) -> str:
    return "Its Learner is gone; set it." if explain is None else explain(name)


def _refuse_unheld(state: State, part: str, name: str) -> None:
    """Refuse to wait for what no parameter, buffer or setting in a part is called."""
    kind = part.rpartition(".")[2]
    if name != part and kind in ("params", "grads", "buffers", "hyper"):
        inside = Watch(state).part(part.replace(".grads", ".params"))
        known = [] if inside is None else [f"{part}.{one}" for one in inside.names]
        if known and not any(f"{one}.".startswith(f"{name}.") for one in known):
            raise UnknownField(name, known, who="watch()")


def _listed(callbacks: Any) -> list[Any]:
    """The callbacks as objects, tuples among them kept."""
    if isinstance(callbacks, Callback | HookMethod | str) or not isinstance(callbacks, Iterable):
        told = f"callbacks= is {a_kind(callbacks)}. Give a list: callbacks=[...]."
        raise ArgumentError("Learner", "callbacks", told)
    listed = [tuple(map(as_callback, one)) if isinstance(one, tuple) else as_callback(one) for one in callbacks]
    if sum(isinstance(one, Checkpoint) for one in _flat(listed)) > 1:
        told = "Two Checkpoint would write to one directory, and each would drop what the other keeps."
        remedy = "Give one, by the shorter every=, with the larger keep=; keep=None keeps all."
        raise ArgumentError("Learner", "callbacks", f"{told} {remedy}")
    return listed


def _flat(callbacks: list[Any]) -> list[Any]:
    return [one for given in callbacks for one in (given if isinstance(given, tuple) else (given,))]
