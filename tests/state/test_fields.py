"""What a field is: its facts, its fast path, and declarations that are refused."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Optional, Protocol, TypeVar, runtime_checkable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field
from torch import Tensor, nn
from typing_extensions import TypedDict

from state import InvalidValue, SchemaError, State, field
from state.fields import MISSING, FieldSpec, fresh, type_text
from state.state import writer


@dataclass
class Settings:
    rate: float = 0.1


class Model(BaseModel):
    rate: float = 0.1


class Pair(TypedDict):
    first: int
    second: int


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


def spec_of(annotation: Any, **options: Any) -> FieldSpec:
    return type(state_of(annotation, **options)).specs["value"]


SETTINGS, MODEL, THING = Settings(), Model(), Thing()


@pytest.mark.parametrize("annotation", [int, float, str, bool, Any, Tensor, nn.Module, Tensor | None, float | Tensor])
def test_where_there_is_only_a_type_to_check_the_second_value_skips_the_adapter(annotation: Any) -> None:
    assert spec_of(annotation).is_plain


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[int, Field(gt=0)],
        Annotated[int, Field(strict=True)],
        Annotated[Tensor, AfterValidator(lambda value: value)],
        Literal["a"],
        Literal["a"] | int,
        dict[str, int],
        list[Tensor],
        Settings,
        Pair,
        Named,
        type[nn.Module],
        torch.FloatTensor,
        Vector,
        Vector | None,
    ],
)
def test_where_the_value_matters_nothing_is_skipped(annotation: Any) -> None:
    assert not spec_of(annotation).is_plain


def test_the_fast_path_is_for_the_exact_type_accepted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(Tensor)
    seen: list[type] = []
    validate = FieldSpec.validate

    def spy(self: FieldSpec, value: Any, actor: str) -> Any:
        seen.append(type(value))
        return validate(self, value, actor)

    monkeypatch.setattr(FieldSpec, "validate", spy)
    write = writer(state, "value", "train/loss", None, None)
    for value in (torch.ones(1), torch.zeros(1), nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(2))):
        write(value)
    with pytest.raises(InvalidValue, match="train/loss may not set") as caught:
        write(1.0)
    assert seen == [Tensor, nn.Parameter, float]
    assert caught.value.actor == "train/loss"


def test_a_constrained_int_never_skips() -> None:
    write = writer(state_of(int, ge=0), "value", "user", None, None)
    write(1)
    with pytest.raises(InvalidValue, match="greater than or equal to 0") as caught:
        write(-1)
    assert caught.value.value == -1


def test_a_type_that_looks_at_the_value_never_skips() -> None:
    write = writer(state_of(torch.FloatTensor), "value", "user", None, None)
    write(torch.ones(1))
    with pytest.raises(InvalidValue, match="FloatTensor") as caught:
        write(torch.ones(1).double())
    assert caught.value.field == "value"


@given(st.lists(st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=3), st.none())))
def test_a_writer_accepts_and_refuses_as_pydantic_alone_does(values: list[Any]) -> None:
    state: Any = state_of(int | str | None)
    spec = type(state).specs["value"]
    write = writer(state, "value", "user", None, None)
    for value in values:
        try:
            expected = spec.adapter.validate_python(value)
        except ValueError:
            with pytest.raises(InvalidValue, match="may not set") as caught:
                write(value)
            assert caught.value.field == "value"
        else:
            write(value)
            assert (type(state.value), state.value) == (type(expected), expected)


@pytest.mark.parametrize(
    "annotation",
    [Iterable, Iterable[int], Iterable[int] | None, Generator[int, None, None], list[Iterable[int]], "Iterable[int]"],
)
def test_an_annotation_that_wraps_the_value_into_a_generator_is_refused(annotation: Any) -> None:
    with pytest.raises(SchemaError, match="One.value is declared .*pydantic would wrap the value"):
        state_of(annotation)


def test_a_type_that_is_not_defined_yet_is_refused() -> None:
    with pytest.raises(SchemaError, match="Early.value is declared .*Later.*not defined there yet"):

        class Early(State):
            value: Later  # type: ignore[name-defined]  # noqa: F821


def test_a_type_of_the_function_round_the_class_is_found() -> None:
    class Local:
        pass

    class Found(State):
        value: Local = field(scope="batch")

    state, value = Found(), Local()
    state.value = value
    assert state.value is value


def test_an_alias_is_refused() -> None:
    with pytest.raises(SchemaError, match="One.value has an alias"):
        state_of(int, alias="other")


def test_a_generic_state_checks_its_argument() -> None:
    Value = TypeVar("Value")

    class Holder(State, Generic[Value]):
        value: Value = field(scope="batch")

    state = Holder[int]()
    with pytest.raises(InvalidValue, match="The field is int") as caught:
        state.value = "a"  # type: ignore[assignment]
    assert caught.value.field == "value"


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(int, "a"), (Tensor, None), (Literal["a"], "b"), (float, torch.ones(1)), (Annotated[int, Field(gt=0)], 0)],
)
def test_a_default_that_the_field_would_refuse_is_refused_with_the_class(annotation: Any, default: Any) -> None:
    with pytest.raises(SchemaError, match="The default of One.value is none that the field takes"):
        state_of(annotation, default=default)


def test_a_method_with_the_name_of_a_field_is_no_default() -> None:
    with pytest.raises(SchemaError, match="The default of Confused.loss is none that the field takes"):

        class Confused(State):
            loss: Tensor

            def loss(self) -> int:  # type: ignore[no-redef]  # noqa: F811
                return 1


def test_default_and_factory_together_are_refused() -> None:
    with pytest.raises(SchemaError, match="default= or factory=, not both"):
        field(default=1, factory=lambda state: 1)


@pytest.mark.parametrize(
    ("scope", "saved"),
    [("run", "saved"), ("epoch", "saved"), ("phase", "saved"), ("mine", "saved"), ("update", "volatile")],
)
def test_update_and_batch_scopes_are_volatile_by_default(scope: str, saved: str) -> None:
    class One(State):
        value: int = field(scope=scope)
        derived: int = field(scope=scope, saved="derived", because="from value")

    assert One.specs["value"].saved == saved
    assert (One.specs["value"].because != "") == (saved == "volatile")
    assert (One.specs["derived"].saved, One.specs["derived"].because) == ("derived", "from value")


def test_a_spec_tells_what_the_class_declares() -> None:
    class One(State):
        loss: Tensor | None = field(scope="batch", default=None, description="scalar")
        plain: int = 3
        made: list[int] = Field(default_factory=list)

    loss, plain, made = (One.specs[name] for name in ("loss", "plain", "made"))
    assert (loss.scope, loss.default, loss.description, loss.type_text) == ("batch", None, "scalar", "Tensor | None")
    assert (plain.scope, plain.default, plain.owner) == ("run", 3, "One")
    assert made.default is MISSING
    assert made.factory is not None
    assert made.factory(None) == []


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (Tensor, "Tensor"),
        (nn.Module, "Module"),
        (Tensor | None, "Tensor | None"),
        (Annotated[int, Field(gt=0)], "int"),
        (list[int], "list[int]"),
        (Thing | None, "Thing | None"),
        (Callable[..., nn.Module], "Callable[..., Module]"),
        (Literal["a.b"], "Literal['a.b']"),
        (Any, "Any"),
        (Optional[int], "Optional[int]"),  # noqa: UP045
    ],
)
def test_types_are_shown_without_module_names(annotation: Any, text: str) -> None:
    assert type_text(annotation) == text


def test_fresh_copies_what_can_change_and_keeps_the_rest() -> None:
    items: list[int] = []
    assert fresh(items) is not items
    generator = (number for number in items)
    assert all(fresh(value) is value for value in (1, "a", None, (1, 2), len, Thing, generator))
