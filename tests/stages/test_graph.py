"""The graph of a tree, and who feeds whom in it."""

from typing import Any, ClassVar

import networkx
import pytest
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD

from stages import (
    Assembly,
    Backward,
    Callback,
    ClearGradients,
    Composite,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Gradient,
    Loss,
    Stage,
    Train,
    TrainingPhase,
    Unpack,
    Update,
    Validate,
    ValidateBatch,
    ValidateLoss,
    after,
    assemble,
    before,
    stage,
)
from stages.callbacks import HookMethod, Point, hooks_of
from stages.graph import Flow, flow, graph_of
from state import State, field
from state.train_state import TrainState

BATCH = "train/epoch/fit/batch"


class NormState(TrainState):
    norm: Tensor = field(scope="batch", description="norm of the gradients")


def tree() -> Train:
    return Train(
        Epoch(
            Fit(Fetch(), FitBatch(Unpack(), ClearGradients(), Gradient(Forward(), Loss(), Backward()), Update())),
            Validate(Fetch(), ValidateBatch(Unpack(), Forward(), ValidateLoss())),
        )
    )


def build(root: Stage, *callbacks: Any) -> Assembly:
    model = nn.Linear(2, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    state = NormState(model=model, optimizer=optimizer, loss_fn=F.mse_loss, train_loader=[], valid_loader=[])
    return assemble(root, hooks_of(callbacks), NormState, state)


def edges(graph: Any, kind: str) -> set[tuple[str, str]]:
    return {(first, second) for first, second, found in graph.edges(data="kind") if found == kind}


@after("gradient", writes=("norm", "model.grads"))
def clip(model: nn.Module) -> Any: ...


@before("gradient", within=TrainingPhase)
def early(inputs: Any) -> None: ...


@after("gradient", every="2 batches")
def watch(state: Any) -> None: ...


def test_nodes_are_slots_hooks_fields_and_parts_with_their_kind() -> None:
    graph = graph_of(build(tree(), clip))
    kinds = dict(graph.nodes(data="kind"))
    assert kinds["train"] == "composite"
    assert kinds[f"{BATCH}/unpack"] == "stage"
    assert kinds["train/epoch/fit/checkpoint"] == "checkpoint"
    assert kinds[f"{BATCH}/gradient:after:clip"] == "hook"
    assert kinds["state:loss"] == "field"
    assert kinds["state:model.grads"] == "part"
    assert graph.nodes["state:loss"]["scope"] == "batch"
    assert graph.nodes["state:loss"]["type"] == "Tensor"
    assert all("label" in facts for _, facts in graph.nodes(data=True))


def test_hook_nodes_tell_side_observer_and_thinning() -> None:
    nodes = graph_of(build(tree(), watch)).nodes
    facts = nodes[f"{BATCH}/gradient:after:watch"]
    assert (facts["side"], facts["observer"], facts["thinned"], facts["label"]) == ("after", True, True, "watch")


def test_inline_stage_is_a_node_below_its_owner() -> None:
    class Closed(Stage):
        reads: ClassVar[tuple[str, ...]] = ("inputs",)
        inline: ClassVar[tuple[str, ...]] = ("forward",)
        writes: ClassVar[tuple[str, ...]] = ("loss",)

        def run(self, state: Any) -> None: ...

    graph = graph_of(build(tree().swap("gradient", Closed())))
    assert graph.nodes[f"{BATCH}/gradient/forward"]["kind"] == "inline"
    assert (f"{BATCH}/gradient", f"{BATCH}/gradient/forward") in edges(graph, "contains")


def test_parent_contains_its_stages_and_the_hooks_on_them() -> None:
    contains = edges(graph_of(build(tree(), clip)), "contains")
    assert (BATCH, f"{BATCH}/gradient") in contains
    assert (BATCH, f"{BATCH}/gradient:after:clip") in contains
    assert ("state:model", "state:model.grads") in contains


def test_then_leads_through_hooks_in_running_order() -> None:
    then = edges(graph_of(build(tree(), watch, clip, early)), "then")
    gradient = f"{BATCH}/gradient"
    line = [f"{BATCH}/clear_gradients", f"{gradient}:before:early", gradient]
    line += [f"{gradient}:after:clip", f"{gradient}:after:watch", f"{BATCH}/update"]
    assert set(zip(line, line[1:], strict=False)) <= then


def test_hooks_of_the_root_are_in_line_with_it() -> None:
    @after("train")
    def done(updates: int) -> None: ...

    assert ("train", "train:after:done") in edges(graph_of(build(tree(), done)), "then")


def test_reads_go_from_field_to_actor_and_writes_from_actor_to_field() -> None:
    graph = graph_of(build(tree(), clip))
    assert ("state:inputs", f"{BATCH}/gradient/forward") in edges(graph, "reads")
    assert (f"{BATCH}/gradient/forward", "state:outputs") in edges(graph, "writes")
    assert (f"{BATCH}/gradient:after:clip", "state:norm") in edges(graph, "writes")
    assert ("train/epoch/fit", "state:batch_index") in edges(graph, "writes")


def test_observer_has_no_reads_edges() -> None:
    graph = graph_of(build(tree(), watch))
    assert not [edge for edge in edges(graph, "reads") if edge[1].endswith("watch")]


def test_name_below_a_part_hangs_on_that_part() -> None:
    @after("update", writes=("optimizer.hyper.lr",))
    def decay(optimizer: Any) -> None: ...

    contains = edges(graph_of(build(tree(), decay)), "contains")
    assert ("state:optimizer.hyper", "state:optimizer.hyper.lr") in contains


def test_slot_called_like_a_field_is_another_node() -> None:
    graph = graph_of(build(Loss()))
    assert graph.nodes["loss"]["kind"] == "stage"
    assert graph.nodes["state:loss"]["kind"] == "field"


NESTED = st.recursive(st.just(None), lambda inner: st.lists(inner, max_size=4), max_leaves=15)


@settings(deadline=None)
@given(NESTED, st.lists(st.sampled_from(["before", "after"]), max_size=4))
def test_contains_and_then_form_no_cycle(shape: Any, sides: list[Any]) -> None:
    class Leaf(Stage):
        def run(self) -> None: ...

    class Group(Composite):
        pass

    def grow(shape: Any) -> Stage:
        return Leaf() if shape is None else Group(**{f"s{i}": grow(inner) for i, inner in enumerate(shape)})

    def hook(updates: int) -> None: ...

    hooks = [HookMethod(hook, (Point(side, "s*", {}),)) for side in sides]
    graph = graph_of(build(Group(s0=grow(shape)), *hooks))
    structure = networkx.MultiDiGraph(edges(graph, "contains") | edges(graph, "then"))
    assert networkx.is_directed_acyclic_graph(structure)


def test_flow_leads_from_the_last_writer_before_the_reader() -> None:
    flows = flow(build(tree(), clip))
    assert Flow("inputs", f"{BATCH}/unpack", f"{BATCH}/gradient/forward") in flows
    assert [each.writer for each in flows if each.name == "model.grads" and each.reader == f"{BATCH}/update"] == [
        f"{BATCH}/gradient:after:clip"
    ]


def test_flow_does_not_leave_its_scope() -> None:
    flows = flow(build(tree()))
    assert not [
        each for each in flows if each.name == "outputs" and "validate" in each.reader and "/fit/" in each.writer
    ]
    readers = {each.reader for each in flows if each.writer == "train/epoch/validate/batch/forward"}
    assert readers == {"train/epoch/validate/batch/validate_loss"}


def test_value_that_outlives_a_round_flows_into_the_next() -> None:
    flows = flow(build(tree()))
    assert Flow("model.params", f"{BATCH}/update", f"{BATCH}/gradient/forward") in flows
    assert Flow("model.params", f"{BATCH}/update", "train/epoch/validate/batch/forward") in flows


def test_value_of_a_round_does_not_flow_into_the_next() -> None:
    @stage()
    def peek(norm: Any = None) -> None: ...

    flows = flow(build(tree().insert(peek, before="clear_gradients"), clip))
    assert not [each for each in flows if each.reader.endswith("peek")]


def test_value_of_a_phase_flows_from_batch_to_batch_and_not_into_the_next_phase() -> None:
    class Carrying(State):
        hidden: int = field(scope="phase", default=0)

    @stage(state=Carrying, writes=("hidden",))
    def carry(hidden: int) -> int:
        return hidden

    flows = [each for each in flow(build(tree().insert(carry, before="update").insert(carry, after="validate/fetch")))]
    carried = {(each.writer, each.reader) for each in flows if each.name == "hidden"}
    fit, validate = f"{BATCH}/carry", "train/epoch/validate/carry"
    assert carried == {(fit, fit), (validate, validate)}


def test_flow_of_a_hook_at_the_end_of_the_round_goes_to_the_next_round() -> None:
    @before("fit/checkpoint", writes=("updates",))
    def reset(updates: int) -> int: ...

    flows = flow(build(tree(), reset))
    assert Flow("updates", "train/epoch/fit/checkpoint:before:reset", f"{BATCH}/update") in flows


def test_counters_flow_from_the_loop() -> None:
    assert Flow("batch_index", "train/epoch/fit", "train/epoch/fit/fetch") in flow(build(tree()))


@pytest.mark.slow
def test_graph_of_a_thousand_stages_has_all_of_them() -> None:
    class Leaf(Stage):
        def __init__(self, number: int) -> None:
            self.number = number

        @property
        def writes(self) -> tuple[str, ...]:  # type: ignore[override]
            return (f"f{self.number}",)

        def run(self, state: Any) -> None: ...

    class Group(Composite):
        def fields(self) -> dict[str, Any]:
            return {f"f{number}": (int, field(default=0)) for number in range(1000)}

    class Watching(Callback):
        def hooks(self) -> list[tuple[str, HookMethod]]:
            points = [Point("after", f"s{number // 3}", {"reads": (f"f{number // 3}",)}) for number in range(3000)]
            return [(f"h{i}", HookMethod(lambda self, state: None, (point,))) for i, point in enumerate(points)]

    assembly = build(Group(**{f"s{number}": Leaf(number) for number in range(1000)}), Watching())
    hooks = [name for name, kind in graph_of(assembly).nodes(data="kind") if kind == "hook"]
    assert len(hooks) == 3000 and len(flow(assembly)) == 3000
