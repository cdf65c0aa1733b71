"""Calling: what a function returns is written, and what it may leave unwritten is left."""

from typing import Any

import pytest
from torch import tensor

from learner.testing import run_stage
from stages import DeclarationError, stage
from stages.contract import contract_of
from stages.stage import as_stage


@pytest.mark.parametrize("given", [None, 1])
def test_field_that_is_marked_may_be_left_without_a_value(given: Any) -> None:
    @stage(writes=("outputs?",))
    def returns() -> Any:
        return given

    @stage(writes=("outputs", "loss?"))
    def two() -> Any:
        return 1, given and tensor(1.0)

    @stage(writes=("outputs?",))
    def sets(state: Any) -> None:
        if given:
            state.outputs = given

    assert [run_stage(one).get("outputs") for one in (returns, sets)] == [given, given]
    assert ("loss" in run_stage(two)) == (given is not None)


def test_part_cannot_be_marked_as_a_write_that_there_may_be() -> None:
    with pytest.raises(
        DeclarationError, match=r"writes 'model.params\?'. Only a field is marked so; of a part write 'model.p"
    ):
        contract_of(as_stage(stage(writes=("model.params?",))(lambda model: None)))
