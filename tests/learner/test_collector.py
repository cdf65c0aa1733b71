"""Python's cycle collector while a tree is put together."""

import gc
from typing import Any

import pytest

from learner import Stage
from learner.collector import collector_waits
from learner.testing import toy_learner


def test_collector_waits_inside_and_goes_on_after_it_even_where_that_failed() -> None:
    with collector_waits():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="on purpose"), collector_waits():
        raise RuntimeError("on purpose")
    assert gc.isenabled()


def test_collector_that_the_user_has_stopped_stays_so() -> None:
    gc.disable()
    try:
        with collector_waits():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_collector_waits_while_a_learner_reads_its_stages_and_runs_with_them() -> None:
    seen: list[bool] = []

    class Asked(Stage):
        def fields(self) -> dict[str, Any]:
            seen.append(gc.isenabled())
            return {}

        def run(self, loss: Any) -> None:
            seen.append(gc.isenabled())

    learner = toy_learner()
    learner.insert(Asked(), after="fit/batch/gradient", slot="asked")
    learner.fit(batches=1)
    assert seen[0] is False and seen[-1] is True
