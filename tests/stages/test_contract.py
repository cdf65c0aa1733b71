"""The contract of an actor: what its signature and its declaration come to, and which of them cannot be used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor, tensor

from learner.testing import run_stage
from stages import Composite, ContractBroken, DeclarationError, Outcome, Stage, stage
from stages.contract import Contract, contract_of, hook_contract
from stages.stage import as_stage
from state import State, TrainState, field


class NoisyState(TrainState):
    """Brings one field."""

    noise: Tensor = field(scope="batch")


def contract(function: Callable[..., Any], **declared: Any) -> Contract:
    return contract_of(as_stage(stage(**declared)(function)))


def hook(function: Callable[..., Any], **declared: Any) -> Contract:
    return hook_contract("hook", function, "after", declared, declared.pop("state", None), method=False)


def test_parameters_are_reads_and_come_after_the_declared_ones() -> None:
    def run(model: Any, inputs: Any) -> None: ...

    made = contract(run, reads=("model.grads",), writes=("outputs",), touches=("rng",))
    assert made.access.reads == ("model.grads", "model", "inputs")
    assert (made.access.writes, made.access.touches) == (("outputs",), ("rng",))
    assert not made.takes_view


def test_method_loses_its_self() -> None:
    class Square(Stage):
        """Takes one field."""

        def run(self, inputs: Any) -> None: ...

    assert contract_of(Square()).access.reads == ("inputs",)


def test_parameter_called_state_is_no_read_and_brings_its_class() -> None:
    def run(state: NoisyState) -> None: ...

    made = contract(run, reads=("noise",))
    assert made.access.reads == ("noise",)
    assert made.classes == (NoisyState,)
    assert made.takes_view


def test_view_may_stand_beside_values() -> None:
    def run(state: Any, inputs: Any) -> Any:
        return inputs + state.targets

    assert run_stage(stage(reads=("targets",), writes=("outputs",))(run), inputs=1, targets=2).outputs == 3


def test_parameter_with_default_none_is_an_optional_read() -> None:
    def run(inputs: Any, targets: Any = None) -> Any:
        return (inputs, targets)

    made = contract(run, writes=("outputs",))
    assert made.access.optional == frozenset({"targets"})
    assert run_stage(stage(writes=("outputs",))(run), inputs=1).outputs == (1, None)
    assert run_stage(stage(writes=("outputs",))(run), inputs=1, targets=2).outputs == (1, 2)


def test_question_mark_makes_a_declared_read_optional() -> None:
    def run(state: Any) -> None:
        state.outputs = state.targets

    made = stage(reads=("targets?",), writes=("outputs",))(run)
    assert run_stage(made).outputs is None
    assert contract_of(as_stage(made)).access.reads == ("targets",)


@pytest.mark.parametrize(
    ("returned", "got"), [(1, "int"), ((1,), "a tuple of 1"), ([1, 2], "list"), (None, "NoneType")]
)
def test_several_writes_want_a_tuple_of_that_length(returned: Any, got: str) -> None:
    @stage(writes=("inputs", "targets"))
    def split() -> Any:
        return returned

    with pytest.raises(
        ContractBroken, match=rf"writes \['inputs', 'targets'\] .* tuple of 2; it returned {got}"
    ) as caught:
        run_stage(split)
    assert caught.value.actor == "split"


def test_value_without_a_write_is_refused() -> None:
    @stage()
    def look(inputs: Any) -> Any:
        return inputs

    with pytest.raises(ContractBroken, match="returned int, but declares no field that it writes") as caught:
        run_stage(look, inputs=1)
    assert caught.value.actor == "look"


def test_promised_field_left_without_a_value_is_refused() -> None:
    @stage(writes=("outputs",))
    def forget(state: Any) -> None: ...

    with pytest.raises(ContractBroken, match="declares that it writes 'outputs' and ended without a value") as caught:
        run_stage(forget)
    assert caught.value.actor == "forget"


def test_stage_that_takes_the_view_may_return_values_too() -> None:
    @stage(reads=("inputs",), writes=("outputs",))
    def copy(state: Any) -> Any:
        return state.inputs

    assert run_stage(copy, inputs=1).outputs == 1


def test_composite_declares_without_a_run() -> None:
    class Reads(Composite):
        """Declares, and leaves run alone."""

        reads = ("loss",)
        writes = ("scratch",)

    made = contract_of(Reads())
    assert (made.access.reads, made.access.writes, made.parameters) == (("loss",), ("scratch",), ())


@pytest.mark.parametrize("form", ["*values", "**values"])
def test_starred_parameters_are_refused(form: str) -> None:
    run = eval(f"lambda {form}: None")
    with pytest.raises(DeclarationError, match=r"takes \*values\. Its parameters are the fields it reads") as caught:
        contract(run)
    assert caught.value.owner == "<lambda>"


@pytest.mark.parametrize(("form", "kind"), [("*, inputs", "keyword-only"), ("inputs, /", "positional-only")])
def test_parameters_of_one_way_only_are_refused(form: str, kind: str) -> None:
    with pytest.raises(DeclarationError, match=f"parameter 'inputs' is {kind}"):
        contract(eval(f"lambda {form}: None"))


def test_defaults_other_than_none_are_refused() -> None:
    def run(inputs: Any, rho: float = 0.05) -> None: ...

    with pytest.raises(DeclarationError, match=r"'rho' has the default 0\.05.*Settings belong into the constructor"):
        contract(run)


def test_stage_may_not_ask_how_it_will_end() -> None:
    def run(outcome: Any) -> None: ...

    with pytest.raises(DeclarationError, match=r"takes 'outcome', which is reserved\. Only a hook knows") as caught:
        contract(run)
    assert caught.value.owner == "run"


def test_annotation_as_text_is_looked_up_where_the_function_stands() -> None:
    def run(state: "NoisyState") -> None: ...

    assert contract(run).classes == (NoisyState,)


def test_annotation_that_is_nowhere_says_where_to_put_the_class() -> None:
    def run(state: "Elsewhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DeclarationError, match=r"annotation 'Elsewhere' of `state` cannot be found.*module level"):
        contract(run)


def test_class_given_by_state_stands_in_for_a_local_annotation() -> None:
    class Local(TrainState):
        """Not at module level."""

        extra: Tensor = field(scope="batch")

    def run(state: "Local") -> None:
        state.extra = tensor(1.0)

    assert contract(run, state=Local).classes == (Local,)
    assert run_stage(stage(state=Local, writes=("extra",))(run)).extra == 1


def test_local_class_works_where_the_annotation_is_no_text() -> None:
    class Local(TrainState):
        """Not at module level."""

        extra: Tensor = field(scope="batch")

    class Bring(Stage):
        """Writes its own field."""

        writes = ("extra",)

        def run(self, state: Local) -> None:
            state.extra = tensor(1.0)

    assert run_stage(Bring()).extra == 1


@pytest.mark.parametrize("annotation", [int, "int", Tensor, list[State]])
def test_annotation_that_is_no_state_class_is_refused(annotation: Any) -> None:
    def run(state: Any) -> None: ...

    run.__annotations__["state"] = annotation
    with pytest.raises(DeclarationError, match="which is no State class"):
        contract(run)


@pytest.mark.parametrize("annotation", [Any, object, "object"])
def test_any_object_brings_nothing(annotation: Any) -> None:
    def run(state: Any) -> None: ...

    run.__annotations__["state"] = annotation
    assert contract(run).classes == ()


def test_state_option_must_be_a_state_class() -> None:
    with pytest.raises(DeclarationError, match=r"state=3 is no State class"):
        contract(lambda: None, state=3)


@pytest.mark.parametrize("what", ["reads", "writes", "touches", "inline"])
def test_lone_string_is_refused_with_the_comma(what: str) -> None:
    class Slip(Stage):
        """Forgot the comma."""

        def run(self) -> None: ...

    setattr(Slip, what, ("loss"))
    with pytest.raises(DeclarationError, match=rf"{what} = 'loss' is a string\. Write {what} = \('loss',\)") as caught:
        contract_of(Slip())
    assert caught.value.owner == "Slip"
    setattr(Slip, what, ())


@pytest.mark.parametrize("what", ["reads", "writes", "touches", "inline"])
def test_lone_string_of_a_composite_is_refused_too(what: str) -> None:
    slip = type("Slip", (Composite,), {what: "loss"})
    with pytest.raises(DeclarationError, match=rf"{what} = 'loss' is a string"):
        contract_of(slip())


def test_declaration_holds_names_only() -> None:
    with pytest.raises(DeclarationError, match=r"reads holds 3, which is no field's name"):
        contract(lambda: None, reads=("loss", 3))


def test_builtin_without_a_signature_asks_for_a_def() -> None:
    with pytest.raises(DeclarationError, match=r"signature of .* cannot be read\. Wrap it in a def"):
        hook(iter)


def test_declaration_may_be_a_property_of_the_settings() -> None:
    @dataclass(frozen=True)
    class Copy(Stage):
        """Copies inputs to a field by name."""

        to: str = "outputs"

        @property
        def writes(self) -> tuple[str, ...]:  # type: ignore[override]
            return (self.to,)

        def run(self, inputs: Any) -> Any:
            return inputs

    assert run_stage(Copy("targets"), inputs=1).targets == 1


def test_stage_brings_fields_of_each_object() -> None:
    @dataclass(frozen=True)
    class Keep(Stage):
        """Writes a field called after its setting."""

        name: str

        @property
        def writes(self) -> tuple[str, ...]:  # type: ignore[override]
            return (self.name,)

        def fields(self) -> dict[str, Any]:
            return {self.name: (int, field(scope="batch"))}

        def run(self, inputs: int) -> int:
            return inputs

    frame = run_stage(Composite(one=Keep("first"), two=Keep("second")), inputs=1)
    assert (frame.first, frame.second) == (1, 1)


def test_only_a_bare_state_makes_an_observer() -> None:
    assert hook(lambda state: None).access.observer
    assert hook(lambda state, outcome: None).access.observer
    assert hook(lambda state: None, state=NoisyState).access.observer
    assert not hook(lambda state: None, reads=("loss",)).access.observer
    assert not hook(lambda loss: None).access.observer
    assert not hook(lambda state, loss: None).access.observer
    assert not hook(lambda outcome: None).access.observer


def test_observer_keeps_the_class_it_is_annotated_with() -> None:
    def look(state: NoisyState, outcome: Outcome) -> None: ...

    assert hook(look).classes == (NoisyState,)


def test_contract_knows_where_the_code_stands() -> None:
    def run() -> None: ...

    assert contract(run).source.endswith(f"test_contract.py:{run.__code__.co_firstlineno}")
    assert contract_of(Composite()).source.startswith("Composite.run ")


@pytest.mark.parametrize("declare", [contract, hook])
def test_generators_are_touched_and_not_written(declare: Callable[..., Any]) -> None:
    def draw(model: Any) -> None: ...

    with pytest.raises(DeclarationError, match=r"writes 'rng', which is no field\. What draws .* touches it"):
        declare(draw, writes=("rng",))
    assert declare(draw, touches=("rng",)).access.touches == ("rng",)
