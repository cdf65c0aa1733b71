"""IsolateRng: an evaluation that leaves the random number generators as it found them."""

import random
import sys
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch

from stages import Callback, EvaluationPhase, around


@dataclass(frozen=True)
class IsolateRng(Callback):
    """Give the random number generators back after each evaluation: torch's, numpy's and Python's.

    By default an evaluation draws from them as a loop by hand does: `iter(DataLoader)` takes a seed even where nothing
    is shuffled. With this callback training goes the same way with and without evaluations, and however many there are.
    """

    @around(EvaluationPhase, restores=("rng",))
    def keep(self) -> Generator[None, Any, None]:
        """Note the generators' states, and set them again."""
        numpy = sys.modules.get("numpy")
        ours, theirs = random.getstate(), None if numpy is None else numpy.random.get_state()
        devices = range(torch.cuda.device_count())  # none without CUDA
        with torch.random.fork_rng(devices):
            yield
        random.setstate(ours)
        if numpy is not None:
            numpy.random.set_state(theirs)
