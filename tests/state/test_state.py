"""State objects: construction, writes, fields without a value, copies and threads."""

import copy
import pickle
import threading
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
import torch
from pydantic import Field
from rich.console import Console
from rich.pretty import pretty_repr
from torch import Tensor, nn

from state import FieldNotReady, InvalidValue, State, StateError, UnknownField, field
from state.schema import build
from state.state import Link, writer


class Simple(State):
    model: nn.Module = field()
    count: int = 0
    loss: Tensor = field(scope="batch")


def declare(**annotations: Any) -> type[State]:
    return type("Mine", (State,), {"__annotations__": annotations, "__module__": __name__})


def linked(state: State) -> State:
    state._link = Link(lambda: None, None, lambda name: f"Nobody writes {name!r}.")
    return state


def test_values_are_given_by_name_and_checked() -> None:
    model = nn.Linear(1, 1)
    state = Simple(model=model, count=3)
    assert state.model is model
    assert state.count == 3
    with pytest.raises(InvalidValue, match="Simple may not set 'count' to 'a'") as caught:
        Simple(count="a")
    assert (caught.value.field, caught.value.actor, caught.value.value) == ("count", "Simple", "a")
    with pytest.raises(UnknownField, match="Simple has no field 'modl'. Did you mean 'model'") as unknown:
        Simple(modl=model)
    assert (unknown.value.field, unknown.value.nearest) == ("modl", "model")


def test_a_plain_field_without_default_must_be_given() -> None:
    cls = declare(size=int, depth=int)
    with pytest.raises(
        InvalidValue, match=r"Mine needs \['depth', 'size'\]. Pass it, or declare it with field"
    ) as caught:
        cls()
    assert caught.value.field == "depth"


def test_a_field_may_be_called_self() -> None:
    assert declare(self=int)(**{"self": 3}).__dict__ == {"self": 3}


def test_reading_a_field_without_a_value_is_an_error_and_no_attribute_error() -> None:
    state = Simple()
    assert not state.ready("loss")
    with pytest.raises(FieldNotReady, match="user reads 'loss', which has no value now. Set it first.") as caught:
        hasattr(state, "loss")
    assert (caught.value.field, caught.value.actor) == ("loss", "user")
    with pytest.raises(FieldNotReady, match="Nobody writes 'loss'") as told:
        getattr(linked(state), "loss", None)
    assert told.value.field == "loss"


def test_unknown_names_are_refused_on_every_way_with_the_nearest() -> None:
    state: Any = Simple()
    for ask in (
        lambda: state.los,
        lambda: setattr(state, "los", 1),
        lambda: state.ready("los"),
        lambda: hasattr(state, "los"),
    ):
        with pytest.raises(UnknownField, match="State has no field 'los'. Did you mean 'loss'") as caught:
            ask()
        assert (caught.value.field, caught.value.nearest) == ("los", "loss")


def test_a_field_is_not_deleted() -> None:
    state = Simple(count=1)
    with pytest.raises(StateError, match="'count' cannot be deleted from State"):
        del state.count
    assert state.count == 1


def test_class_facts_are_no_fields() -> None:
    state: Any = Simple()
    for name in ("specs", "invariants", "ready"):
        with pytest.raises(UnknownField, match="State has no field") as caught:
            setattr(state, name, 1)
        assert caught.value.field == name


def test_list_dict_and_set_as_factories_make_an_empty_one_for_each_state() -> None:
    class Listing(State):
        names: dict[str, int] = field(factory=dict)

    one, other = Listing(), Listing()
    for each in (one, other):
        build(each)
    one.names["a"] = 1
    assert other.names == {}


def test_a_pydantic_factory_makes_a_new_object_for_each_state() -> None:
    class Listing(State):
        items: list[int] = Field(default_factory=list)
        more: list[int] = [1]
        weights: Tensor = field(default=torch.zeros(1))

    one, other = Listing(), Listing()
    one.items.append(1)
    one.more.append(2)
    one.weights.add_(1)
    assert (other.items, other.more, float(other.weights)) == ([], [1], 0.0)


def test_components_and_values_are_found_by_type_and_scope() -> None:
    model = nn.Linear(1, 1)
    state = Simple(model=model)
    state.loss = torch.ones(())
    assert state.components(nn.Module) == {"model": model}
    assert state.components(torch.optim.Optimizer) == {}
    assert list(state.values_of("batch")) == ["loss"]
    assert state.values_of("run") == {"model": model, "count": 0}


def test_what_belongs_into_a_run_says_so() -> None:
    state = Simple()
    with pytest.raises(StateError, match="belongs into the run of a stage that has `each`"):
        state.round()
    with pytest.raises(StateError, match="belongs into the run of a stage that lists `inline`"):
        state.stage("forward")


def test_repr_shows_the_values_there_are_on_one_line() -> None:
    state = Simple(count=2)
    assert repr(state) == "Simple(count=2)"
    state.loss = torch.ones(3)
    assert repr(state) == "Simple(count=2, loss=float32[3])"
    assert pretty_repr(state) == "Simple(count=2, loss=float32[3])"
    console = Console(file=StringIO(), width=80)
    console.print(state)
    console.print({"state": linked(state)})


@pytest.mark.parametrize("name", ["__rich_repr__", "_repr_html_", "__array__", "_nothing", "__deepcopy_hook__"])
def test_probes_for_private_names_find_nothing(name: str) -> None:
    if name != "__rich_repr__":
        assert not hasattr(Simple(), name)
    assert getattr(Simple(), "__no_such_hook__", None) is None


def test_copies_have_values_of_their_own_and_belong_to_no_learner() -> None:
    state = linked(Simple(model=nn.Linear(1, 1), count=1))
    shallow, deep = copy.copy(state), copy.deepcopy(state)
    for made in (shallow, deep, state.model_copy()):
        made.count = 2
        assert made._link is None
        assert not made.ready("loss")
    assert state.count == 1
    assert state._link is not None
    assert shallow.model is state.model
    assert deep.model is not state.model
    assert copy.deepcopy([state, state])[0].count == 1


def test_a_state_is_pickled_without_its_learner() -> None:
    state = linked(Simple(model=nn.Linear(1, 1), count=1))
    made = pickle.loads(pickle.dumps(state))
    assert (type(made), made.count, made._link) == (Simple, 1, None)
    assert not made.ready("loss")
    assert torch.equal(made.model.weight, state.model.weight)


def test_model_dump_leaves_out_what_has_no_value() -> None:
    assert Simple(count=1).model_dump() == {"count": 1}
    assert Simple.model_validate({"count": 1}).count == 1


def test_one_writer_refuses_assigns_and_tells_in_this_order() -> None:
    told: list[tuple[int, object]] = []

    class Recording:
        def pen(self, slot: int) -> object:
            return told.append, {int}, repr

    state = Simple()
    write = writer(state, "count", "train/fit", Recording(), 7)  # type: ignore[arg-type]
    write(3)
    with pytest.raises(InvalidValue, match="train/fit may not set 'count'") as caught:
        write("a")
    assert caught.value.actor == "train/fit"
    assert told == [(7, 3)]
    assert state.count == 3
    writer(state, "count", "train/fit", Recording(), None)(4)  # type: ignore[arg-type]
    assert told == [(7, 3)]


def test_what_is_told_is_what_was_stored() -> None:
    told: list[object] = []

    class Recording:
        def pen(self, slot: int) -> object:
            return told.append, {int}, repr

    writer(Simple(), "count", "user", Recording(), 0)("3")  # type: ignore[arg-type]
    assert told == [(0, 3)]


def test_a_state_of_five_hundred_fields_works() -> None:
    annotations: dict[str, Any] = {f"field_{index}": Tensor for index in range(500)}
    defaults = {name: field(scope="batch") for name in annotations}
    cls = type("Large", (State,), {"__annotations__": annotations, "__module__": __name__, **defaults})
    state = cls()
    value = torch.ones(1)
    for name in annotations:
        setattr(state, name, value)
    assert len(state.values_of("batch")) == 500
    with pytest.raises(UnknownField, match="Did you mean") as caught:
        state.ready("field_500")
    assert caught.value.nearest in cls.specs


def test_threads_read_while_one_writes() -> None:
    @dataclass(frozen=True)
    class Seen:
        number: int

    class Shared(State):
        seen: Any = None

    state, wrong, stop = Shared(seen=Seen(0)), [], threading.Event()

    def read() -> None:
        last = 0
        while not stop.is_set():
            number = state.seen.number
            if number < last:
                wrong.append(number)
            last = number

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        state.seen = Seen(number)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert state.seen.number == 1999
