"""The view of a stage: what it may do beside reading and writing, where its `run` takes `state`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stages.errors import Misuse
from stages.limit import TOTALS
from stages.round import Round
from stages.stage import Stage
from state.access import View
from state.errors import AccessDenied, nearest, suggestion
from state.fields import MISSING

if TYPE_CHECKING:
    from stages.node import Node


class StageView(View):
    """The view of a stage: it may open rounds, enter inline stages and run the stages it holds."""

    __slots__ = ("_run_children",)  # of the node, set by it

    def round(self) -> Round:
        """One round of the loop: opens its scope, takes its Cancel, counts it."""
        node: Any = self._owner.holder
        if node.round is None:
            raise Misuse(
                f"{node.path} calls round() but has no `each`. Give its class each = 'batch', or a scope of its own."
            )
        made: Round = node.round
        return made

    def round_number(self, unit: str) -> int:
        """The number in the run, from 1, of the round we are in: of "batches", "updates" or "epochs"."""
        if unit not in TOTALS:
            near = suggestion(nearest(unit, TOTALS))
            raise Misuse(f"{self._owner.path} calls round_number({unit!r}). There are {sorted(TOTALS)}.{near}")
        number: int = self._owner.runner.number_of(unit)
        return number

    def iterate(self, loader: Any) -> Iterator[Any]:
        """`iter(loader)` for the pass of a phase; where a run is resumed, what was left of it."""
        found: Iterator[Any] = self._owner.runner.iterate(self._owner.holder, loader)
        return found

    def goes_on(self) -> bool:
        """Whether a run is resumed between two rounds of this loop; then the fields have what they had there."""
        runner, node = self._owner.runner, self._owner.holder
        return runner.resumption is not None and runner.resumption.goes_on(node)

    def end_after_round(self) -> None:
        """Let the loop that this stage stands in end with its round, as when its loader is exhausted."""
        round: Round | None = self._owner.runner.round
        if round is None:
            raise Misuse(f"{self._owner.path} calls end_after_round() outside of any loop. Put it into one.")
        round.is_last = True

    def take_back(self, *names: str) -> None:
        """Leave fields that this stage writes without a value, as where it has not come to write them."""
        owner: Any = self._owner
        for name in names:
            field = owner.names.get(name, name)
            if field not in owner.access.field_writes:
                raise AccessDenied(owner.path, name, "write", owner.access.writes, f"Add {name!r} to its writes.")
            is_there = self._values.pop(field, MISSING) is not MISSING
            slot = owner.slot("write", field, "taken back") if is_there else None
            if slot is not None:
                owner.runner.recording.mark(slot, None)

    def stage(self, name: str) -> "InlineEntry":
        """Enter the inline stage `name`: what is written inside is written by it."""
        owner: Any = self._owner.holder
        node = owner.children.get(name)
        if node is None or name not in owner.place.contract.inline:
            told = f"It lists inline={list(owner.place.contract.inline)}; add {name!r} there."
            raise Misuse(f"{owner.path} enters the inline stage {name!r}, which it does not list. {told}")
        return InlineEntry(self, node)

    def _run_child(self, stage: Stage) -> None:
        self._owner.holder.run_child(stage)


class InlineEntry:
    """`with state.stage(name)`: the view stays, the actor moves."""

    def __init__(self, view: StageView, node: "Node") -> None:
        self.view = view
        self.node = node

    def __enter__(self) -> None:
        self.outer = self.view._owner
        self.node.holder.settle()
        try:
            self.node.begin()
        except BaseException as error:
            self.node.end(error)
            raise  # the block cannot be skipped alone: a Skip ends the stage that it is part of
        object.__setattr__(self.view, "_owner", self.node)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        object.__setattr__(self.view, "_owner", self.outer)
        if error is None:
            try:
                self.node.settle()
            except BaseException as raised:
                error = raised
        self.node.end(error)
