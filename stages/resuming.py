"""Resuming: where a run stands between two rounds of a loop, and how it goes on from there."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stages.cancel import Cancel
from stages.check import actors
from stages.control import Window
from stages.phases import Phase
from stages.place import Place
from stages.stage import Composite
from stages.standing import Standing
from stages.supervised import Train
from state.fields import FieldSpec

if TYPE_CHECKING:
    from stages.node import Node

GOES_ON = (Composite.run, Train.run, Phase.run, Window.run)
"""Whose place in their own code is known by State: how far they got is told by fields, and by no variable of theirs."""


class Resumption:
    """Takes a run to where it stood: enters what was open, and skips what had been done.

    Before-hooks of what was open do not run, save observers; these do when everything has its values again.

    Args:
        chain: the nodes from the root to the loop.
        begin: makes the iterator of the loop's loader, where the loop is a phase.
        ready: called when everything is open again, just before the next round: gives State the rest of its values.
    """

    def __init__(
        self,
        standing: Standing,
        chain: "list[Node]",
        begin: Callable[[Any], Iterator[Any]],
        ready: Callable[[], None],
    ) -> None:
        self.standing = standing
        self._chain = chain
        self._entered = 0
        self._begin = begin
        self._ready = ready

    def go_on(self, node: "Node", children: "Iterable[Node]") -> "Iterable[Node]":
        """Run the child of `node` that was open, from where it stood; the answer are those that come after it."""
        waiting = iter(children)
        if self._chain[self._entered - 1] is node and self._entered < len(self._chain):
            child = self._chain[self._entered]
            while next(waiting) is not child:
                pass
            child.resume()
        return waiting

    def entered(self, node: "Node") -> None:
        """A node of the chain is open again."""
        self._entered += 1
        if node is self._chain[-1] and not isinstance(node.stage, Phase | Window):  # which ask when they are ready
            self._conclude(node)

    def iterate(self, node: "Node", loader: Any) -> Iterator[Any]:
        """The rest of what the loader of the phase `node` had."""
        batches = self._begin(loader)
        node.runner.values["batches"] = batches
        self.goes_on(node)
        return batches

    def goes_on(self, node: "Node") -> bool:
        """Whether the run stood between two rounds of `node`: then all is as it was there, from now on."""
        if node is not self._chain[-1]:
            return False
        self._conclude(node)
        return True

    def _conclude(self, node: "Node") -> None:
        """All is open: give what is left, and leave the loop if it was about to be left."""
        runner, round = node.runner, node.round
        assert round is not None
        self._ready()
        if runner.guard is not None:
            runner.guard.forget()  # nobody in the tree changed that
        runner.resumption = None
        runner.openings.is_told_before = False
        for open_again in self._chain:
            open_again.look_again()
        runner.timed = runner.recording is not None
        ending = self.standing.ending
        if ending is not None and ending[0]:
            scope, reason, by = ending
            signal = Cancel(scope, reason)
            signal.by = by
            raise signal
        round.conclude(is_last=ending is not None)


def why_not(loop: Place, specs: Mapping[str, FieldSpec]) -> str:
    """Why a run cannot go on from between two rounds of a loop, with these fields; "" if it can."""
    for above in loop.ancestors():
        if type(above.stage).run not in GOES_ON:
            return f"{above.path} has code of its own round the stages it holds, and nobody knows how far that got"
        restored = [f"the stage {above.path}"] if above.access.restores else []
        restored += [hung.path for hung in above.around if hung.access.restores or hung.access.writes]
        if restored:
            return f"{restored[0]} holds State in another form there, to give back later what it was"
        if above is not loop and isinstance(above.stage, Composite) and above.stage.each is not None:
            told = _lost(above, loop, specs)
            if told:
                return told
    return ""


def _lost(above: Place, loop: Place, specs: Mapping[str, FieldSpec]) -> str:
    """What a checkpoint between two rounds of `loop` does not hold of the round of `above` that is open there."""
    each, counts = above.stage.each, above.stage.counts  # type: ignore[attr-defined]  # it is a Composite
    if each == "epoch" and counts[1] is not None:
        return ""
    if each != "update" or not isinstance(loop.stage, Window):
        return f"a round of {above.path} is open there, whose values end with it and are not saved"
    for child in above.children.values():
        for who, access in actors(child.walk()):
            for name in () if who == loop.path else access.field_writes:
                spec = specs.get(name)
                if spec is not None and spec.scope == each and spec.saved != "saved":
                    return f"{who} writes {name!r} in the {each} that is open there, and it is {spec.saved}"
        if loop in child.walk():  # what follows has not run
            break
    return ""
