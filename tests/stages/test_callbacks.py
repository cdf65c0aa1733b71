"""Callbacks as objects: decorators, stacked points, thinning by counts, names, tuples, and when they are frozen."""

from dataclasses import dataclass
from typing import Any

import pytest

from learner import Callback, Phase, StageError, after, before
from learner.testing import toy_learner
from stages import DeclarationError, EvaluationPhase, Forward, Misuse, TrainingPhase
from stages.callbacks import HookMethod, hooks_of
from state import field


class Seen(Callback):
    """Keeps what it saw: an observer may."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self.last = ""

    @before("update")
    def first(self, state: Any) -> None:
        self.points.append("before")
        self.last = "before"

    @after("update")
    def second(self, state: Any) -> None:
        self.points.append("after")


@dataclass(frozen=True)
class Doubles(Callback):
    """Writes the loss."""

    factor: float = 2.0

    @after("loss", writes=("loss",))
    def double(self, loss: Any) -> Any:
        return loss * self.factor


def names(*callbacks: Any) -> list[str]:
    return [hook.name for hook in hooks_of(callbacks)]


def test_hooks_come_in_the_order_of_their_definition() -> None:
    assert names(Seen()) == ["Seen.first", "Seen.second"]
    assert [hook.point.side for hook in hooks_of([Seen()])] == ["before", "after"]


def test_decorated_method_is_a_method_as_any_other() -> None:
    seen = Seen()
    seen.first(None)
    assert seen.points == ["before"]
    assert Doubles(3.0).double(2) == 6


def test_decorated_function_is_a_callback_and_still_a_function() -> None:
    @after("update", reads=("loss",))
    def note(loss: Any) -> str:
        return f"loss {loss}"

    assert isinstance(note, HookMethod)
    assert note(3) == "loss 3"
    assert names(note) == ["note"]


def test_stacked_points_hook_one_function_to_each() -> None:
    class Both(Callback):
        """One method, two points."""

        @before("fit")
        @after("validate")
        def note(self, state: Any) -> None: ...

    points = [(hook.point.side, hook.point.target) for hook in hooks_of([Both()])]
    assert points == [("before", "fit"), ("after", "validate")]


def test_stacked_points_both_run() -> None:
    calls: list[int] = []

    @before("update")
    @after("update")
    def note(state: Any) -> None:
        calls.append(state.updates)

    toy_learner(callbacks=[note]).fit(batches=2)
    assert calls == [0, 1, 1, 2]


def test_two_objects_of_one_class_get_two_names() -> None:
    assert names(Doubles(), Doubles(3.0)) == ["Doubles.double", "Doubles_2.double"]


def test_same_object_twice_is_refused() -> None:
    twice = Doubles()
    with pytest.raises(DeclarationError, match=r"stands twice in callbacks=\. Give each its own object") as caught:
        hooks_of([twice, (twice,)])
    assert caught.value.owner == "Doubles"


def test_tuple_numbers_its_members() -> None:
    groups = [hook.group for hook in hooks_of([Seen(), (Doubles(), Doubles())])]
    assert groups == [None, None, (1, 0), (1, 1)]


def test_subclass_has_the_hooks_of_all_its_bases() -> None:
    class More(Seen, Doubles):
        """Adds one."""

        @before("fit")
        def third(self, state: Any) -> None: ...

    assert sorted(name for name, _ in More.hooks(object.__new__(More))) == ["double", "first", "second", "third"]


def test_overridden_method_stands_where_the_one_of_the_base_stood() -> None:
    class Quiet(Seen):
        """Another first, and no second."""

        second = None

        def first(self, state: Any) -> None:
            self.points.append("quiet")

    quiet = Quiet()
    toy_learner(callbacks=[quiet]).fit(batches=2)
    assert quiet.points == ["quiet", "quiet"]


def test_decorating_anew_moves_the_hook() -> None:
    class Moved(Seen):
        """Its first stands elsewhere."""

        @after("epoch")
        def first(self, state: Any) -> None: ...

    assert [hook.point.target for hook in hooks_of([Moved()])] == ["epoch", "update"]


@pytest.mark.parametrize("option", ["every", "first"])
def test_misread_count_names_its_hook(option: str) -> None:
    wrong: Any = {option: "3 steps"}
    with pytest.raises(DeclarationError, match="'3 steps' is no number of rounds") as caught:
        names(after("update", **wrong)(lambda state: None))
    assert caught.value.owner == "lambda"


def test_unknown_option_lists_the_known_ones() -> None:
    wrong: Any = {"evry": "2 batches"}
    with pytest.raises(DeclarationError, match=r"'evry' is no option of a hook\. It takes \['every', 'first'"):
        names(after("update", **wrong)(lambda state: None))


@pytest.mark.parametrize("option", ["runs_before", "runs_after"])
@pytest.mark.parametrize("given", ["Doubles", Doubles])
def test_order_without_the_comma_is_refused(option: str, given: Any) -> None:
    wrong: Any = {option: given}
    with pytest.raises(DeclarationError, match=rf"{option}='?Doubles'? is no tuple.*with the comma"):
        names(after("update", **wrong)(lambda loss: None))


@pytest.mark.parametrize("target", [Forward, Forward(), 3])
def test_target_is_text_or_a_phase_class(target: Any) -> None:
    with pytest.raises(DeclarationError, match=r"stands after .*neither text nor a class of phases\. Name a slot"):
        names(after(target)(lambda state: None))
    with pytest.raises(DeclarationError, match="stands within"):
        names(after("update", within=target)(lambda state: None))
    for phase in (Phase, TrainingPhase, EvaluationPhase):
        assert names(after(phase)(lambda state: None)) == ["lambda"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Doubles, r"got the class Doubles\. Give an object: Doubles\(\.\.\.\)"),
        (print, r"got <built-in function print>, which is no callback.*decorate a function with @after"),
        ("Doubles", r"got 'Doubles', which is no callback\. Derive from Callback"),
    ],
)
def test_what_is_no_callback_is_refused_with_the_way_out(given: Any, told: str) -> None:
    with pytest.raises(DeclarationError, match=told) as caught:
        hooks_of([given])
    assert caught.value.owner == "callbacks"


def test_hook_on_a_class_that_is_no_callback_is_refused() -> None:
    with pytest.raises((DeclarationError, RuntimeError)) as caught:  # Python 3.11 wraps what __set_name__ raises

        class Plain:
            """No callback."""

            @after("update")
            def note(self, state: Any) -> None: ...

    error = caught.value if isinstance(caught.value, DeclarationError) else caught.value.__cause__
    assert "note is a hook, but Plain is no Callback" in str(error)


def test_declaration_may_follow_from_the_settings() -> None:
    @dataclass(frozen=True)
    class Watch(Callback):
        """Reads the field of its setting."""

        of: str

        @after("batch", reads=lambda self: (self.of,))
        def look(self, state: Any) -> None: ...

    (hook,) = hooks_of([Watch("outputs")])
    assert hook.contract.access.reads == ("outputs",)
    assert not hook.observes


def test_callback_that_writes_is_frozen_once_bound() -> None:
    class Counts(Callback):
        """Keeps in itself what belongs into State."""

        def __init__(self) -> None:
            self.count = 0

        def fields(self) -> dict[str, Any]:
            return {"counted": (int, field(default=0))}

        @after("update", writes=("counted",))
        def more(self, counted: int) -> int:
            self.count += 1
            return counted + 1

    learner = toy_learner(callbacks=[Counts()])
    with pytest.raises(Misuse, match=r"Counts\.count cannot be set: Counts is bound to a Learner.*field of State") as c:
        learner.fit(batches=1)
    assert isinstance(c.value, StageError)


def test_observer_may_keep_what_it_likes() -> None:
    seen = Seen()
    toy_learner(callbacks=[seen]).fit(batches=2)
    assert seen.points == ["before", "after"] * 2
    assert seen.last == "before"


def test_callback_with_an_observer_and_a_writer_is_frozen() -> None:
    class Mixed(Callback):
        """One hook of each kind."""

        seen = 0

        @before("loss")
        def look(self, state: Any) -> None:
            self.seen += 1

        @after("loss", writes=("loss",))
        def change(self, loss: Any) -> Any:
            return loss

    with pytest.raises(Misuse, match=r"Mixed\.seen cannot be set"):
        toy_learner(callbacks=[Mixed()]).fit(batches=1)
