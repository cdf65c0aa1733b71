"""Forks: two sequences of turns laid beside each other, and the first name in which they part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.fork import aligned, first_fork
from learner.trail import Trail, Turn
from state.access import Access
from state.position import Position

ACTORS = st.text("abc", max_size=8)


def trail(start: dict[str, int], *turns: tuple[str, dict[str, int]]) -> Trail:
    """A trail in which a number stands for contents."""

    def sight(given: dict[str, int]) -> dict[str, bytes]:
        return {name: str(value).encode() for name, value in given.items()}

    return Trail(sight(start), [Turn(actor, "", Position(), Access(), sight(left)) for actor, left in turns])


@given(ACTORS, ACTORS)
def test_pieces_cover_both_sequences_and_single_items_agree(ours: str, theirs: str) -> None:
    pieces = list(aligned(ours, theirs))
    assert "".join(ours[i] for one, _ in pieces for i in one) == ours
    assert "".join(theirs[i] for _, other in pieces for i in other) == theirs
    for one, other in pieces:
        assert {ours[i] for i in one}.isdisjoint(theirs[i] for i in other) or (
            len(one) == len(other) == 1 and ours[one[0]] == theirs[other[0]]
        )


@given(ACTORS)
def test_equal_sequences_are_laid_item_beside_item(actors: str) -> None:
    assert [(*one, *other) for one, other in aligned(actors, actors)] == [(i, i) for i in range(len(actors))]


@pytest.mark.parametrize(
    ("ours", "theirs", "numbers", "names"),
    [
        ([("a", {"x": 1}), ("b", {"y": 1})], [("a", {"x": 1}), ("b", {"y": 2})], (1, 1), ("y",)),
        ([("a", {"x": 1})], [("a", {"x": 1}), ("b", {"x": 2})], (None, 1), ("x",)),
        ([("a", {"x": 1}), ("c", {"y": 1})], [("a", {"x": 1}), ("b", {"z": 2}), ("c", {"y": 3})], (1, 2), ("y",)),
        ([("a", {"x": 1})], [("b", {"x": 2})], (0, 0), ("x",)),
        ([("a", {"x": 1})], [("a", {})], (0, 0), ("x",)),
    ],
    ids=["same actor", "one more", "one more that touches nothing common", "another actor", "nothing left"],
)
def test_first_name_that_differs_and_who_left_it(
    ours: list[tuple[str, dict[str, int]]],
    theirs: list[tuple[str, dict[str, int]]],
    numbers: tuple[int | None, int | None],
    names: tuple[str, ...],
) -> None:
    start = {"x": 0, "y": 0}
    fork = first_fork(trail(start, *ours), trail(start, *theirs))
    assert fork is not None and (fork.numbers, fork.names) == (numbers, names)


def test_what_differed_at_the_start_counts_only_after_it_has_agreed() -> None:
    one = trail({"x": 1}, ("a", {"x": 2}), ("b", {"x": 3}), ("c", {"x": 4}))
    other = trail({"x": 9}, ("a", {"x": 8}), ("b", {"x": 3}), ("c", {"x": 5}))
    fork = first_fork(one, other)
    assert fork is not None and fork.numbers == (2, 2)
