"""Records: what a store holds, by its names and in words."""

from typing import Any

import pytest

from state.errors import StateError
from state.records import Records, ended
from state.stores import MemoryStore


@pytest.mark.parametrize(
    ("exit", "words"),
    [
        (["ok"], "ok"),
        (["ok", 300_000, None], "ok, 0.3 ms"),
        (
            ["cancelled", 300_000, "train/epoch:after:EarlyStopping.look (run): valid_loss has not improved"],
            "cancelled by train/epoch:after:EarlyStopping.look (run): valid_loss has not improved, 0.3 ms",
        ),
        (["cancelled", None, "user (epoch): enough"], "cancelled by user (epoch): enough"),
        (["failed", 2_000_000_000, "ValueError: no"], "failed: ValueError: no, 2.0 s"),
    ],
)
def test_an_outcome_is_told_in_words(exit: list[Any], words: str) -> None:
    assert ended(*exit) == words


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ((0, None, None), r"no epoch 0\. It holds no epoch\.$"),
        ((None, "fit", None), r"no phase 'fit'\. It has none\.$"),
        ((None, None, 9), r"no batch 9\. It holds no epoch, batches up to 3\.$"),
    ],
)
def test_a_log_of_batches_only_says_so(asked: Any, told: str) -> None:
    store = MemoryStore()
    store.write(store.tables(), [(0, 0, (None, None, 3, None), 0, [0.5])])
    with pytest.raises(StateError, match=told):
        Records(store).find(asked)
