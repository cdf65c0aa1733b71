"""What an author says of a stage or hook, and what is refused at once because it cannot mean anything."""

from typing import Any, ClassVar

import pytest
import torch

from learner import Callback, GraphError, Stage, after, supervised
from learner.testing import toy_learner
from stages import Chain, Composite, DeclarationError, Forward, Microbatches, Repeat, Unpack, stage
from stages.declared import flag_in, names_in, scope_in, whole_in


def test_names_come_as_a_tuple_from_whatever_lists_them() -> None:
    assert names_in("Forward", "reads", ["loss", "model.grads"]) == ("loss", "model.grads")
    assert names_in("Forward", "reads", iter(())) == ()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("loss", r"reads = 'loss' is a string. Write reads = \('loss',\), with the comma"),
        (3, r"reads = 3 is no tuple of names. Name fields or parts: reads = \('loss', 'model.grads'\), say"),
        (None, "reads = None is no tuple of names"),
        (("loss", 3), "reads holds 3, which is no field's name"),
        ((torch.ones(2),), r"reads holds float32\[2\], which is no field's name"),
    ],
)
def test_what_is_no_name_is_refused(given: Any, match: str) -> None:
    with pytest.raises(DeclarationError, match=f"^Forward: {match}") as caught:
        names_in("Forward", "reads", given)
    assert caught.value.owner == "Forward"


@pytest.mark.parametrize("given", [3, "", "two words", Forward(), ("batch",)])
def test_scope_is_called_as_a_variable_is(given: Any) -> None:
    with pytest.raises(DeclarationError, match=r"^Repeat: got each=.*no slot can be called 'each'"):
        scope_in("Repeat", "each", given)


def test_run_is_no_scope_that_a_stage_opens() -> None:
    assert scope_in("Repeat", "each", "inner") == "inner" and scope_in("Repeat", "each", None) is None
    with pytest.raises(DeclarationError, match="each='run'. The run is open from its beginning to its end"):
        scope_in("Repeat", "each", "run")


@pytest.mark.parametrize("given", ["yes", 1, None, Forward()])
def test_flag_is_true_or_false(given: Any) -> None:
    with pytest.raises(DeclarationError, match=r"^Chain: got unsafe=.* It is True or False; no slot can be called"):
        flag_in("Chain", "unsafe", given)


@pytest.mark.parametrize("given", [0, -1, True, 1.5, "3", None, Forward(), Forward, torch.tensor(2)])
def test_number_of_a_control_stage_is_whole_and_positive(given: Any) -> None:
    assert whole_in("Repeat", 3) == 3
    with pytest.raises(DeclarationError, match=r"^Repeat: got .* Repeat\(4, ...\) wants a positive whole number first"):
        whole_in("Repeat", given)


@pytest.mark.parametrize(
    "settings",
    [{"each": 3}, {"each": "run"}, {"opens": Forward()}, {"forbids": 3}, {"forbids": (3,)}, {"unsafe": "yes"}],
    ids=str,
)
def test_setting_of_a_composite_is_refused_where_it_is_made(settings: dict[str, Any]) -> None:
    for make in (lambda: Composite(Forward(), **settings), lambda: Repeat(2, Forward(), **settings)):
        with pytest.raises(DeclarationError, match=next(iter(settings))):
            make()


class BadScope(Stage):
    opens = 3  # type: ignore[assignment]

    def run(self, loss: Any) -> None: ...


class BadRounds(Composite):
    each = "two words"


class BadForbids(Composite):
    forbids = "model.params"  # type: ignore[assignment]


class BadReads(Stage):
    reads = 3  # type: ignore[assignment]

    def run(self) -> None: ...


class BadUnsafe(Stage):
    unsafe = "yes"  # type: ignore[assignment]

    def run(self) -> None: ...


@pytest.mark.parametrize("made", [BadScope(), BadRounds(), BadForbids(), BadReads(), BadUnsafe()], ids=repr)
def test_attribute_of_a_class_is_refused_when_it_is_bound(made: Stage) -> None:
    learner = toy_learner()
    with pytest.raises(DeclarationError, match=f"^{type(made).__name__}: "):
        learner.insert(made, after="gradient")


async def awaited(state: Any) -> None: ...


async def awaited_twice(state: Any) -> Any:
    yield


@stage()
async def awaited_stage(loss: Any) -> None: ...


@pytest.mark.parametrize("side", ["before", "around", "after"])
@pytest.mark.parametrize("function", [awaited, awaited_twice])
def test_hook_that_would_have_to_be_awaited_is_refused(function: Any, side: str) -> None:
    with pytest.raises(DeclarationError, match="is async, and nobody would await it"):
        getattr(toy_learner(), side)("update")(function)


def test_stage_that_would_have_to_be_awaited_is_refused() -> None:
    with pytest.raises(DeclarationError, match="^awaited_stage: is async"):
        toy_learner().insert(awaited_stage, after="gradient")


@pytest.mark.parametrize("when", [3, "updates > 3", True])
def test_when_of_a_hook_is_a_function(when: Any) -> None:
    with pytest.raises(DeclarationError, match=r"^note: when=.* cannot be called. It wants a function of the state"):

        @toy_learner().after("update", when=when)
        def note(state: Any) -> None: ...


def test_generator_as_a_stage_is_refused() -> None:
    @stage(writes=("loss",))
    def halved(loss: Any) -> Any:
        yield loss / 2

    class Halve(Stage):
        writes = ("loss",)

        def run(self, loss: Any) -> Any:
            yield loss / 2

    for made in (halved, Halve()):
        with pytest.raises(DeclarationError, match="has a `yield`, so calling it would run nothing"):
            toy_learner().insert(made, after="gradient")


@pytest.mark.parametrize("given", [3, None, "model", Forward(), Callback(), iter([]), int])
@pytest.mark.parametrize("side", ["before", "around", "after"])
def test_what_is_no_function_is_no_hook(given: Any, side: str) -> None:
    with pytest.raises(DeclarationError):
        getattr(toy_learner(), side)("update")(given)


def test_hook_whose_declaration_is_a_function_is_asked_once_it_is_bound() -> None:
    class Odd(Callback):
        @after("update", reads=lambda self: "loss")
        def look(self, state: Any) -> None: ...

    with pytest.raises(DeclarationError, match=r"reads = 'loss' is a string"):
        toy_learner(callbacks=[Odd()])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"split": "inputs"}, "split = 'inputs' is a string"),
        ({"split": 3}, "split = 3 is no tuple"),
        ({"split": ()}, r"split=\(\) cuts nothing"),
        ({"join": "outputs"}, "join = 'outputs' is a string"),
        ({"join": None}, "join = None is no tuple"),
        ({"join": (Unpack(),)}, "join holds Unpack"),
    ],
    ids=str,
)
def test_fields_that_are_cut_and_joined_come_as_a_tuple(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(DeclarationError, match=match):
        Microbatches(2, Forward(), **settings)


def test_setting_that_says_nothing_is_the_default() -> None:
    made = Chain(Forward(), forbids=(), each=None, opens=None, unsafe=False)
    assert (made.forbids, made.each, made.opens, made.unsafe) == ((), None, None, False)
    assert vars(made).keys() == {"stages"}


@pytest.mark.parametrize("which", ["reads", "writes", "touches", "restores", "spoils"])
def test_part_that_no_component_has_is_refused_with_the_nearest(which: str) -> None:
    class Slip(Stage):
        def run(self, model: Any) -> None: ...

    setattr(Slip, which, ("*.bufers",))
    told = rf"^Slip: {which} names '\*.bufers', a part that no component has. Did you mean '\*.buffers'\?"
    with pytest.raises(DeclarationError, match=told):
        toy_learner(stages=supervised().insert(Slip(), before="gradient"))


def test_spoilt_parts_may_be_those_of_every_component_and_want_one_that_there_is() -> None:
    class Scale(Stage):
        touches = ("*.grads",)
        spoils: ClassVar[tuple[str, ...]] = ("*.grads",)

        def run(self, loss: Any) -> None: ...

    tree = supervised().insert(Scale(), after="gradient")
    with pytest.raises(GraphError, match=r"reads 'model.grads'.*scale"):
        toy_learner(stages=tree)
    Scale.spoils = ("modle.grads",)
    with pytest.raises(GraphError, match=r"declares 'modle.grads'.* Did you mean 'model.grads'\?"):
        toy_learner(stages=tree)


def test_part_that_no_component_has_is_refused_of_a_hook_too() -> None:
    @after("update", touches=("*.lr",))
    def slip(model: Any) -> None: ...

    with pytest.raises(DeclarationError, match=r"There are \*.params, \*.grads, .*, \*.hyper"):
        toy_learner(callbacks=[slip])
