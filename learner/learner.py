"""Learner: a model, data and a tree of stages put together, checked, and run."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from learner import components
from learner.asking import Asking
from learner.bound import Bound
from learner.components import Loaders, Models, Optimizers
from learner.edits import Edits
from learner.evaluating import predict, validate
from learner.history import History
from learner.latest import lock_run
from learner.opening import Audit, open_recording
from learner.precision import Precision
from learner.recipes import supervised
from learner.returns import Returns
from stages import Assembly, Composite, Finding, Frame, Outcome
from stages.draw import draw_tree
from stages.graph import graph_of
from stages.guard import GuardLevel, schedule_text
from stages.invariants import Invariant
from stages.limit import limit_of
from stages.tables import FieldTable, fields_table
from state import ChangeLog, State
from state.recording import Recording


class Learner(Asking, Edits, Returns):
    """A training loop as a graph of stages over one state, checked before it runs and logged while it does.

    Args:
        model: an nn.Module, or several by name: each becomes a field of State.
        loss_fn: `loss_fn(outputs, targets)` gives a scalar, mean over the batch. None for a tree that needs none.
        optimizer: an optimizer, or a function that makes one of the model's parameters, or several by name.
        train: what to iterate over for training batches, once per epoch.
        valid: the same for validation, or several sets by name: then `{name}_loss` and so on.
        stages: the tree; by default `learner.recipes.supervised()`.
        callbacks: a tuple among them declares the order of its members.
        run_dir: a family of runs such as "runs/digits": this run gets the next number. None: nothing on disk.
        device: where model and batches are moved; "auto" is the accelerator if there is one.
        precision: "bf16" or "fp16" run forward and loss under autocast; "fp16" also scales gradients, and skips updates
            whose gradients overflow.
        seed: seeds torch, numpy and random when the first run starts, and the order of TensorBatches and SampleBatches
            that were made without a seed; not the model's initialisation.
        guard: what looks for undeclared changes: "off", "parts" (by identity, version counter and value) or "contents"
            (also what moves no version counter). See docs/explanation/guard.md for when it looks.
        audit: what the change log keeps: "off", "writes", "summary", "stats" (also numbers for elements), "full" (also
            a fingerprint), "full/20" in one batch of 20; or one of these per field, "*" for the rest.
        invariants: what is always so; by default `learner.invariants.defaults()`. See docs/explanation/invariants.md.

    Attributes:
        state: the live State.
        log: the change log.
        run_dir: the directory of this run, or None.

    Raises:
        GraphError: the tree cannot run: all findings together. Nothing has changed then.
        ArgumentError, DeclarationError: an argument that cannot be used.
    """

    def __init__(
        self,
        model: Models,
        loss_fn: Callable[..., Any] | None,
        optimizer: Optimizers | None,
        *,
        train: Any,
        valid: Loaders = None,
        stages: Composite | None = None,
        callbacks: Iterable[Any] = (),
        run_dir: str | Path | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        seed: int | None = None,
        audit: Audit = "summary",
        guard: GuardLevel = "contents",
        invariants: Iterable[Invariant] | None = None,
    ) -> None:
        data = components.data_fields(train, valid)
        state = components.make_state(model, loss_fn, optimizer, components.pick_device(device))
        tree = supervised(valid=components.validation_sets(valid)) if stages is None else stages
        bound = Bound(state, tree, callbacks, data, precision, guard, invariants)
        for module in state.components(torch.nn.Module).values():
            module.to(device=state.device)
        self._start(state, bound, run_dir, seed, audit)

    @classmethod
    def from_state(
        cls,
        state: State,
        stages: Composite,
        *,
        train: Any,
        valid: Loaders = None,
        callbacks: Iterable[Any] = (),
        run_dir: str | Path | None = None,
        precision: Precision = "fp32",
        seed: int | None = None,
        audit: Audit = "summary",
        guard: GuardLevel = "contents",
        invariants: Iterable[Invariant] | None = None,
    ) -> "Learner":
        """A Learner over a State of yours, which becomes the live one, and a tree of yours. Moves nothing to a device.

        Raises:
            AlreadyBound: another Learner holds the State.
            ArgumentError: it is no State.
        """
        components.check_state(state)
        learner = cls.__new__(cls)
        data = components.data_fields(train, valid)
        bound = Bound(state, stages, callbacks, data, precision, guard, invariants)
        learner._start(state, bound, run_dir, seed, audit)
        return learner

    def _start(self, state: State, bound: Bound, run_dir: str | Path | None, seed: int | None, audit: Audit) -> None:
        def open_log() -> Recording | None:
            recording, store, self.run_dir = open_recording(run_dir, audit, bound.assembly.names)
            self._lock = None if self.run_dir is None else lock_run(self.run_dir)
            self.log = ChangeLog(store, recording)
            return recording

        self.state = state
        self._bound = bound
        self._audit = audit
        bound.start(self, open_log, seed)
        bound.keep_in(self.run_dir)

    def fit(
        self,
        *,
        epochs: int | None = None,
        batches: int | None = None,
        updates: int | None = None,
        minutes: float | None = None,
        resume: str | Path | None = None,
    ) -> History:
        """Train for so many more epochs, batches, updates, or minutes; a second call goes on.

        Ends early, and normally, when somebody cancels the run: see `outcome`. An epoch in which the end comes stops
        there; its validation does not run.

        Args:
            resume: "auto" goes on with the latest run of `run_dir` from its newest checkpoint, or begins one if it has
                none; or the directory of a checkpoint to go on from. The limit counts from where that run began.

        Raises:
            CheckpointError: the checkpoint is damaged, or does not fit. Nothing has changed then.
            LimitError: not exactly one limit, one that is no positive number, one that the tree does not count, or one
                to which 100 epochs in a row came no nearer.
            BatchError: several epochs are to read a generator, which can be read once.
        """
        given = {"epochs": epochs, "batches": batches, "updates": updates, "minutes": minutes}
        limit = limit_of(given, self.assembly, self.state)
        if resume == "auto":
            self._take_up_latest(limit)
        elif resume is not None:
            self._take_up(Path(resume), limit)
        if resume is not None:  # State may have other totals now
            limit = limit_of(given, self.assembly, self.state)
        self._bound.fit(limit)
        return self.history

    def validate(self) -> dict[str, float]:
        """Run every evaluation phase of the tree once.

        Returns:
            What each came to: {"valid_loss": ..., ...}.

        Raises:
            ArgumentError: there is none, or none that comes to a number.
        """
        return validate(self._bound.runner)

    def predict(self, loader: Any) -> Any:
        """The model's outputs for every batch of `loader`, in eval mode, on the CPU, joined along the batch.

        Targets in a batch are left out. The stages of the evaluation's batch run, up to `forward`; hooks do not.
        """
        return predict(self._bound, loader)

    def fit_batch(self, batch: Any) -> Frame:
        """Train on one batch, alone or inside `learner.inside("epoch/fit")`; its values, detached: `frame.loss`."""
        self._bound.sow()
        return self._bound.runner.run_batch(batch)

    def run(self, path: str) -> Frame:
        """Run a part of the tree, `learner.run("epoch/fit")`, with the scopes of its ancestors open.

        Returns:
            The values that those scopes had at the end.
        """
        self._bound.sow()
        return self._bound.runner.run(path)

    def inside(self, path: str) -> AbstractContextManager[None]:
        """The hooks, scopes and modes round a loop of the tree, for a loop of your own."""
        self._bound.sow()
        return self._bound.runner.inside(path)

    def check(self) -> list[Finding]:
        """What the check finds in the tree as it stands: no errors, or it would not stand, but warnings and notes."""
        return [*self.assembly.findings, *self._bound.suspects]

    def debug(self, on: bool = True) -> None:
        """Look at everything at every boundary in every batch, and raise on any undeclared change. Slow; for debugging.

        What a stage or hook was seen to change of the parts that it declares is on record too, and who drew from a
        generator.

        Args:
            on: False goes back to the guard that the Learner was made with.
        """
        self._bound.debug(on)

    def close(self) -> None:
        """Close the log and let the State go. Nothing runs any more; what is in the log stays readable."""
        if self._bound.runner.is_closed:
            return
        self._bound.runner.refuse_if_running()
        self._bound.runner.is_closed = True
        self.state._link = None
        if self._lock is not None:
            self._lock.release()
        if self._bound.recording is not None:
            self._bound.recording.close()
            self.log = ChangeLog.open(self.run_dir) if self.run_dir is not None else self.log

    @property
    def guard(self) -> str:
        """What looks for undeclared changes, and when, in words."""
        return schedule_text(self._bound.runner.guard)

    @property
    def history(self) -> History:
        """A row per epoch."""
        return self._bound.history

    @property
    def outcome(self) -> Outcome:
        """How the last run ended: kind, by whom, why."""
        return self._bound.runner.outcome

    @property
    def fields(self) -> FieldTable:
        """What there is to read and write: name, type, scope, written by, read by, description."""
        return fields_table(self.assembly)

    @property
    def graph(self) -> Any:
        """A networkx graph: slots, hooks, fields and parts; who contains, follows, reads and writes what."""
        return graph_of(self.assembly)

    @property
    def assembly(self) -> Assembly:
        """The tree with its hooks and its schema, as it was checked."""
        return self._bound.assembly

    def __repr__(self) -> str:
        return draw_tree(self.assembly)
