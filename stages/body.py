"""Bodies: the function that runs the stage of a place, or the stages that it holds."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from stages.calling import Body, call_of
from stages.cancel import Exhausted, Skip, forget
from stages.stage import Composite
from stages.stage_view import StageView
from stages.telling import nothing, tell_parts_of, watched_parts, watching

if TYPE_CHECKING:
    from stages.node import Node


def stage_body(node: "Node") -> Body:
    """The function that runs the stage of one node, and tells the log of the parts it is there to change."""
    stage, place = node.stage, node.place
    if place.kind != "stage":
        return nothing
    if isinstance(stage, Composite) and type(stage).run is Composite.run:
        return node.run_children
    call = call_of(node, stage.run, place.contract, StageView)
    is_inside_a_phase = place.phase is not None and place.phase is not stage  # a loop there lets the phase end
    if isinstance(stage, Composite) and stage.each is not None and not is_inside_a_phase:
        call = _until_exhausted(call)
    watched = watched_parts(node, is_leaf=not place.is_composite)
    if watched:
        call = watching(call, watched)
    return _then(call, tell_parts_of(node))


def children_body(node: "Node") -> Body:
    """The function that runs the stages a node holds, in order.

    What has no hook, scope or count of its own is called without going through its node, and a plain composite of such
    is run in its parent's place. Where stages are timed, every node is gone through.
    """
    runner = node.runner
    children = tuple(child for child in node.children.values() if child.place.kind == "stage")
    steps = node.steps = tuple(_steps(children))

    def run_children() -> None:
        if runner.timed:
            if node.has_own_code:
                node.settle()
            resumption = runner.resumption
            for child in children if resumption is None else resumption.go_on(node, children):
                child.execute()
            return
        left: tuple[Node, ...] = ()
        waiting = iter(steps)
        while True:
            try:
                for run, left in waiting:  # noqa: B007  `left` is for the exception
                    run()
                return
            except BaseException as raised:
                error = raised
                for passed in left:
                    error = passed.ended_by(error)
                    if isinstance(error, Skip):  # it ends this one place; the next one follows
                        break
                else:
                    if error is raised:
                        raise
                    raise error from None
                forget(error)

    return run_children


def _steps(children: "Iterable[Node]") -> "Iterator[tuple[Body, tuple[Node, ...]]]":
    """What to call for each of these nodes, and whom an exception leaves that comes out of it."""
    for child in children:
        if not child.is_bare:
            yield child.execute, ()
        elif type(child.stage).run is Composite.run:
            yield from ((run, (*left, child)) for run, left in child.steps)
        else:
            yield child.body, (child,)


def _then(call: Body, tell_parts: Body) -> Body:
    """Both, one after the other."""
    if tell_parts is nothing:
        return call

    def run_and_tell() -> None:
        call()
        tell_parts()

    return run_and_tell


def _until_exhausted(call: Body) -> Body:
    """A loop ends well when its loader has no further batch."""

    def loop() -> None:
        try:
            call()
        except Exhausted as end:
            forget(end)

    return loop
