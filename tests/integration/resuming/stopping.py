"""Stopping: an undisturbed run, and the same run stopped at one of its checkpoints and gone on with, compared."""

import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learner import Learner, TrainingPhase
from learner.checkpoints import Checkpoints, Kept
from state.documents import value_of

Make = Callable[[Path], Learner]
Seen = list[tuple[int, list[float]]]

ENTERED_AGAIN = ("epoch", "batches")
"""What the loops write once more when a run goes on in the middle of them: their number, and the loader's iterator."""


class Undisturbed:
    """A run from its beginning to its end, with a checkpoint at every point.

    Attributes:
        result: what it came to. seen: the samples of each batch. writes: the log.
        points: its checkpoints.
    """

    def __init__(self, make: Make, folder: Path, **limit: Any) -> None:
        self._make, self._folder, self._limit = make, folder, limit
        learner = make(folder / "whole")
        self.seen = training_on(learner)
        learner.fit(**limit)
        self.result, self.writes = result_of(learner), writes_of(learner)
        assert learner.run_dir is not None
        self._run = learner.run_dir
        learner.close()
        self.points = list(Checkpoints(self._run))

    def stopped_at(self, point: Kept) -> Path:
        """A family with one run, that of which nothing after `point` was written but the log."""
        family = self._folder / f"stopped at {point.number}"
        (family / "0001/checkpoints").mkdir(parents=True)
        for file in self._run.glob("*.db*"):
            shutil.copy(file, family / "0001")
        shutil.copytree(point.path, family / "0001/checkpoints" / point.path.name)
        return family

    def differences(self, point: Kept) -> list[str]:
        """What is not the same in a run that was stopped at `point` and gone on with, by a Learner made anew."""
        family = self.stopped_at(point)
        learner = self._make(family)
        seen = training_on(learner)
        learner.fit(**self._limit, resume="auto")
        found = differences(result_of(learner), self.result)
        if seen != self.seen[batches_at(point) :]:
            found.append(f"the samples: {seen} instead of {self.seen[batches_at(point) :]}")
        found += log_differences(writes_of(learner), self.writes)
        learner.close()
        shutil.rmtree(family)
        return found


def batches_at(point: Kept) -> int:
    """The batches that had been trained on at a checkpoint."""
    fields = value_of((point.path / "state.json").read_bytes())["fields"]
    return int(fields["batches_seen"]["value"])


def training_on(learner: Learner) -> Seen:
    """(epoch, second column of the last tensor) of each batch that the Learner trains on from now on."""
    seen: Seen = []

    @learner.after("unpack", within=TrainingPhase)
    def note(state: Any) -> None:
        last = state.batch[-1] if isinstance(state.batch, tuple | list) else state.batch
        seen.append((state.epoch, last[:, 1].tolist()))

    return seen


def result_of(learner: Learner) -> dict[str, Any]:
    """All that a run came to: what State holds, the generators, the history, how it ended."""
    values = learner.state.__dict__
    held = {name: value.state_dict() for name, value in values.items() if hasattr(value, "state_dict")}
    return {
        "components": {name: deepcopy(value) for name, value in held.items() if not name.endswith("_loader")},
        "modes": {name: [part.training for part in module.modules()] for name, module in modules_of(learner).items()},
        "grads": {name: [p.grad for p in module.parameters()] for name, module in modules_of(learner).items()},
        "fields": {name: value for name, value in values.items() if isinstance(value, int | float | str | None)},
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [one.tolist() if hasattr(one, "tolist") else one for one in np.random.get_state()],
        "history": [{key: value for key, value in row.items() if key != "seconds"} for row in learner.history],
        "outcome": (learner.outcome.kind, learner.outcome.by, learner.outcome.reason),
    }


def modules_of(learner: Learner) -> dict[str, nn.Module]:
    """The modules in State, by field."""
    return {name: value for name, value in learner.state.__dict__.items() if isinstance(value, nn.Module)}


def writes_of(learner: Learner) -> list[tuple[Any, ...]]:
    """Every write in the log that counts."""
    found = learner.log.where(kind="write")
    return [(one.actor, one.field, one.evidence, str(one.position), str(one.before), str(one.after)) for one in found]


def log_differences(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> list[str]:
    """Where the log of a run that was gone on with is another one, apart from what is entered again."""
    ours, theirs = ([one for one in log if one[1] not in ENTERED_AGAIN] for log in (ours, theirs))
    pairs = zip_longest(ours, theirs)
    return next(([f"the log: {one} instead of {other}"] for one, other in pairs if one != other), [])


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two results differ, by name, to the last bit."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        same = ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        return [] if same else [path]
    if type(ours) is not type(theirs):
        return [f"{path}: {ours!r} and {theirs!r}"[:200]]
    if isinstance(ours, dict):
        both = [key for key in theirs if key in ours]
        found = [f"{path}/{key}: in one of them" for key in ours.keys() ^ theirs.keys()]
        return found + [one for key in both for one in differences(ours[key], theirs[key], f"{path}/{key}")]
    if isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return [f"{path}: {len(ours)} and {len(theirs)} entries"]
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [one for number, pair in pairs for one in differences(*pair, f"{path}/{number}")]
    return [] if ours == theirs else [f"{path}: {ours!r} and {theirs!r}"[:200]]
