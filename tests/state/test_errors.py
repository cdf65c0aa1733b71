"""The errors say who, what, what is allowed and how to put it right, and carry the same facts."""

from typing import Any

import pytest
import torch

from state import (
    AccessDenied,
    FieldNotReady,
    InvalidValue,
    LogDamaged,
    LogWarning,
    RunNotFound,
    SchemaError,
    State,
    StateError,
    UnknownField,
)
from state import errors as module
from state.errors import MissingExtra, nearest, short, suggestion


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("do not look")


class Odd:
    """An object that answers every attribute with an error of its own, as a view of State does."""

    def __getattr__(self, name: str) -> Any:
        raise UnknownField(name, [])

    def __repr__(self) -> str:
        return "Odd()"


def test_every_error_of_ours_is_a_state_error_and_stands_in_the_tree() -> None:
    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Exception)]
    for cls in classes:
        assert issubclass(cls, StateError | UserWarning)
        assert cls.__name__ in (module.__doc__ or "")
        assert cls.__doc__
    assert issubclass(InvalidValue, ValueError)
    assert issubclass(MissingExtra, ImportError)
    assert issubclass(LogWarning, UserWarning)
    assert issubclass(SchemaError, StateError)


def test_refusals_are_no_attribute_and_no_key_errors() -> None:
    for cls in (UnknownField, FieldNotReady, AccessDenied):
        assert not issubclass(cls, AttributeError | KeyError)


def test_unknown_field_offers_the_nearest_name() -> None:
    error = UnknownField("los", ["loss", "model"])
    assert str(error) == "State has no field 'los'. Did you mean 'loss'?"
    assert (error.field, error.nearest) == ("los", "loss")
    far = UnknownField("xyz", ["loss"], who="train/fit: State")
    assert str(far) == "train/fit: State has no field 'xyz'."
    assert far.nearest is None


def test_not_ready_names_who_reads_and_the_remedy() -> None:
    error = FieldNotReady("loss", "train/fit", "Put Loss before it.")
    assert str(error) == "train/fit reads 'loss', which has no value now. Put Loss before it."
    assert (error.field, error.actor) == ("loss", "train/fit")


def test_access_denied_lists_what_is_declared_in_order() -> None:
    error = AccessDenied("train/fit", "loss", "write", ["outputs", "inputs"], "Add it.")
    assert str(error) == "train/fit may not write 'loss'. It declares writes=['inputs', 'outputs']. Add it."
    assert (error.actor, error.field, error.mode, error.granted) == (
        "train/fit",
        "loss",
        "write",
        ("inputs", "outputs"),
    )


def test_invalid_value_carries_the_value_and_shows_it_short() -> None:
    error = InvalidValue("loss", "user", torch.zeros(3, 4), "It is no scalar.")
    assert str(error) == "user may not set 'loss' to float32[3, 4]. It is no scalar."
    assert error.value.shape == (3, 4)  # type: ignore[attr-defined]


def test_the_others_carry_their_subject() -> None:
    assert RunNotFound("runs/a", "There is b.").run == "runs/a"
    assert LogDamaged("a.db", "no header").path == "a.db"
    extra = MissingExtra("to_pandas needs pandas", "frames")
    assert extra.extra == "frames"
    assert "pip install 'staged-learner[frames]'" in str(extra)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        ("a", "'a'"),
        (None, "None"),
        (torch.zeros(2, 3), "float32[2, 3]"),
        (torch.tensor(1), "int64[]"),
        ("x" * 100, "str '" + "x" * 56 + "..."),
        (Rude(), "Rude"),
        (Odd(), "Odd"),
        (type("Empty", (), {"__repr__": lambda self: ""})(), "Empty"),
        (State, "<class 'state.state.State'>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_short_is_one_line_whatever_the_value(value: Any, text: str) -> None:
    assert short(value) == text


def test_a_state_can_be_told_of() -> None:
    assert short(State()) in ("State()", "State")


def test_nearest_and_suggestion() -> None:
    assert nearest("valid_los", ["valid_loss", "train_loss"]) == "valid_loss"
    assert nearest("valid_los", iter(["valid_loss"])) == "valid_loss"
    assert nearest("q", []) is None
    assert suggestion("loss") == " Did you mean 'loss'?"
    assert suggestion(None) == ""


def test_messages_are_ascii() -> None:
    made = [UnknownField("a", ["b"]), FieldNotReady("a", "b", "c"), RunNotFound("a", "b"), LogDamaged("a", "b")]
    assert all(str(error).isascii() for error in made)
