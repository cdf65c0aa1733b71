"""What every test starts from: the same seeds, one thread, no window; slow and gpu tests skipped with a reason."""

import os
import random

import hypothesis
import pytest
import torch

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and slow tests unless -m names them."""
    reasons = {}
    if not torch.cuda.is_available():
        reasons["gpu"] = "no CUDA device"
    if "slow" not in config.option.markexpr:
        reasons["slow"] = "slow: `make prove` runs it"
    for item in items:
        for mark, reason in reasons.items():
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
