"""One schema from many, the upgrade in place, objects built from others, and the names an actor may use."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from state import FieldNotReady, InvalidValue, SchemaError, State, TrainState, field, invariant
from state.schema import build, compose, upgrade, vocabulary


class Base(State):
    count: int = 0


class Clip(Base):
    grad_norm: Tensor = field(scope="batch")


class Teach(Base):
    teacher: nn.Module = field()


class Other(State):
    count: int = 5
    rate: float = 0.1


CLASSES: list[type[State]] = [State, Base, Clip, Teach, Other]


def named(*classes: type[State]) -> list[tuple[str, type[State]]]:
    return [(cls.__name__.lower(), cls) for cls in classes]


def test_the_union_of_classes_has_all_fields() -> None:
    cls = compose(named(Base, Clip, Teach, Other))
    assert set(cls.specs) == {"count", "grad_norm", "teacher", "rate"}
    assert issubclass(cls, Clip) and issubclass(cls, Teach) and issubclass(cls, Other)


def test_a_class_that_has_everything_is_taken_as_it_is() -> None:
    assert compose(named(Clip, Base)) is Clip
    assert compose(named(Base, Clip)) is Clip
    assert compose(named(Base, State)) is Base


@given(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=6))
def test_composing_again_gives_the_same_class(classes: list[type[State]]) -> None:
    cls = compose(named(*classes))
    assert set(cls.specs) == {name for each in classes for name in each.specs}
    assert compose([("user", cls), *named(*classes)]) is cls
    assert compose([*named(*classes), ("user", cls)]) is cls
    for name, spec in cls.specs.items():
        assert (spec.annotation, spec.scope) in {
            (c.specs[name].annotation, c.specs[name].scope) for c in classes if name in c.specs
        }


def test_the_first_default_of_equal_declarations_counts() -> None:
    assert compose(named(Base, Other)).specs["count"].default == 0
    assert compose(named(Other, Base)).specs["count"].default == 5


def test_two_types_are_refused_naming_both_owners() -> None:
    class Text(State):
        count: str = ""

    told = (
        r"Field 'count' is declared twice: Base \(for base\) declares it int in scope 'run'; "
        r"Text \(for text\) declares it str in scope 'run'. Rename one of them."
    )
    with pytest.raises(SchemaError, match=told):
        compose(named(Base, Text))


def test_two_scopes_or_constraints_are_refused() -> None:
    class Scoped(State):
        count: int = field(scope="batch", default=0)

    class Positive(State):
        count: int = field(default=1, gt=0)

    for cls in (Scoped, Positive):
        with pytest.raises(SchemaError, match="'count' is declared twice"):
            compose(named(Base, cls))


def test_a_subclass_that_gives_a_field_another_type_is_refused_beside_its_base() -> None:
    class Text(Base):
        count: str = ""  # type: ignore[assignment]

    assert compose(named(Text)) is Text
    with pytest.raises(SchemaError, match="'count' is declared twice"):
        compose(named(Base, Text))


def test_classes_that_have_no_common_order_are_refused() -> None:
    one = type("One", (Clip, Teach), {"__module__": __name__})
    two = type("Two", (Teach, Clip), {"__module__": __name__})
    with pytest.raises(SchemaError, match=r"\['One', 'Two'\] cannot be one schema"):
        compose(named(one, two))


def test_fields_may_be_brought_by_an_instance() -> None:
    brought = {"valid_top1": (Tensor, field(scope="epoch", description="share")), "k": (int, 1)}
    cls = compose(named(Base), [("Accuracy", brought)])
    assert list(cls.specs) == ["count", "valid_top1", "k"]
    spec = cls.specs["valid_top1"]
    assert (spec.owner, spec.scope, spec.description) == ("Accuracy", "epoch", "share")
    assert cls().model_dump() == {"count": 0, "k": 1}
    assert compose([("user", cls)], [("Accuracy", brought), ("Again", brought)]) is cls


def test_what_is_brought_is_checked_as_what_is_declared() -> None:
    for fields, told in (
        ({"count": (str, "")}, "Accuracy declares it str"),
        ({"round": (int, 0)}, "Accuracy declares 'round', a reserved name"),
        ({"_sums": (int, 0)}, "Call it 'sums'"),
        ({"model.params": (int, 0)}, "so a Python identifier"),
        ({"k": (int, "a")}, "The default of Accuracy.k is none that the field takes"),
    ):
        with pytest.raises(SchemaError, match=told):
            compose(named(Base), [("Accuracy", fields)])


def test_two_instances_that_bring_one_name_must_agree() -> None:
    with pytest.raises(SchemaError, match="first declares it int .*; second declares it float"):
        compose(named(Base), [("first", {"k": (int, 0)}), ("second", {"k": (float, 0.0)})])


def test_invariants_come_with_their_class() -> None:
    class Ruled(State):
        count: int = 0

        @invariant("count")
        def small(self) -> None:
            assert self.count < 3

    cls = compose(named(Clip, Ruled))
    state: Any = cls()
    with pytest.raises(InvalidValue, match="Ruled.small") as caught:
        state.count = 3
    assert caught.value.field == "count"


def test_upgrade_keeps_the_object_the_user_holds() -> None:
    class More(State):
        rate: float = 0.1
        items: list[int] = [1]
        weights: Tensor = field(default=torch.zeros(1))
        loss: Tensor | None = field(scope="batch", default=None)
        made: int = field(factory=lambda state: 3)

    teacher = nn.Linear(1, 1)
    state: Any = Base(count=2)
    values = state.__dict__
    cls = compose([*named(Base, More), ("teach", Teach)])
    upgrade(state, cls)
    assert type(state) is cls
    assert isinstance(state, Base)
    assert state.__dict__ is values
    assert (state.count, state.rate, state.items) == (2, 0.1, [1])
    assert not any(state.ready(name) for name in ("loss", "made", "teacher"))
    state.teacher = teacher
    assert state.teacher is teacher
    other: Any = Base()
    upgrade(other, cls)
    other.items.append(2)
    other.weights.add_(1)
    assert (state.items, float(state.weights)) == ([1], 0.0)


def test_upgrade_does_not_touch_what_the_state_has() -> None:
    state: Any = Base(count=2)
    upgrade(state, compose(named(Base, Other)))
    assert (state.count, state.rate) == (2, 0.1)
    upgrade(state, type(state))
    assert state.count == 2


def test_a_module_given_as_default_stays_the_object_it_is() -> None:
    teacher = nn.Linear(1, 1)
    state: Any = Base()
    upgrade(state, compose(named(Base), [("Teach", {"teacher": (nn.Module, field(default=teacher))})]))
    assert state.teacher is teacher


def test_build_makes_objects_in_the_order_of_what_they_need() -> None:
    class Scheduled(TrainState):
        last: str = field(factory=lambda state: f"{type(state.scheduler).__name__} made")
        scheduler: StepLR = field(factory=lambda state: StepLR(state.optimizer, 1))
        optimizer: torch.optim.Optimizer = field(factory=lambda state: torch.optim.SGD(state.model.parameters(), lr=1))

    state = Scheduled(model=nn.Linear(1, 1))
    assert build(state) == ["optimizer", "scheduler", "last"]
    assert state.scheduler.optimizer is state.optimizer
    assert state.last == "StepLR made"
    assert build(state) == []


def test_build_leaves_what_was_given() -> None:
    class Made(State):
        size: int = field(factory=lambda state: 1)

    state = Made(size=7)
    assert build(state) == []
    assert state.size == 7


def test_factories_that_wait_for_each_other_are_refused() -> None:
    class Circle(State):
        one: int = field(factory=lambda state: state.two)
        two: int = field(factory=lambda state: state.one)

    with pytest.raises(SchemaError, match=r"The factories of \['one', 'two'\] wait for each other"):
        build(Circle())


def test_a_factory_that_reads_itself_or_what_nobody_makes_is_refused() -> None:
    class Selfish(State):
        one: int = field(factory=lambda state: state.one)

    class Lonely(State):
        one: int = field(factory=lambda state: state.size)
        size: int = field()

    for cls, name in ((Selfish, "one"), (Lonely, "size")):
        with pytest.raises(FieldNotReady, match=f"reads '{name}'") as caught:
            build(cls())
        assert caught.value.field == name


def test_what_a_factory_makes_is_validated_by_the_actor_setup() -> None:
    class Wrong(State):
        size: int = field(factory=lambda state: "a")

    with pytest.raises(InvalidValue, match="setup may not set 'size' to 'a'") as caught:
        build(Wrong())
    assert caught.value.actor == "setup"


def test_an_error_of_a_factory_comes_through() -> None:
    class Failing(State):
        size: int = field(factory=lambda state: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        build(Failing())


class Metric(nn.Module):
    def update(self) -> None: ...
    def compute(self) -> None: ...
    def reset(self) -> None: ...


def test_names_are_fields_parts_and_rng() -> None:
    class Named(State):
        critic: nn.Module = field()
        metric: Metric = field()
        scheduler: StepLR = field()
        ema: nn.Module | None = field(default=None)
        anything: Any = field()
        loss: Tensor = field(scope="batch")

    names = vocabulary(Named)
    parts = {"params", "grads", "buffers", "mode"}
    assert set(names) == {
        *Named.specs,
        *(f"{owner}.{part}" for owner in ("critic", "ema") for part in parts),
        *("metric.state", "scheduler.state", "rng"),
    }
    assert names["critic.params"] is Named.specs["critic"]
    assert (names["rng"].scope, names["rng"].owner) == ("run", "State")


def test_parts_follow_from_the_object_where_there_is_one() -> None:
    class Loose(State):
        anything: Any = field()
        model: nn.Module = field()

    state = Loose(anything=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1), model=Metric())
    names = vocabulary(Loose, state)
    assert {"anything.state", "anything.hyper", "model.state"} < set(names)
    assert "model.params" not in names
