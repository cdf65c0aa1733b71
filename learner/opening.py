"""Opening a run: the log it writes to, what it starts from, and its seeds."""

import random
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from learner.errors import ArgumentError
from state import State
from state.contents import fingerprint
from state.errors import StateError, nearest, suggestion
from state.levels import Level
from state.parts import RNG, parts_of, scalars
from state.recording import Recording
from state.runs import LOG_FILE, new_run
from state.sqlite import SqliteStore
from state.stores import MemoryStore, Store

_LOOKING = ContextVar("_LOOKING", default=False)

Audit = str | Mapping[str, str]
"""A level of `state.levels`, or one for each field, "*" for the rest."""


def open_recording(
    run_dir: str | Path | None, audit: Audit, known: Collection[str] = (), who: str = "Learner"
) -> tuple[Recording | None, Store, Path | None]:
    """The recording and the store of a new run, and its directory: in memory without `run_dir`; `who` asks.

    Raises:
        ArgumentError: `audit` is no level or names no field of `known`, or the directory cannot be made.
    """
    levels = _levels(audit)
    for name, level in levels.items():
        try:
            Level.of(level)
        except StateError as error:
            raise ArgumentError(who, "audit", f"audit={level!r} for {name!r}: {error}") from None
        part = name.rpartition(".")[0]
        if known and name not in ("*", *known) and not (part in known and part.endswith((".hyper", ".mode"))):
            told = f"a part is recorded as one: say {part!r}." if part in known else "State has no such field."
            near = "" if part in known else suggestion(nearest(name, known))
            raise ArgumentError(who, "audit", f"audit= names {name!r}, but {told}{near}")
    rest = levels.pop("*", "summary")
    run_dir = None if _LOOKING.get() else run_dir
    if rest == "off" and not levels:
        return None, MemoryStore(), None if run_dir is None else _new_run(run_dir)
    if run_dir is None:
        store: Store = MemoryStore()
        return Recording(store, rest, levels), store, None
    path = _new_run(run_dir)
    store = SqliteStore(path / LOG_FILE)
    return Recording(store, rest, levels), store, path


def reopen_recording(run: Path, audit: Audit) -> tuple[Recording | None, Store]:
    """The recording and the store of a run that goes on."""
    levels = _levels(audit)
    rest = levels.pop("*", "summary")
    if rest == "off" and not levels:
        return None, MemoryStore()
    store = SqliteStore(run / LOG_FILE)
    return Recording(store, rest, levels), store


def _levels(audit: Audit) -> dict[str, str]:
    return dict(audit) if isinstance(audit, Mapping) else {"*": audit}


def _new_run(family: str | Path) -> Path:
    try:
        return new_run(family)
    except OSError as error:
        told = f"run_dir={str(family)!r} cannot be a family of runs: {error}. Give a directory that can be written."
        raise ArgumentError("Learner", "run_dir", told) from None


@contextmanager
def only_looking() -> Iterator[None]:
    """Learners made inside open no run directory: they are made to be looked at, as `learner graph` does."""
    token = _LOOKING.set(True)
    try:
        yield
    finally:
        _LOOKING.reset(token)


def hyper_values(state: State) -> dict[str, object]:
    """The settings of the optimizers, by full name: "optimizer.hyper.lr"."""
    optimizers = state.components(Optimizer)
    return {
        f"{name}.hyper.{key}": value for name, one in optimizers.items() for key, value in scalars(one, "hyper").items()
    }


def tell_setup(
    recording: Recording | None, state: State, told: Collection[str] = (), earlier: Mapping[str, object] | None = None
) -> set[str]:
    """Log what the run starts from, by the actor `setup`: values, scalars of parts, fingerprints of parameters.

    Args:
        told: fields that were told before.
        earlier: the settings of optimizers before the fields that the tree brings were made: a schedule changes some.

    Returns:
        The fields that are told now.
    """
    values = {name: value for name, value in state.__dict__.items() if name not in told}
    earlier = earlier or {}
    if recording is None:
        return set(values)

    def tell(name: str, value: object) -> None:
        slot = recording.slot("setup", "write", name, "write")
        if slot is not None:
            recording.write(slot, value)

    for name, value in values.items():
        tell(name, value)
        if isinstance(value, nn.Module):
            tell(f"{name}.params", fingerprint(value))
        for part in parts_of(type(value)):
            for scalar, number in scalars(value, part).items():
                full = f"{name}.{part}.{scalar}"
                recording.field(full, "run", type(number).__name__, "")
                tell(full, earlier.get(full, number))
    for full, number in hyper_values(state).items():
        if full in earlier and earlier[full] != number:
            tell(full, number)
    recording.flush()
    return set(values)


def tell_seed(recording: Recording | None, seed: int) -> None:
    """Log what the random number generators were seeded with, by the actor `setup`."""
    slot = None if recording is None else recording.slot("setup", "write", RNG, "write")
    if recording is not None and slot is not None:
        recording.write(slot, f"seed {seed}")


def seed_everything(seed: int) -> None:
    """Seed torch, random, and numpy if it is in use."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
