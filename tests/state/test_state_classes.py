"""State classes: the names they may use, what they inherit, and what of pydantic they refuse."""

import warnings
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, computed_field, field_validator, model_validator
from torch import Tensor, nn

from state import InvalidValue, SchemaError, State, UnknownField, field
from state.state import Link


class Simple(State):
    model: nn.Module = field()
    count: int = 0
    loss: Tensor = field(scope="batch")


def declare(**annotations: Any) -> type[State]:
    return type("Mine", (State,), {"__annotations__": annotations, "__module__": __name__})


def linked(state: State) -> State:
    state._link = Link(lambda: None, None, lambda name: f"Nobody writes {name!r}.")
    return state


@pytest.mark.parametrize(
    "name",
    ["state", "stage", "outcome", "round", "ready", "log", "rng", "components", "values_of", "specs", "invariants"]
    + ["own_invariants", "declared", "copy", "json", "dict", "schema", "model_fields", "model_dump", "model_config"],
)
def test_reserved_names_are_refused_with_a_proposal(name: str) -> None:
    whose = "pydantic" if hasattr(BaseModel, name) else "State"
    with pytest.raises(
        SchemaError, match=f"Mine declares '{name}', a reserved name of {whose}. Call it '{name}_value'"
    ):
        declare(**{name: int})


@pytest.mark.parametrize(("name", "proposal"), [("_hidden", "hidden"), ("__secret", "secret"), ("_link", "link")])
def test_names_with_an_underscore_are_refused_with_a_proposal(name: str, proposal: str) -> None:
    with pytest.raises(SchemaError, match=f"does not begin with '_'. Call it '{proposal}'"):
        declare(**{name: int})


@pytest.mark.parametrize("name", ["class", "model.params", "two words", "1st"])
def test_a_name_that_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(SchemaError, match="Mine declares .* so a Python identifier"):
        declare(**{name: int})


@pytest.mark.parametrize("name", ["match", "fields", "values", "items", "type", "id", "input", "lr", "train", "Loss"])
def test_other_names_are_free(name: str) -> None:
    state: Any = declare(**{name: int})(**{name: 1})
    setattr(state, name, 2)
    assert getattr(state, name) == 2


def test_class_variables_are_no_fields() -> None:
    class WithConstant(State):
        limit: ClassVar[int] = 3
        count: int = 0

    assert list(WithConstant.specs) == ["count"]
    assert WithConstant().limit == 3


def test_a_method_that_hides_an_inherited_field_is_refused() -> None:
    with pytest.raises(SchemaError, match="Hiding.loss is a field and an attribute of one name"):

        class Hiding(Simple):
            def loss(self) -> None:  # type: ignore[override]
                """Found where the field has no value."""


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
def test_fields_of_a_class_that_is_no_state_are_refused_where_they_would_be_found_on_the_class() -> None:
    class Mixin:
        rate: float = 0.1

    with pytest.raises(SchemaError, match="Mixed.rate is a field and an attribute of one name"):

        class Mixed(Mixin, State):
            count: int = 0


def test_a_property_computes_from_fields_and_is_not_assigned() -> None:
    class Doubling(Simple):
        @property
        def double(self) -> int:
            return 2 * self.count

    state: Any = Doubling(count=2)
    assert state.double == 4
    with pytest.raises(UnknownField, match="no field 'double'") as caught:
        state.double = 3
    assert caught.value.field == "double"


@pytest.mark.parametrize(
    "option", [{"validate_assignment": True}, {"frozen": True}, {"strict": True}, {"extra": "allow"}]
)
def test_a_configuration_that_writes_would_not_follow_is_refused(option: Any) -> None:
    (name,) = option
    with pytest.raises(SchemaError, match=f"Own sets {name} in its configuration. Remove it"):

        class Own(State):
            model_config = ConfigDict(**option)
            count: int = 0


def test_attribute_docstrings_may_describe_fields() -> None:
    class Described(State):
        model_config = ConfigDict(use_attribute_docstrings=True)
        count: int = 0
        """how many"""

    assert Described.specs["count"].description == "how many"


def test_a_model_validator_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"Own has a model_validator \(check\), which .* Use @invariant"):

        class Own(State):
            @model_validator(mode="after")
            def check(self) -> "Own":
                return self


def test_a_field_validator_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"Own has a field_validator \(check\), which would not run on writes"):

        class Own(State):
            count: int = 0

            @field_validator("count")
            @classmethod
            def check(cls, value: int) -> int:
                return value


def test_a_computed_field_is_not_written() -> None:
    class Computing(Simple):
        @computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return 2 * self.count

    assert "double" not in Computing.specs
    assert Computing(count=2).double == 4


def test_a_subclass_may_narrow_a_field() -> None:
    class Narrow(Simple):
        count: int = field(default=1, gt=0, description="at least one")

    state = Narrow()
    with pytest.raises(InvalidValue, match="greater than 0") as caught:
        state.count = 0
    assert caught.value.field == "count"
    assert (Narrow.specs["count"].owner, Simple.specs["count"].owner) == ("Narrow", "Simple")
    Simple().count = 0


def test_a_subclass_may_give_a_field_another_type() -> None:
    class Text(Simple):
        count: str = "none"  # type: ignore[assignment]

    assert Text().count == "none"
    with pytest.raises(InvalidValue, match="The field is str, set by Text") as caught:
        Text(count=3)
    assert caught.value.field == "count"


def test_with_several_bases_the_nearest_declaration_counts() -> None:
    class Left(Simple):
        left: int = 0

    class Right(Simple):
        count: int = field(default=1, gt=0)

    class Both(Left, Right):
        pass

    assert list(Both.specs) == ["model", "count", "loss", "left"]
    assert Both.specs["count"].owner == "Right"
    with pytest.raises(InvalidValue, match="set by Right") as caught:
        Both().count = 0
    assert caught.value.field == "count"


def test_a_state_may_have_its_own_constructor() -> None:
    class Sized(State):
        size: int = field()

        def __init__(self, size: int) -> None:
            super().__init__(size=size)

    assert Sized(3).size == 3


def test_no_warning_is_given_for_ordinary_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        declare(model_name=str, model_size=int)
