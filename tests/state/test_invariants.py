"""Rules between fields: when they run, what a refusal leaves, and how they are inherited."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from state import InvalidValue, SchemaError, State, field, invariant


class Counted(State):
    updates: int = 0
    batches: int = 0
    loss: Tensor = field(scope="batch")

    @invariant("updates", "batches")
    def updates_follow_batches(self) -> None:
        """No update without a batch."""
        assert self.updates <= self.batches, "an update needs a batch"

    @invariant("loss", "updates")
    def loss_is_scalar(self) -> bool:
        return self.loss.ndim == 0


def test_a_refused_write_restores_the_old_value() -> None:
    state = Counted(batches=2)
    state.updates = 2
    with pytest.raises(InvalidValue, match=r"Counted.updates_follow_batches \(updates=3, batches=2\)") as caught:
        state.updates = 3
    assert "an update needs a batch" in str(caught.value)
    assert str(caught.value).endswith("The old value stays.")
    assert (caught.value.field, caught.value.value) == ("updates", 3)
    assert state.updates == 2
    with pytest.raises(InvalidValue, match="updates_follow_batches") as caught:
        state.batches = 1
    assert caught.value.field == "batches"
    assert state.batches == 2


def test_a_refused_first_write_leaves_the_field_without_a_value() -> None:
    state = Counted()
    with pytest.raises(InvalidValue, match="Counted.loss_is_scalar") as caught:
        state.loss = torch.ones(2)
    assert caught.value.field == "loss"
    assert not state.ready("loss")
    state.loss = torch.tensor(1.0)
    with pytest.raises(InvalidValue, match="loss_is_scalar") as caught:
        state.loss = torch.ones(2)
    assert torch.equal(state.loss, torch.tensor(1.0))


def test_an_invariant_waits_until_all_its_fields_are_ready() -> None:
    calls: list[str] = []

    class Waiting(State):
        one: int = field(scope="batch")
        two: int = field(scope="batch")

        @invariant("one", "two")
        def rule(self) -> None:
            calls.append("rule")

    state = Waiting()
    state.one = 1
    assert calls == []
    state.two = 2
    assert calls == ["rule"]


def test_invariants_hold_at_construction_and_are_inherited() -> None:
    class More(Counted):
        samples: int = 0

        @invariant("samples", "batches")
        def samples_cover_batches(self) -> None:
            if self.samples < self.batches:
                raise ValueError("empty batches")

    with pytest.raises(InvalidValue, match="More may not set 'updates' to 1") as caught:
        More(updates=1)
    assert caught.value.actor == "More"
    with pytest.raises(InvalidValue, match="More.samples_cover_batches.*empty batches") as caught:
        More(batches=1)
    assert caught.value.field == "samples"
    state = More(samples=4, batches=2)
    with pytest.raises(InvalidValue, match="Counted.updates_follow_batches") as caught:
        state.updates = 3
    assert state.updates == 0


def test_a_subclass_may_state_a_rule_anew() -> None:
    class Free(Counted):
        @invariant("updates")
        def updates_follow_batches(self) -> None:
            assert self.updates < 10, "too many"

    state = Free(updates=9)
    with pytest.raises(InvalidValue, match="Free.updates_follow_batches.*too many") as caught:
        state.updates = 10
    assert caught.value.field == "updates"


def test_another_error_in_a_rule_comes_through_and_restores_too() -> None:
    class Broken(State):
        value: int = 0

        @invariant("value")
        def rule(self) -> None:
            if self.value:
                raise KeyError("broken rule")

    state = Broken()
    with pytest.raises(KeyError, match="broken rule"):
        state.value = 1
    assert state.value == 0


def test_an_invariant_about_no_field_is_refused() -> None:
    with pytest.raises(SchemaError, match="An invariant names the fields that it is about"):
        invariant(lambda state: None)  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="An invariant names the fields"):
        invariant()


def test_a_rule_keeps_its_docstring() -> None:
    assert Counted.updates_follow_batches.__doc__ == "No update without a batch."
