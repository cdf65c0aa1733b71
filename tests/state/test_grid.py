"""Grids: what a table in text shows of its rows."""

from typing import NamedTuple

from state.grid import Grid


class Row(NamedTuple):
    field: str
    readers: tuple[str, ...]


def test_table_shows_many_names_one_below_the_other() -> None:
    many = tuple(f"train/epoch/fit/batch/stage_{number}" for number in range(3))
    grid = Grid(Row._fields, [Row("loss", ("train/epoch",)), Row("model", many), Row("step", ())])
    assert str(grid).splitlines() == [
        "field  readers",
        "loss   train/epoch",
        f"model  {many[0]},",
        f"       {many[1]},",
        f"       {many[2]}",
        "step",
    ]
    assert grid[1].readers == many and grid.cells()[1][1] == ", ".join(many)


def test_table_of_nothing_says_so() -> None:
    assert str(Grid(Row._fields, [])) == "nothing"
