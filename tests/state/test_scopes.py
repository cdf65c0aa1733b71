"""Scopes are a stack: what opens starts empty, what closes gives back what was there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, ones, zeros

from state import FieldNotReady, InvalidValue, State, field, invariant
from state.scopes import Scopes


class Nested(State):
    total: int = 0
    mean: float = field(scope="epoch")
    hidden: Any = field(scope="phase", default=None)
    loss: float = field(scope="batch")
    seen: list[int] = field(scope="batch", factory=lambda state: [state.total])


def opened(*scopes: str) -> tuple[Any, Scopes, list[tuple[str, Any]]]:
    state: Any = Nested()
    stack = Scopes(state)
    return state, stack, [(scope, stack.open(scope)) for scope in scopes]


def test_closing_takes_the_values_of_the_scope_and_no_others() -> None:
    state, scopes, [(_, epoch), (_, batch)] = opened("epoch", "batch")
    state.mean, state.loss, state.total = 1.0, 2.0, 3
    scopes.close("batch", batch)
    assert not state.ready("loss")
    assert (state.mean, state.total) == (1.0, 3)
    scopes.close("epoch", epoch)
    assert not state.ready("mean")
    assert state.total == 3
    with pytest.raises(FieldNotReady, match="'mean', which has no value now") as caught:
        hasattr(state, "mean")
    assert caught.value.field == "mean"


def test_defaults_come_with_each_opening() -> None:
    state, scopes, [(_, hidden)] = opened("phase")
    assert state.hidden is None
    state.hidden = ones(1)
    scopes.close("phase", hidden)
    scopes.open("phase")
    assert state.hidden is None


def test_factories_make_a_new_object_from_the_state_each_time() -> None:
    state, scopes, [(_, hidden)] = opened("batch")
    first = state.seen
    assert first == [0]
    first.append(9)
    state.total = 4
    scopes.close("batch", hidden)
    scopes.open("batch")
    assert state.seen == [4]
    assert state.seen is not first


@pytest.mark.parametrize("default", [[], {}, set(), [[1]], zeros(1)], ids=["list", "dict", "set", "deep", "tensor"])
def test_a_default_that_can_change_is_a_new_one_each_time(default: Any) -> None:
    class Carry(State):
        value: Any = field(scope="batch", default=default)

    state = Carry()
    scopes = Scopes(state)
    hidden = scopes.open("batch")
    first = state.value
    for change in ("append", "update", "add", "add_"):
        if hasattr(first, change):
            getattr(first, change)({} if change == "update" else 5)
            break
    scopes.close("batch", hidden)
    scopes.open("batch")
    assert state.value is not first
    assert state.value is not default
    assert repr(state.value) == repr(default)


def test_a_default_that_cannot_change_stays_the_object_it_is() -> None:
    rule = len

    class Carry(State):
        value: Any = field(scope="batch", default=rule)

    state = Carry()
    Scopes(state).open("batch")
    assert state.value is rule


def test_an_open_scope_that_opens_again_starts_empty_and_gives_back() -> None:
    state, scopes, [(_, outer)] = opened("batch")
    state.loss, outer_seen = 1.0, state.seen
    inner = scopes.open("batch")
    assert not state.ready("loss")
    assert state.seen is not outer_seen
    state.loss = 2.0
    scopes.close("batch", inner)
    assert state.loss == 1.0
    assert state.seen is outer_seen
    scopes.close("batch", outer)
    assert not state.ready("loss")


def test_no_tensor_outlives_its_scope() -> None:
    import weakref

    class Held(State):
        loss: Tensor = field(scope="batch")

    state = Held()
    scopes = Scopes(state)
    hidden = scopes.open("batch")
    state.loss = ones(3)
    gone = weakref.ref(state.loss)
    scopes.close("batch", hidden)
    assert gone() is None


def test_after_a_failure_values_stay_until_cleared() -> None:
    state, scopes, [(_, epoch), (_, batch)] = opened("epoch", "batch")
    state.loss = 1.0
    scopes.close("batch", batch, keep=True)
    scopes.close("epoch", epoch, keep=True)
    assert state.loss == 1.0
    assert not scopes.is_open("batch")
    state.total = 2
    scopes.clear()
    assert not any(state.ready(name) for name in ("loss", "seen", "hidden", "mean"))
    assert state.total == 2


def test_the_values_of_the_failing_inner_scope_are_the_ones_that_stay() -> None:
    state, scopes, [(_, outer)] = opened("batch")
    state.loss = 1.0
    inner = scopes.open("batch")
    state.loss = 2.0
    scopes.close("batch", inner, keep=True)
    scopes.close("batch", outer, keep=True)
    assert state.loss == 2.0


def test_a_factory_that_fails_leaves_the_scope_as_it_was() -> None:
    class Failing(State):
        loss: float = field(scope="batch")
        made: int = field(scope="batch", factory=lambda state: state.total // state.parts)
        total: int = 4
        parts: int = 2

    state = Failing()
    scopes = Scopes(state)
    hidden = scopes.open("batch")
    state.loss, state.parts = 1.0, 0
    with pytest.raises(ZeroDivisionError):
        scopes.open("batch")
    assert (state.loss, state.made) == (1.0, 2)
    scopes.close("batch", hidden)
    assert not scopes.is_open("batch")
    assert not state.ready("loss")


@pytest.mark.parametrize("scope", ["phase", "batch", "fold"])
def test_what_a_factory_makes_is_checked_and_a_refusal_leaves_the_scope_as_it_was(scope: str) -> None:
    class Made(State):
        start: Any = 1
        first: int = field(scope=scope, default=7)
        count: int = field(scope=scope, ge=0, factory=lambda state: state.start)

    state = Made()
    scopes = Scopes(state)
    hidden = scopes.open(scope)
    for wrong in ("many", -1, None):
        state.start = wrong
        with pytest.raises(InvalidValue, match="its factory may not set 'count' to .* The field is ") as caught:
            scopes.open(scope)
        assert (caught.value.field, caught.value.value) == ("count", wrong)
        assert (state.first, state.count) == (7, 1)
    scopes.close(scope, hidden)
    assert not scopes.is_open(scope)


def test_what_a_factory_makes_has_to_be_of_the_class_each_time() -> None:
    class Sums:
        """No value that pydantic knows."""

    class Made(State):
        kind: Any = Sums
        sums: Sums = field(scope="phase", factory=lambda state: state.kind())

    state = Made()
    scopes = Scopes(state)
    for _ in range(2):
        scopes.close("phase", scopes.open("phase"))
    state.kind = dict
    with pytest.raises(InvalidValue, match="its factory may not set 'sums' to {}"):
        scopes.open("phase")


def test_rule_between_fields_holds_for_what_a_factory_makes() -> None:
    class Ruled(State):
        most: int = 3
        size: int = field(scope="batch", factory=lambda state: 4)

        @invariant("most", "size")
        def fits(self) -> bool:
            return self.size <= self.most

    state = Ruled()
    with pytest.raises(InvalidValue, match="breaks the invariant .*fits"):
        Scopes(state).open("batch")
    assert not state.ready("size")


def test_names_and_what_is_open() -> None:
    state, scopes, _ = opened("epoch", "mine")
    assert set(scopes.names) == {"epoch", "phase", "batch", "mine"}
    assert scopes.is_open("run") and scopes.is_open("epoch") and scopes.is_open("mine")
    assert not scopes.is_open("batch")
    assert not scopes.is_open("never")


def test_a_scope_of_the_users_own_works_alike() -> None:
    class Own(State):
        fold: int = field(scope="fold", default=1)

    state = Own()
    scopes = Scopes(state)
    hidden = scopes.open("fold")
    state.fold = 5
    scopes.close("fold", hidden)
    assert not state.ready("fold")


SCOPES = ("epoch", "batch", "own")
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.sampled_from(SCOPES)),
        st.tuples(st.just("write"), st.sampled_from(SCOPES)),
        st.tuples(st.just("close"), st.just("")),
    ),
    max_size=30,
)


class Modelled(State):
    epoch_plain: int = field(scope="epoch")
    epoch_default: int = field(scope="epoch", default=-1)
    batch_plain: int = field(scope="batch")
    batch_default: int = field(scope="batch", default=-1)
    own_plain: int = field(scope="own")
    own_default: int = field(scope="own", default=-1)


@given(ACTIONS)
def test_any_nesting_behaves_as_a_stack_of_dictionaries(actions: list[tuple[str, str]]) -> None:
    state = Modelled()
    scopes = Scopes(state)
    scopes.clear()
    model: list[tuple[str, dict[str, int]]] = []
    answers: list[Any] = []
    for number, (action, scope) in enumerate(actions):
        inner = next((values for name, values in reversed(model) if name == scope), None)
        if action == "open":
            model.append((scope, {f"{scope}_default": -1}))
            answers.append(scopes.open(scope))
        elif action == "close" and model:
            scope, _ = model.pop()
            scopes.close(scope, answers.pop())
        elif action == "write" and inner is not None:
            for name in (f"{scope}_plain", f"{scope}_default"):
                inner[name] = number
                setattr(state, name, number)
        expected: dict[str, int] = {}
        for _, values in [entry for entry in model if entry is _innermost(model, entry[0])]:
            expected |= values
        assert state.__dict__ == expected
        assert {name for name in SCOPES if scopes.is_open(name)} == {name for name, _ in model}


def _innermost(model: list[tuple[str, dict[str, int]]], scope: str) -> tuple[str, dict[str, int]]:
    return next(entry for entry in reversed(model) if entry[0] == scope)


def test_values_that_a_failure_left_are_gone_when_any_scope_opens() -> None:
    state, scopes, [(_, epoch), (_, batch)] = opened("epoch", "batch")
    state.loss, state.mean = 1.0, 2.0
    scopes.close("batch", batch, keep=True)
    assert state.loss == 1.0
    phase = scopes.open("phase")
    assert not state.ready("loss")
    assert state.mean == 2.0
    scopes.close("phase", phase)
    scopes.close("epoch", epoch, keep=True)
    scopes.open("epoch")
    assert not state.ready("mean")
