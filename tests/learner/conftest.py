"""Stored runs that several tests ask about."""

from pathlib import Path

import pytest

from learner.testing import toy_learner


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one epoch and of two."""
    family = tmp_path_factory.mktemp("work") / "runs"
    for epochs in (1, 2):
        learner = toy_learner(run_dir=family)
        learner.fit(epochs=epochs)
        learner.close()
    return family
