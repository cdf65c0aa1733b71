"""Errors of `stages`: one base, attributes that carry the facts, messages in plain ASCII."""

import pytest

from stages import errors
from stages.errors import (
    AmbiguousSlot,
    BatchError,
    ContractBroken,
    DeclarationError,
    GraphError,
    LimitError,
    Misuse,
    StageError,
    UnknownSlot,
)
from stages.finding import Finding

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, StageError)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_stands_in_the_tree_of_the_module_docstring(error: type[StageError]) -> None:
    assert errors.__doc__ is not None and error.__name__ in errors.__doc__
    assert error.__doc__
    assert not issubclass(error, KeyError | AttributeError)


def test_errors_of_values_and_types_are_caught_by_the_builtin_too() -> None:
    assert issubclass(LimitError, ValueError) and issubclass(BatchError, ValueError)
    assert issubclass(DeclarationError, TypeError)


def test_declaration_error_names_its_owner() -> None:
    error = DeclarationError("Scale", "takes *args.")
    assert (str(error), error.owner) == ("Scale: takes *args.", "Scale")


def test_unknown_slot_lists_the_slots_and_offers_the_nearest() -> None:
    error = UnknownSlot("fit/bach", ["train", "train/fit", "train/fit/batch"])
    assert str(error) == (
        "No place is called 'fit/bach'; the tree has the slots ['batch', 'fit', 'train']. Did you mean 'fit/batch'?"
    )
    assert (error.slot, error.nearest) == ("fit/bach", "fit/batch")


def test_unknown_slot_names_who_asked_and_offers_nothing_far() -> None:
    error = UnknownSlot("zzz", ["train"], "Clip.clip")
    assert str(error) == "Clip.clip asks for 'zzz', but the tree has the slots ['train']."
    assert error.nearest is None


def test_ambiguous_slot_lists_the_places() -> None:
    error = AmbiguousSlot("batch", ["fit/batch", "validate/batch"])
    assert str(error) == ("'batch' fits 2 places. Name one by more of its path:\n  fit/batch\n  validate/batch")
    assert error.paths == ("fit/batch", "validate/batch")


@pytest.mark.parametrize(("count", "told"), [(1, "1 finding:"), (2, "2 findings:")])
def test_graph_error_tells_all_findings(count: int, told: str) -> None:
    findings = [Finding("error", "cycle", ("a",), f"message {number}") for number in range(count)]
    error = GraphError(findings)
    assert error.findings == tuple(findings)
    assert str(error).splitlines() == [f"The tree cannot run, {told}", *(f"- {each.message}" for each in findings)]


def test_contract_broken_names_the_actor() -> None:
    error = ContractBroken("fit/batch/loss", "returned nothing.")
    assert (error.actor, str(error)) == ("fit/batch/loss", "fit/batch/loss returned nothing.")


def test_misuse_is_caught_with_all_of_the_package() -> None:
    with pytest.raises(StageError, match="not here") as caught:
        raise Misuse("not here")
    assert type(caught.value) is Misuse
