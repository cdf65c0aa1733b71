"""Positions: told, and made of what a person types."""

from typing import Any

import pytest

from state import Position
from state.errors import StateError


def test_a_position_leaves_out_what_was_not_open() -> None:
    assert str(Position(1, "fit", 17, 40)) == "epoch 1, fit, batch 17, update 40"
    assert str(Position(update=3)) == "update 3"


@pytest.mark.parametrize(
    ("given", "position"),
    [
        ("19:fit:23", Position(19, "fit", 23)),
        ("19:fit", Position(19, "fit")),
        ("19", Position(19)),
        ((19, "fit", 0), Position(19, "fit", 0)),
        ((19, "fit"), Position(19, "fit")),
        ((19,), Position(19)),
        (Position(update=3), Position(update=3)),
    ],
)
def test_a_position_is_made_of_text_or_a_tuple(given: Any, position: Position) -> None:
    assert Position.of(given) == position


@pytest.mark.parametrize(
    "given",
    ["", "fit", "0::1", "0:fit:", "0:fit:x", "0:1:2:3", "-1", 0, None, (), ("fit",), (0, 1), [0, "fit"], (0, "", 1, 2)],
)
def test_what_is_no_position_is_refused_with_the_forms_of_one(given: Any) -> None:
    with pytest.raises(StateError, match="is none of epoch, epoch:phase and epoch:phase:batch, such as") as caught:
        Position.of(given)
    assert str(caught.value).startswith(repr(given))
