"""The table of fields, and one slot explained."""

from typing import Any

import pytest
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD

from stages import (
    AmbiguousSlot,
    Assembly,
    Backward,
    ClearGradients,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Train,
    UnknownSlot,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
    after,
    assemble,
)
from stages.callbacks import hooks_of
from stages.tables import explain, fields_table, format_fields, short_names
from state import field
from state.train_state import TrainState

BATCH = "train/epoch/fit/batch"


class NormState(TrainState):
    norm: Tensor = field(scope="batch", description="norm of the gradients")


@after("gradient")
def use_norm(norm: Tensor) -> None: ...


@after("gradient", writes=("norm",), reads=("model.grads",))
def measure(model: nn.Module) -> Any: ...


@after("gradient")
def watch(state: Any) -> None: ...


@pytest.fixture
def assembly() -> Assembly:
    root = Train(
        Epoch(
            Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), Gradient(Forward(), Loss(), Backward()), Update())),
            Validate(Fetch(), ValidateBatch(Unpack(), Forward(), ValidateLoss())),
        )
    )
    model = nn.Linear(2, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    state = NormState(model=model, optimizer=optimizer, loss_fn=F.mse_loss, train_loader=[], valid_loader=[])
    return assemble(root, hooks_of([watch, use_norm, measure]), NormState, state)


def test_field_rows_say_who_writes_and_reads(assembly: Assembly) -> None:
    row = {row.name: row for row in fields_table(assembly)}["norm"]
    assert (row.type, row.scope, row.saved) == ("Tensor", "batch", "volatile")
    assert row.written_by == (f"{BATCH}/gradient:after:measure",)
    assert row.read_by == (f"{BATCH}/gradient:after:use_norm",)
    assert row.description == "norm of the gradients"


def test_every_field_of_the_schema_has_a_row(assembly: Assembly) -> None:
    names = [row.name for row in fields_table(assembly)]
    assert [name for name in names if "." not in name] == list(assembly.schema.specs)


def test_declared_parts_follow_their_component(assembly: Assembly) -> None:
    names = [row.name for row in fields_table(assembly)]
    at = names.index("model")
    assert names[at : at + 3] == ["model", "model.grads", "model.params"]
    assert fields_table(assembly)[at + 1].scope == "batch"


def test_counters_are_written_by_their_loop(assembly: Assembly) -> None:
    row = {row.name: row for row in fields_table(assembly)}["samples_seen"]
    assert row.written_by == ("train/epoch/fit",)


def test_printed_table_is_aligned_and_fits_a_screen(assembly: Assembly) -> None:
    text = repr(fields_table(assembly))
    assert text == format_fields(fields_table(assembly))
    head, *rows = text.splitlines()
    assert head.split() == ["name", "type", "scope", "written", "by", "read", "by", "description"]
    assert max(map(len, text.splitlines())) <= 120
    column = head.index("scope")
    assert all(row[column - 1 : column] in ("", " ") for row in rows)


def test_empty_table_is_its_head() -> None:
    assert format_fields([]).split()[0] == "name"


def test_explanation_of_a_leaf_names_writers_and_readers(assembly: Assembly) -> None:
    told = explain(assembly, "gradient/loss").splitlines()
    assert told[0] == f"{BATCH}/gradient/loss  Loss"
    assert f"  reads outputs, written by {BATCH}/gradient/forward" in told
    assert "  reads loss_fn, which State was given" in told
    assert f"  writes loss, read by {BATCH}/gradient/backward" in told
    assert told[-1] == "  no hooks"


def test_explanation_of_a_composite_tells_what_passes_its_border(assembly: Assembly) -> None:
    told = explain(assembly, "gradient")
    assert f"reads inputs, written by {BATCH}/unpack" in told
    assert "outputs" not in told
    assert f"writes model.grads, read by {BATCH}/gradient:after:measure, {BATCH}/update" in told


def test_explanation_gives_hooks_in_order_with_the_reasons(assembly: Assembly) -> None:
    told = explain(assembly, "gradient").splitlines()
    at = told.index("  hooks after it, in this order:")
    assert [line.split(":")[0].strip() for line in told[at + 1 :]] == [
        "1. measure",
        "before use_norm",
        "2. use_norm",
        "3. watch",
    ]
    assert told[at + 2].endswith("it writes 'norm', which the other reads")
    assert told[-1].endswith("an observer")


def test_explanation_of_a_value_from_the_round_before(assembly: Assembly) -> None:
    assert f"reads updates, written by {BATCH}/update" in explain(assembly, "update")


def test_explanation_of_a_phase_tells_its_scopes(assembly: Assembly) -> None:
    assert explain(assembly, "fit").startswith("train/epoch/fit  Fit, opens 'phase', each round opens 'batch'")


def test_explanation_of_a_point(assembly: Assembly) -> None:
    assert "a point for hooks" in explain(assembly, "fit/checkpoint")


def test_unknown_slot_gets_the_nearest(assembly: Assembly) -> None:
    with pytest.raises(UnknownSlot, match="Did you mean 'gradient'") as caught:
        explain(assembly, "gradeint")
    assert caught.value.nearest == "gradient"


def test_slot_that_fits_several_places_is_refused(assembly: Assembly) -> None:
    with pytest.raises(AmbiguousSlot, match="fits 2 places") as caught:
        explain(assembly, "forward")
    assert len(caught.value.paths) == 2


SLOTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)
ACTORS = st.one_of(
    SLOTS, st.builds("{}:{}:{}".format, SLOTS, st.sampled_from(["before", "after"]), st.sampled_from("xy"))
)


@settings(deadline=None)
@given(st.lists(ACTORS, max_size=8))
def test_short_names_tell_all_apart(paths: list[str]) -> None:
    short = short_names(paths)
    assert set(short) == set(paths)
    assert len(set(short.values())) == len(set(paths))
