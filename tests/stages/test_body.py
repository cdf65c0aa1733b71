"""Bodies: functions are called with the values of their parameters, optional ones with None where there is no value."""

from collections.abc import Callable
from typing import Any

import pytest

from learner import stage
from learner.testing import run_stage, toy_learner
from state import FieldNotReady, State, field


class Values(State):
    """Four values and what was seen of them."""

    one: int = field(scope="batch")
    two: int = field(scope="batch")
    three: int = field(scope="batch")
    four: int = field(scope="batch")
    seen: Any = field(scope="batch")


def none() -> Any:
    return ()


def one(one: Any) -> Any:
    return (one,)


def two(one: Any, two: Any) -> Any:
    return one, two


def optional(three: Any = None) -> Any:
    return (three,)


def optionals(three: Any = None, four: Any = None) -> Any:
    return three, four


def one_and_optional(one: Any, three: Any = None) -> Any:
    return one, three


def two_and_optional(two: Any, one: Any, three: Any = None) -> Any:
    return two, one, three


def two_and_optionals(one: Any, two: Any, four: Any = None, three: Any = None) -> Any:
    return one, two, four, three


@pytest.mark.parametrize(
    ("function", "all_ready", "without_three"),
    [
        (none, (), ()),
        (one, (1,), (1,)),
        (two, (1, 2), (1, 2)),
        (optional, (3,), (None,)),
        (optionals, (3, 4), (None, 4)),
        (one_and_optional, (1, 3), (1, None)),
        (two_and_optional, (2, 1, 3), (2, 1, None)),
        (two_and_optionals, (1, 2, 4, 3), (1, 2, 4, None)),
    ],
)
def test_function_gets_the_values_of_its_parameters(
    function: Callable[..., Any], all_ready: tuple[Any, ...], without_three: tuple[Any, ...]
) -> None:
    made = stage(writes=("seen",))(function)
    assert run_stage(made, Values(), one=1, two=2, three=3, four=4).seen == all_ready
    assert run_stage(made, Values(), one=1, two=2, four=4).seen == without_three


@pytest.mark.parametrize(
    "function",
    [
        lambda batch: None,
        lambda updates, batch: None,
        lambda batch, updates=None: None,
        lambda updates, batch, loss=None: None,
        lambda batch, updates=None, loss=None: None,
    ],
    ids=["one", "two", "one and optional", "two and optional", "one and optionals"],
)
def test_value_that_is_not_there_and_not_optional_is_named(function: Callable[..., Any]) -> None:
    learner = toy_learner()
    learner.insert(stage()(function), before="fit/batch/unpack", slot="peek")
    with pytest.raises(FieldNotReady, match="batch/peek reads 'batch', which has no value now") as caught:
        learner.run("fit/batch")
    assert (caught.value.field, caught.value.actor) == ("batch", "train/epoch/fit/batch/peek")
