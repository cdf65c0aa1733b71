"""Drawings of a tree: as text and as Mermaid."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from stages import (
    Assembly,
    Callback,
    ClearGradients,
    Composite,
    Epoch,
    Fetch,
    Fit,
    FitBatch,
    Forward,
    Loss,
    Stage,
    Train,
    Unpack,
    after,
    assemble,
    before,
    stage,
)
from stages.callbacks import HookMethod, Point, hooks_of
from stages.draw import draw_mermaid, draw_tree
from state.train_state import TrainState


@dataclass(frozen=True)
class SharpnessAware(Stage):
    rho: float = 0.05
    steps: int = 1
    reads: ClassVar[tuple[str, ...]] = ("model", "model.grads", "loss_fn", "inputs", "targets")
    writes: ClassVar[tuple[str, ...]] = ("outputs", "loss", "model.grads")
    touches: ClassVar[tuple[str, ...]] = ("model.params", "model.buffers", "rng")
    inline: ClassVar[tuple[str, ...]] = ("forward",)

    def run(self, state: Any) -> None: ...


def tree(*stages: Any, **slots: Any) -> Train:
    return Train(Epoch(Fit(Fetch(), FitBatch(Unpack(), *stages, **slots))))


def build(root: Stage, *callbacks: Any) -> Assembly:
    model = nn.Linear(2, 2)
    state = TrainState(model=model, optimizer=SGD(model.parameters(), lr=0.1), loss_fn=F.mse_loss, train_loader=[])
    return assemble(root, hooks_of(callbacks), TrainState, state)


@after("loss", reads=("loss?",))
def note(outputs: Any, loss: Any = None) -> None: ...


@after("loss", every="100 batches")
def show(state: Any) -> None: ...


def test_tree_reads_as_it_runs() -> None:
    drawn = draw_tree(build(tree(Forward(), Loss()), note, show))
    assert (
        drawn
        == """\
train
  epoch
    fit                                             train_loader, *.hyper -> batches  ~ *.mode, rng
      fetch                                         batches, batch_index, device? -> batch  ~ rng
      batch  FitBatch
        unpack                                      batch -> inputs, targets
        forward                                     model, inputs -> outputs  ~ model.buffers, rng
        loss                                        loss_fn, outputs, targets -> loss  ~ rng
          after note                                loss?, outputs
          after show (observer, every 100 batches)
      (checkpoint)
  (checkpoint)"""
    )


def test_stage_with_settings_shows_those_that_are_not_the_default() -> None:
    drawn = draw_tree(build(tree(ClearGradients(), gradient=SharpnessAware(rho=0.1))))
    assert "gradient  SharpnessAware(rho=0.1)  " in drawn
    assert "steps" not in drawn


def test_stage_in_the_slot_of_its_name_is_not_repeated() -> None:
    drawn = draw_tree(build(tree(Forward())))
    assert "Forward" not in drawn


def test_function_stage_in_another_slot_is_named() -> None:
    @stage(writes=("loss",))
    def soft_loss(outputs: Any) -> Any: ...

    assert "loss  soft_loss  " in draw_tree(build(tree(Forward(), loss=soft_loss)))


def test_inline_stage_is_marked() -> None:
    drawn = draw_tree(build(tree(ClearGradients(), gradient=SharpnessAware())))
    assert "          forward (inline)" in drawn.splitlines()


def test_hooks_stand_inside_their_slot_marked_by_their_side() -> None:
    @before("loss")
    def early(outputs: Any) -> None: ...

    drawn = draw_tree(build(tree(Forward(), Loss()), note, early)).splitlines()
    at = next(i for i, line in enumerate(drawn) if line.startswith("        loss "))
    assert drawn[at + 1].startswith("          before early  ")
    assert drawn[at + 2].startswith("          after note  ")


def test_hook_on_a_point_of_the_round_stands_below_it() -> None:
    @before("fit/checkpoint")
    def save(state: Any) -> None: ...

    drawn = draw_tree(build(tree(Forward()), save)).splitlines()
    assert drawn[drawn.index("      (checkpoint)") + 1] == "        before save (observer)"


def test_phase_in_a_name_is_filled_in() -> None:
    class Marks(Callback):
        @after("fit", writes=("{phase}_loss",))
        def mark(self, train_loader: Any) -> float: ...

    assert "train_loader -> train_loss" in draw_tree(build(tree(Forward()), Marks()))


def test_lines_are_at_most_120_wide() -> None:
    many = tuple(f"{name}?" for name in TrainState.specs)

    @after("forward", reads=many)
    def greedy(state: Any) -> None: ...

    drawn = draw_tree(build(tree(ClearGradients(), Forward(), gradient=SharpnessAware()), greedy)).splitlines()
    assert max(map(len, drawn)) <= 120
    assert all(name.rstrip("?") in "".join(drawn) for name in many)


HOSTILE = ['"]; click n1 "javascript:alert(1)', "<script>", "end", "a\nb", "\x1b[31m", "`x`", "#quot;", "a]b)c}d|e"]


class Named(Stage):
    def __init__(self, text: str) -> None:
        self.text = text

    def run(self) -> None: ...

    def __repr__(self) -> str:
        return self.text


class Holding(Composite):
    pass


def hostile(texts: list[str]) -> Assembly:
    """A tree of stages whose text is `texts`, and a hook of that name on each."""

    def hook(self: Any, updates: int) -> None: ...

    class Hooked(Callback):
        def hooks(self) -> list[tuple[str, HookMethod]]:
            return [(text, HookMethod(hook, (Point("after", f"s{i}", {}),))) for i, text in enumerate(texts)]

    return build(Holding(**{f"s{i}": Named(text) for i, text in enumerate(texts)}), Hooked())


def test_hostile_names_stay_on_their_line_of_the_tree() -> None:
    drawn = draw_tree(hostile(HOSTILE))
    assert len(drawn.splitlines()) == 1 + 2 * len(HOSTILE)
    assert "\x1b" not in drawn


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1)), max_size=4, unique=True))
def test_mermaid_escapes_names(texts: list[str]) -> None:
    line = r"""flowchart TD|\s*(subgraph n\d+\["[^"<>&`]*"\]|n\d+\["[^"<>&`]*"\]|h\d+\("[^"<>&`]*"\)|end|\w+ --> \w+)"""
    assert all(re.fullmatch(line, row) for row in draw_mermaid(hostile(texts)).splitlines())


def test_mermaid_has_a_subgraph_for_each_composite_and_hooks_rounded() -> None:
    rows = [row.strip() for row in draw_mermaid(build(tree(Forward(), Loss()), note, show)).splitlines()]
    assert rows[0] == "flowchart TD"
    assert 'subgraph n0["train, each epoch"]' in rows
    assert rows.count("end") == sum(row.startswith("subgraph") for row in rows) == 4
    assert 'h0("after note")' in rows
    assert 'h1("after show #40;observer, every 100 batches#41;")' in rows


def test_mermaid_leads_from_sibling_to_sibling_and_to_observers_dotted() -> None:
    drawn = draw_mermaid(build(tree(Forward(), Loss()), note, show))
    number = {label: name for name, label in re.findall(r'([nh]\d+)[\[(]"(\w+(?: \w+)?)', drawn)}
    assert f"  {number['forward']} --> {number['loss']}" in drawn.splitlines()
    assert f"  {number['loss']} --> {number['after note']}" in drawn.splitlines()
    assert f"  {number['after note']} -.-> {number['after show']}" in drawn.splitlines()


def test_mermaid_leaves_out_points_that_nobody_hooks() -> None:
    assert "checkpoint" not in draw_mermaid(build(tree(Forward())))


def test_mermaid_of_hooks_on_the_root() -> None:
    def hook(updates: int) -> None: ...

    drawn = draw_mermaid(build(tree(Forward()), HookMethod(hook, (Point("before", "train", {}),))))
    assert "  h0 --> n0" in drawn.splitlines()
