"""Lines: what a history keeps of many values."""

import math

import pytest

from state.page.lines import Line

PLACE = (0, "fit", 0, 0)


def line_of(values: list[object], kept: int = 3) -> Line:
    line = Line(kept)
    for seq, value in enumerate(values):
        line.add(10 * seq, value, PLACE)
    return line


def test_equal_values_in_a_row_are_one_run() -> None:
    runs = line_of([0.1, 0.1, 0.1, 0.2, 0.1]).runs
    assert [(first, last, count, value) for first, last, count, value, _ in runs] == [
        (0, 20, 3, 0.1),
        (30, 30, 1, 0.2),
        (40, 40, 1, 0.1),
    ]


def test_nan_after_nan_is_the_same_run() -> None:
    assert [count for _, _, count, *_ in line_of([math.nan, math.nan, 1.0]).runs] == [2, 1]


def test_of_many_runs_the_first_and_the_last_stay_and_the_others_are_counted() -> None:
    line = line_of(list(range(10)))
    assert [value for *_, value, _ in line.runs] == [0, 1, 2, 7, 8, 9]
    assert (line.count, line.missing) == (10, 4)


def test_few_points_are_all_drawn() -> None:
    assert line_of([3.0, 1, 2.5]).points(5) == ([[0, 3.0], [10, 1.0], [20, 2.5]], [])


def test_many_points_keep_their_lowest_and_highest() -> None:
    values = [math.sin(n) for n in range(1_000)] + [50.0] + [math.sin(n) for n in range(1_000)]
    points, _ = line_of(list(values)).points(20)
    assert len(points) == 20
    assert max(high for _, _, high in points) == 50.0
    assert min(low for _, low, _ in points) == min(values)
    assert [seq for seq, *_ in points] == sorted(seq for seq, *_ in points)


def test_numbers_that_are_not_finite_stand_apart() -> None:
    assert line_of([1.0, math.inf, 2.0, math.nan]).points(5) == ([[0, 1.0], [20, 2.0]], [[10, "inf"], [30, "nan"]])


def test_of_a_measured_tensor_the_norm_is_drawn() -> None:
    line = line_of([[0, -1.0, 1.0, 0.0, 4.0, None, None], [0, -1.0, 1.0, 0.0, 5.0, None, None]])
    assert line.norms
    assert line.points(5)[0] == [[0, 4.0], [10, 5.0]]


@pytest.mark.parametrize("value", ["text", None, True, [3], 10**400])
def test_what_is_no_number_makes_no_point(value: object) -> None:
    assert line_of([value, value]).points(5) == ([], [])
