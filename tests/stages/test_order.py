"""The order of hooks at one point: the rules of the order one by one, and the laws that hold for all of them."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import Assembly, Callback, Composite, GraphError, Stage, after, assemble, before
from stages.callbacks import HookMethod, Point, hooks_of
from stages.order import overlaps
from state import State


class Values(State):
    a: int = 0
    b: int = 0
    c: int = 0
    given: int = 0


class Work(Stage):
    def run(self, given: int) -> None: ...


class Tree(Composite):
    work: ClassVar[Stage]


class Hooked(Callback):
    """A callback of one hook after "work", under a name of its own; it reads `given`, so it is no observer."""

    def __init__(self, title: str, reads: tuple[str, ...] = (), writes: tuple[str, ...] = (), **options: Any) -> None:
        self.title = title
        self.point = Point("after", "work", {"reads": ("given", *reads), "writes": writes, **options})  # type: ignore[typeddict-item]

    def hooks(self) -> list[tuple[str, HookMethod]]:
        return [(self.title, HookMethod(lambda self, state: None, (self.point,)))]


def build(*callbacks: Any) -> Assembly:
    return assemble(Tree(Work()), hooks_of(callbacks), Values)


def order(*callbacks: Any) -> list[str]:
    """The hooks after "work" in their order, by title."""
    assembly = build(*callbacks)
    assembly.require_sound()
    return [hung.hook.name.split(".")[-1] for hung in assembly.root.children["work"].after]


class First(Hooked):
    pass


class Second(Hooked):
    pass


def test_unrelated_hooks_keep_the_order_of_registration() -> None:
    assert order(*(Hooked(title) for title in "qwerty")) == list("qwerty")


def test_writer_runs_before_pure_reader() -> None:
    assert order(Hooked("reader", reads=("a",)), Hooked("writer", writes=("a",))) == ["writer", "reader"]


def test_reader_that_also_writes_is_no_pure_reader() -> None:
    both = Hooked("both", reads=("a",), writes=("a",))
    found = build(both, Hooked("writer", writes=("a",))).findings
    assert [finding.kind for finding in found] == ["unordered writers"]


def test_optional_read_orders_as_any_read() -> None:
    assert order(Hooked("reader", reads=("a?",)), Hooked("writer", writes=("a",))) == ["writer", "reader"]


def test_touches_never_order() -> None:
    assert order(Hooked("one", touches=("a",)), Hooked("two", writes=("a",))) == ["one", "two"]


def test_tuple_orders_two_writers() -> None:
    assert order((Hooked("two", writes=("a",)), Hooked("one", writes=("a",)))) == ["two", "one"]


def test_tuple_wins_over_access() -> None:
    assert order((Hooked("reader", reads=("a",)), Hooked("writer", writes=("a",)))) == ["reader", "writer"]


def test_tuple_wins_over_access_for_members_that_are_not_neighbours() -> None:
    reader, writer = Hooked("reader", reads=("a",)), Hooked("writer", writes=("a",))
    assert order((reader, Hooked("between"), writer)) == ["reader", "between", "writer"]


def test_runs_before_wins_over_access() -> None:
    reader = First("reader", reads=("a",), runs_before=(Second,))
    assert order(reader, Second("writer", writes=("a",))) == ["reader", "writer"]


def test_runs_after_takes_a_name() -> None:
    assert order(First("one", runs_after=("Second",)), Second("two")) == ["two", "one"]


def test_absent_callback_in_runs_before_is_no_fault() -> None:
    assert order(Hooked("one", runs_before=("Nobody",)), Hooked("two")) == ["one", "two"]


def test_runs_before_a_base_class_leaves_own_hooks_alone() -> None:
    class Two(Callback):
        @after("work", runs_before=(Callback,), writes=("a",))
        def one(self, given: int) -> int:
            return given

        @after("work", runs_before=(Callback,), writes=("a",))
        def two(self, given: int) -> int:
            return given

    assert order(Hooked("other"), Two()) == ["one", "two", "other"]


def test_hooks_of_one_callback_run_as_they_are_defined() -> None:
    class Two(Callback):
        @after("work", reads=("a",))
        def second_by_access(self, a: int) -> None: ...

        @after("work", writes=("a",))
        def first_by_access(self, given: int) -> int:
            return given

    assert order(Two()) == ["second_by_access", "first_by_access"]


def test_observers_come_last_in_order_of_registration() -> None:
    @after("work")
    def watch(state: Any) -> None: ...

    @after("work")
    def look(state: Any, outcome: Any) -> None: ...

    assert order(watch, Hooked("late", reads=("given",)), look) == ["late", "watch", "look"]


def test_hook_with_a_field_as_parameter_is_ordered_and_no_observer() -> None:
    @after("work")
    def read(a: int) -> None: ...

    assert order(read, Hooked("writer", writes=("a",))) == ["writer", "read"]


def test_unordered_writers_are_refused_naming_both_and_the_ways_out() -> None:
    with pytest.raises(GraphError, match="both write 'a' after 'tree/work'") as caught:
        build(First("one", writes=("a",)), Second("two", writes=("a",))).require_sound()
    (finding,) = caught.value.findings
    assert finding.actors == ("tree/work:after:First.one", "tree/work:after:Second.two")
    assert "callbacks=[(First(...), Second(...))]" in finding.message
    assert "runs_before=" in finding.message


def test_writers_on_two_sides_of_a_stage_need_no_order() -> None:
    @before("work", writes=("a",))
    def early(given: int) -> int:
        return given

    assert order(early, Hooked("late", writes=("a",))) == ["late"]


def test_writer_of_a_component_and_of_a_part_need_an_order_but_not_its_gradients() -> None:
    assert overlaps("model", "model.params")
    assert overlaps("model.params", "model.params.0.weight")
    assert not overlaps("model", "model.grads")
    assert not overlaps("model.params", "model.params_of_another")


def test_cycle_is_printed_with_its_reasons() -> None:
    one = First("one", reads=("b",), writes=("a",))
    two = Second("two", reads=("a",), writes=("b",))
    (finding,) = build(one, two).findings
    assert finding.kind == "cycle"
    assert finding.actors == ("tree/work:after:First.one", "tree/work:after:Second.two")
    assert "First.one -> Second.two -> First.one" in finding.message
    assert "First.one writes 'a', which the other reads" in finding.message


def test_cycle_names_no_hook_that_only_waits_for_it() -> None:
    one, two = First("one", runs_before=(Second,)), Second("two", runs_before=(First,), writes=("a",))
    (finding,) = build(Hooked("waits", reads=("a",)), one, two).findings
    assert finding.actors == ("tree/work:after:First.one", "tree/work:after:Second.two")


def test_reasons_of_each_order_are_kept() -> None:
    edges = build(Hooked("reader", reads=("a",)), Hooked("writer", writes=("a",))).edges
    assert [(e.first[-6:], e.second[-6:], e.reason) for e in edges] == [
        ("writer", "reader", "writes 'a', which the other reads")
    ]


ACCESS = st.lists(st.sampled_from("abc"), unique=True, max_size=2)
HOOKS = st.lists(st.tuples(ACCESS, ACCESS), max_size=7)


def made(hooks: list[tuple[list[str], list[str]]]) -> list[Hooked]:
    return [Hooked(str(i), tuple(reads), tuple(writes)) for i, (reads, writes) in enumerate(hooks)]


@settings(deadline=None)
@given(HOOKS)
def test_every_accepted_order_puts_writers_before_pure_readers(hooks: list[tuple[list[str], list[str]]]) -> None:
    assembly = build(*made(hooks))
    if assembly.findings:
        return
    names = [int(hung.hook.name.split(".")[-1]) for hung in assembly.root.children["work"].after]
    for i, (_, writes) in enumerate(hooks):
        for j, (reads, own) in enumerate(hooks):
            if i != j and (set(writes) & set(reads)) - set(own):
                assert names.index(i) < names.index(j)


@settings(deadline=None)
@given(HOOKS, st.permutations(range(7)))
def test_a_declared_order_of_all_is_always_accepted_as_it_is(
    hooks: list[tuple[list[str], list[str]]], shuffled: list[int]
) -> None:
    hooked = made(hooks)
    declared = tuple(hooked[i] for i in shuffled if i < len(hooked))
    assert order(declared) == [callback.title for callback in declared]


@settings(deadline=None)
@given(HOOKS, st.randoms(use_true_random=False))
def test_order_of_dependent_hooks_does_not_depend_on_registration(
    hooks: list[tuple[list[str], list[str]]], random: Any
) -> None:
    hooked = made(hooks)
    verdict = {finding.kind for finding in build(*hooked).findings}
    shuffled = random.sample(hooked, len(hooked))
    assert {finding.kind for finding in build(*shuffled).findings} == verdict


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(0, 8))
def test_a_hook_that_shares_nothing_does_not_move_the_others(place: int, count: int) -> None:
    hooks: list[Any] = [Hooked("reader", reads=("a",)), Hooked("writer", writes=("a",))]
    hooks += [Hooked(str(i)) for i in range(count)]
    hooks.insert(min(place, len(hooks)), Hooked("new"))
    assert [name for name in order(*hooks) if name != "new"] == order(*(h for h in hooks if h.title != "new"))


def test_result_is_the_same_each_time() -> None:
    hooks = [SimpleNamespace(reads=("a",), writes=()), SimpleNamespace(reads=(), writes=("a",))] * 3
    runs = [build(*(Hooked(str(i), h.reads, h.writes) for i, h in enumerate(hooks))) for _ in range(2)]
    assert [finding.message for finding in runs[0].findings] == [finding.message for finding in runs[1].findings]
