"""Grids: answers of several rows, as text, as HTML and as a frame."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, overload

from state.errors import MissingExtra
from state.fields import MISSING
from state.statistics import Summary

if TYPE_CHECKING:
    from pandas import DataFrame

Row = TypeVar("Row", bound=NamedTuple)

WIDE = 60
"""Several names that are longer than this are shown one below the other."""


def as_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns under their names. A cell of several lines goes on below."""
    cells = [[cell.split("\n") for cell in row] for row in (columns, *rows)]
    lines = [line for row in cells for line in zip_longest(*row, fillvalue="")]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_html(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, as notebooks show it."""
    body = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in body) + "</table>"


class Grid(Sequence[Row], Generic[Row]):
    """Rows with the same named entries, shown as a table."""

    def __init__(self, columns: Sequence[str], rows: Iterable[Row]) -> None:
        self.columns = tuple(columns)
        self._rows = tuple(rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Grid[Row]": ...
    def __getitem__(self, index: int | slice) -> "Row | Grid[Row]":
        return Grid(self.columns, self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        cells = ([_broken(cell) for cell in row] for row in self._rows)
        return as_text(self.columns, cells) if self else "nothing"

    def _repr_html_(self) -> str:
        return as_html(self.columns, self.cells())

    def to_pandas(self) -> "DataFrame":
        """The rows as they are; needs the extra `frames`."""
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise MissingExtra(f"{type(self).__name__}.to_pandas() needs pandas", "frames") from error
        return DataFrame([tuple(row) for row in self._rows], columns=list(self.columns))

    def cells(self) -> list[list[str]]:
        """The entries as the table shows them."""
        return [[cell_text(cell) for cell in row] for row in self._rows]


def _broken(cell: object) -> str:
    """What a table in text shows of a value: many names one below the other."""
    text = cell_text(cell)
    return ",\n".join(map(cell_text, cell)) if isinstance(cell, tuple | list) and len(text) > WIDE else text


def cell_text(cell: object) -> str:
    """What a table shows of a value."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.4g}"
    if isinstance(cell, Summary):
        return str(cell)
    if isinstance(cell, tuple | list):
        return ", ".join(map(cell_text, cell))
    if cell is MISSING:
        return repr(cell)
    return f"{cell:,}" if type(cell) is int else str(cell)
