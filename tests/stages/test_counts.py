"""Counts: numbers of rounds are read as people write them, and anything else is refused."""

import pytest

from stages.counts import Count
from stages.errors import DeclarationError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100 batches", Count(100, "batches")),
        ("1 batch", Count(1, "batches")),
        ("50 updates", Count(50, "updates")),
        (" 1  epoch ", Count(1, "epochs")),
    ],
)
def test_count_reads_a_number_of_rounds(text: str, count: Count) -> None:
    assert Count.parse(text, "hook") == count


@pytest.mark.parametrize("text", ["100", "0 batches", "-1 epochs", "1.5 epochs", "3 steps", "batches", 100, None])
def test_count_refuses_anything_else(text: object) -> None:
    with pytest.raises(DeclarationError, match=r"is no number of rounds\. Write '100 batches'") as caught:
        Count.parse(text, "hook")
    assert caught.value.owner == "hook"
