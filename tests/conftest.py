"""What every test starts from: the same seeds, one thread, no window; slow, browser and gpu tests are skipped."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import hypothesis
import pytest
import torch

from learner import Learner
from tests.state.page import browsing

os.environ["MPLBACKEND"] = "Agg"  # before matplotlib is imported, here or in a subprocess
collect_ignore = ["benchmarks"]  # programs for `make bench`; --doctest-modules would import them
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)  # the same examples on any machine
hypothesis.settings.load_profile("same")
torch.set_num_threads(1)  # tensors here are small, and sums come out alike on any number of cores


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seed the generators a test may draw from, before each test."""
    random.seed(0)
    torch.manual_seed(0)
    try:
        import numpy
    except ImportError:
        return
    numpy.random.seed(0)


@pytest.fixture(name="debugging")
def debugging_fixture() -> Callable[[], AbstractContextManager[None]]:
    """`with debugging():` every Learner that is made looks at everything, and raises what nobody declared."""
    return debugging


@contextmanager
def debugging() -> Iterator[None]:
    """Switch `debug()` on for each Learner that is made meanwhile."""
    start = Learner._start

    def start_debugged(learner: Learner, *args: Any) -> None:
        start(learner, *args)
        learner.debug()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "_start", start_debugged)
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and slow tests unless -m names them."""
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "no CUDA device"
    for mark in ("slow", "browser"):
        if mark not in config.option.markexpr:
            reasons[mark] = f"{mark}: `make prove` runs it"
    if browsing.program() is None:
        reasons["browser"] = f"none of {', '.join(browsing.PROGRAMS)} is here"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the long proofs found, wherever they ran."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "told":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}\n{text}\n")
