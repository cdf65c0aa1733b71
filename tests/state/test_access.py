"""Access and views: the declared names, nothing else, and what one actor may read back."""

import copy
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from state import Access, AccessDenied, FieldNotReady, InvalidValue, State, UnknownField, field
from state.access import View, view_class
from state.fields import FieldSpec
from state.state import writer


class Toy(State):
    model: nn.Module = field()
    teacher: nn.Module = field()
    count: int = 0
    inputs: Tensor = field(scope="batch")
    loss: Tensor = field(scope="batch")
    note: str = field(scope="batch")


class Owner:
    """What a node is to its view."""

    def __init__(self, state: State, access: Access) -> None:
        self.path = "train/fit/loss"
        self.access = access
        self.known: Mapping[str, FieldSpec] = type(state).specs
        self.writers: dict[str, Callable[[Any], None]] = {
            name: writer(state, name, self.path, None, None) for name in access.field_writes
        }

    def not_ready(self, name: str) -> Exception:
        return FieldNotReady(name, self.path, "Put a stage that writes it before.")


def view_of(state: State, access: Access) -> Any:
    fields = frozenset(type(state).specs)
    readable = fields if access.observer else access.readable & fields
    cls = view_class(View, readable, access.optional & fields, frozenset(access.field_writes))
    return cls(Owner(state, access), state.__dict__)


@pytest.fixture
def state() -> Any:
    made: Any = Toy(model=nn.Linear(1, 1), teacher=nn.Linear(1, 1))
    made.inputs = torch.ones(2)
    return made


def test_a_declaration_is_taken_apart_once() -> None:
    access = Access.of(
        ["model", "hidden?", "model", "model.grads"], ["loss", "model.params", "loss"], ["rng", "teacher.buffers"]
    )
    assert access.reads == ("model", "hidden", "model.grads")
    assert access.optional == {"hidden"}
    assert access.writes == ("loss", "model.params")
    assert (access.field_writes, access.part_writes) == (("loss",), ("model.params",))
    assert access.touches == ("rng", "teacher.buffers")


def test_the_object_of_a_part_that_is_named_may_be_had() -> None:
    access = Access.of(["loss", "optimizer.hyper"], ["outputs", "model.params"], ["rng", "teacher.buffers"])
    assert access.readable == {"loss", "optimizer", "model", "teacher"}


def test_a_view_reads_what_is_declared_and_as_it_is(state: Any) -> None:
    view = view_of(state, Access.of(["inputs"], [], ["model.buffers"]))
    assert view.inputs is state.inputs
    assert view.model is state.model


def test_an_undeclared_read_says_what_to_add(state: Any) -> None:
    view = view_of(state, Access.of(["inputs"], ["loss"]))
    told = r"train/fit/loss may not read 'model'. It declares reads=\['inputs'\]. Add 'model' to its reads."
    with pytest.raises(AccessDenied, match=told) as caught:
        hasattr(view, "model")
    error = caught.value
    assert (error.actor, error.field, error.mode, error.granted) == ("train/fit/loss", "model", "read", ("inputs",))


def test_an_undeclared_write_says_what_to_add_and_changes_nothing(state: Any) -> None:
    view = view_of(state, Access.of(["inputs"], ["loss"]))
    told = r"may not write 'count'. It declares writes=\['loss'\]. Add 'count' to its writes, or do this in a stage"
    with pytest.raises(AccessDenied, match=told) as caught:
        view.count = 3
    assert (caught.value.field, caught.value.mode) == ("count", "write")
    with pytest.raises(AccessDenied, match="may not write 'inputs'") as caught:
        view.inputs = torch.zeros(1)
    assert caught.value.granted == ("loss",)
    assert state.count == 0
    assert torch.equal(state.inputs, torch.ones(2))


def test_a_part_in_writes_does_not_let_the_component_be_replaced(state: Any) -> None:
    view = view_of(state, Access.of([], ["model.params"]))
    with pytest.raises(AccessDenied, match="may not write 'model'") as caught:
        view.model = nn.Linear(1, 1)
    assert caught.value.field == "model"


def test_unknown_names_are_refused_with_the_nearest(state: Any) -> None:
    view = view_of(state, Access.of(["inputs"], ["loss"]))
    for ask in (lambda: view.los, lambda: setattr(view, "los", 1), lambda: view.ready("los")):
        with pytest.raises(UnknownField, match="has no field 'los'. Did you mean 'loss'") as caught:
            ask()
        assert caught.value.nearest == "loss"


def test_a_field_without_a_value_is_not_ready(state: Any) -> None:
    view = view_of(state, Access.of(["loss"]))
    with pytest.raises(FieldNotReady, match="train/fit/loss reads 'loss', .* Put a stage that writes it") as caught:
        hasattr(view, "loss")
    assert caught.value.actor == "train/fit/loss"


def test_an_actor_reads_back_what_it_has_set_and_no_more(state: Any) -> None:
    state.loss = torch.tensor(1.0)
    view = view_of(state, Access.of([], ["loss"]))
    with pytest.raises(AccessDenied, match="It may read 'loss' back once it has set it; add it to its reads") as caught:
        hasattr(view, "loss")
    assert (caught.value.field, caught.value.mode) == ("loss", "read")
    view.loss = torch.tensor(2.0)
    assert view.loss is state.loss
    assert float(view.loss) == 2.0


def test_what_it_has_set_ends_with_its_scope_too(state: Any) -> None:
    view = view_of(state, Access.of([], ["loss"]))
    view.loss = torch.tensor(2.0)
    del state.__dict__["loss"]
    with pytest.raises(FieldNotReady, match="reads 'loss'") as caught:
        hasattr(view, "loss")
    assert caught.value.field == "loss"


def test_a_refused_value_is_not_taken_as_set(state: Any) -> None:
    view = view_of(state, Access.of([], ["loss"]))
    with pytest.raises(InvalidValue, match="train/fit/loss may not set 'loss'") as refused:
        view.loss = 1.0
    assert refused.value.actor == "train/fit/loss"
    with pytest.raises(AccessDenied, match="may not read 'loss'") as caught:
        hasattr(view, "loss")
    assert caught.value.field == "loss"


def test_an_optional_read_is_none_without_a_value(state: Any) -> None:
    view = view_of(state, Access.of(["loss?"]))
    assert view.loss is None
    state.loss = torch.tensor(1.0)
    assert view.loss is state.loss


def test_an_observer_reads_everything_and_writes_nothing(state: Any) -> None:
    view = view_of(state, Access(observer=True))
    assert view.model is state.model
    assert view.count == 0
    with pytest.raises(AccessDenied, match="may not write 'count'") as caught:
        view.count = 1
    assert caught.value.granted == ()


def test_nothing_is_deleted_through_a_view(state: Any) -> None:
    view = view_of(state, Access.of(["inputs"], ["inputs"]))
    with pytest.raises(AccessDenied, match="A value cannot be deleted; it ends with its scope") as caught:
        del view.inputs
    assert caught.value.field == "inputs"
    assert state.ready("inputs")


@pytest.mark.parametrize("name", ["_x", "__deepcopy__", "__rich_repr__", "__array__", "_repr_html_", "__len__"])
def test_private_names_are_attribute_errors(state: Any, name: str) -> None:
    view = view_of(state, Access.of(["inputs"]))
    assert not hasattr(view, name)
    with pytest.raises(AttributeError):
        setattr(view, name, 1)


def test_a_view_tells_whether_any_field_is_ready(state: Any) -> None:
    view = view_of(state, Access.of(["inputs"]))
    assert view.ready("inputs")
    assert view.ready("model")
    assert not view.ready("loss")


def test_components_and_values_of_a_view_are_the_declared_ones(state: Any) -> None:
    view = view_of(state, Access.of(["model", "inputs", "loss?"], ["note"]))
    assert view.components(nn.Module) == {"model": state.model}
    assert view.values_of("batch") == {"inputs": state.inputs}
    assert set(view_of(state, Access(observer=True)).components(nn.Module)) == {"model", "teacher"}


def test_dir_lists_the_declared_names(state: Any) -> None:
    assert dir(view_of(state, Access.of(["inputs"], ["loss"], ["model.buffers"]))) == ["inputs", "loss", "model"]


def test_repr_is_a_table_of_rights_and_values(state: Any) -> None:
    view = view_of(state, Access.of(["inputs"], ["loss", "inputs"]))
    head, *rows = repr(view).splitlines()
    assert head == "state of train/fit/loss:"
    assert [row.split() for row in rows] == [["inputs", "rw", "float32[2]"], ["loss", "-w", "not", "ready"]]


def test_rich_prints_a_view(state: Any) -> None:
    console = Console(file=(out := StringIO()), width=80)
    console.print(view_of(state, Access.of(["inputs"])))
    assert "float32[2]" in out.getvalue()


def test_a_view_is_not_copied(state: Any) -> None:
    with pytest.raises((AttributeError, TypeError)):
        copy.copy(view_of(state, Access.of(["inputs"])))


def test_one_class_is_made_for_one_set_of_names(state: Any) -> None:
    one, other = (view_of(state, Access.of(["inputs"], ["loss"])) for _ in range(2))
    assert type(one) is type(other)
    assert type(one) is not type(view_of(state, Access.of(["inputs"])))
    assert not hasattr(one, "__dict__")


def test_write_that_there_may_be_is_no_promise() -> None:
    access = Access.of(writes=("loss", "score?")).renamed({"score": "grade"})
    assert access.writes == ("loss", "grade") and access.unsure == {"grade"}


def test_read_with_and_without_a_mark_is_optional_and_awaited() -> None:
    access = Access.of(reads=("score", "score?", "other?")).renamed({"score": "grade"})
    assert access.reads == ("grade", "other") and access.optional == {"grade", "other"}
    assert access.awaited == {"grade"}
    assert access.may_lack("other", False) and access.may_lack("grade", True) and not access.may_lack("grade", False)
