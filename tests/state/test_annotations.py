"""What pydantic makes of an annotation: values kept as they are, refused, and tensors left alone."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, Protocol, runtime_checkable

import pytest
import torch
from pydantic import BaseModel, BeforeValidator, Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from state import InvalidValue, State, field


@dataclass
class Settings:
    rate: float = 0.1


class Model(BaseModel):
    rate: float = 0.1


class Pair(TypedDict):
    first: int
    second: int


class Colour(enum.Enum):
    RED = "red"


@runtime_checkable
class Named(Protocol):
    name: str


class Thing:
    pass


class _Short(type):
    """A metaclass that looks at the value, as jaxtyping's does."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, Tensor) and value.ndim == 1


class Vector(Tensor, metaclass=type("_VectorMeta", (_Short, type(Tensor)), {})):  # type: ignore[misc]
    pass


def state_of(annotation: Any, **options: Any) -> State:
    """A State with the one field `value`."""
    body = {"__annotations__": {"value": annotation}, "__module__": __name__, "value": field(scope="batch", **options)}
    cls: type[State] = type("One", (State,), body)
    return cls()


def written(annotation: Any, value: Any) -> Any:
    state: Any = state_of(annotation)
    state.value = value
    return state.value


SETTINGS, MODEL, THING = Settings(), Model(), Thing()


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Settings, SETTINGS),
        (Settings | None, SETTINGS),
        (Model, MODEL),
        (Thing, THING),
        (Colour, Colour.RED),
        (type[nn.Module], nn.Linear),
        (torch.dtype, torch.float16),
        (Callable[..., Any], len),
        (Iterator[int], iter([1])),
        (object, THING),
        (nn.Parameter, nn.Parameter(torch.ones(1))),
        (Annotated[Tensor, "batch features"], torch.ones(1)),
        (Optional[Tensor], torch.ones(1)),  # noqa: UP045  the old spelling
        (float | Tensor, torch.ones(1)),
        (Sequence[int], (1, 2)),
    ],
)
def test_a_value_of_the_type_is_kept_as_it_is(annotation: Any, value: Any) -> None:
    kept = written(annotation, value)
    assert kept is value or kept == value
    assert type(kept) is type(value)
    if not isinstance(value, tuple):
        assert kept is value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "many"),
        (int, 1.5),
        (int, None),
        (Tensor, 1.0),
        (Tensor, None),
        (nn.Module, nn.Linear),
        (Literal["train", "valid"], "test"),
        (Settings, 3),
        (Model, 3),
        (Thing, Settings()),
        (Pair, {"first": 1}),
        (list[int], ["a"]),
        (dict[str, int], {"a": "b"}),
        (tuple[int, str], (1,)),
        (Annotated[int, Field(gt=0)], 0),
        (Named, THING),
        (Callable[..., Any], 3),
        (torch.FloatTensor, torch.ones(1).long()),
        (Vector, torch.ones(2, 2)),
    ],
)
def test_another_value_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(InvalidValue, match="user may not set 'value' to") as caught:
        written(annotation, value)
    assert (caught.value.field, caught.value.actor) == ("value", "user")
    assert caught.value.value is value
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None


def test_the_refusal_names_type_owner_and_what_arrived() -> None:
    with pytest.raises(InvalidValue, match=r"The field is int, set by One: .*valid integer.*; got str\.") as caught:
        written(int, "many")
    assert caught.value.value == "many"


@pytest.mark.parametrize(
    ("constraints", "good", "bad"),
    [
        ({"gt": 0}, 1, 0),
        ({"le": 1}, 1, 2),
        ({"multiple_of": 8}, 16, 12),
        ({"strict": True}, 1, "1"),
    ],
)
def test_constraints_hold_on_every_write(constraints: dict[str, Any], good: int, bad: Any) -> None:
    state: Any = state_of(int, **constraints)
    for _ in range(3):
        state.value = good
        with pytest.raises(InvalidValue, match="The field is int") as caught:
            state.value = bad
        assert caught.value.value == bad
        assert state.value == good


@pytest.mark.parametrize(
    "annotation",
    [float, int, bool, complex, float | None, int | str, list[float], Annotated[float, Field(ge=0)]],
)
def test_a_tensor_is_never_made_a_number(annotation: Any) -> None:
    with pytest.raises(InvalidValue, match="a Tensor is never converted, that would be a device sync") as caught:
        written(annotation, torch.tensor(1.0))
    assert isinstance(caught.value.value, Tensor)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (dict[str, float], {"loss": torch.tensor(1.0)}),
        (list[float], [1.0, torch.tensor(1.0)]),
        (tuple[int, ...], (torch.tensor(1),)),
        (dict[str, list[float]], {"loss": [torch.tensor(1.0)]}),
        (Mapping[str, float], {"loss": torch.tensor(1.0)}),
    ],
)
def test_nor_is_one_inside_a_container(annotation: Any, value: Any) -> None:
    with pytest.raises(InvalidValue, match="a Tensor is never converted") as caught:
        written(annotation, value)
    assert caught.value.field == "value"


@pytest.mark.parametrize("value", [[torch.tensor(1.0)], {"loss": torch.tensor(1.0)}, (1, torch.tensor(1))])
def test_a_container_that_takes_tensors_keeps_them(value: Any) -> None:
    inside = {list: list[Tensor], dict: dict[str, Tensor], tuple: tuple[int, Tensor]}[type(value)]
    assert written(inside, value) == value
    assert written(Any, value) is value


def test_a_parameter_field_refuses_a_plain_tensor() -> None:
    with pytest.raises(InvalidValue, match=r"The field is float \| Parameter;") as caught:
        written(float | nn.Parameter, torch.ones(1))
    assert caught.value.field == "value"


def test_a_converter_of_the_users_own_is_not_asked_to_convert_a_tensor() -> None:
    with pytest.raises(InvalidValue, match="never converted") as caught:
        written(Annotated[float, BeforeValidator(float)], torch.ones(1))
    assert caught.value.field == "value"


def test_a_tensor_subclass_keeps_its_type() -> None:
    class Mine(Tensor):
        pass

    assert type(written(Tensor, torch.ones(1).as_subclass(Mine))) is Mine


def test_a_dict_is_copied_and_an_opaque_object_is_not() -> None:
    given_dict: dict[str, int] = {"a": 1}
    assert written(dict, given_dict) is not given_dict
    assert written(Any, given_dict) is given_dict
    assert written(Mapping[str, int], given_dict) == given_dict


def test_an_iterator_is_not_consumed() -> None:
    batches = iter([1, 2])
    assert written(Iterator[int], batches) is batches
    assert list(batches) == [1, 2]


def test_a_callable_may_take_an_iterable() -> None:
    assert written(Callable[[Iterable[int]], int], sum) is sum
