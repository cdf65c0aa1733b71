"""What stands open round a part of the tree that is run alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from stages.cancel import is_failure

if TYPE_CHECKING:
    from stages.node import Node
    from stages.runner import Runner


@contextmanager
def scopes_above(runner: "Runner", node: "Node") -> Iterator[None]:
    """The scopes of a node's ancestors, open, and the modes of the phases among them; the values of the scopes stay for
    the debugger when something fails.

    A loop among them is in a round of its own: the epoch is the one after those that are done.
    """
    closings: list[Callable[..., None]] = []
    modes = ExitStack()
    for above in [runner.nodes[place.path] for place in node.place.ancestors()][::-1][:-1]:
        modes.enter_context(runner.mode(above))
        if above.opens is not None:
            closings.append(partial(runner.close, above, runner.open(above)))
        loop = above.round
        if loop is not None:
            hidden = runner.scopes.open(loop.scope)
            if loop.index_name is not None:
                total = runner.values[loop.total_name] if loop.index_restarts and loop.total_name else 0
                runner.values.setdefault(loop.index_name, total)
            opened = runner.enter(above, loop.scope, hidden, numbered=loop.is_numbered)
            closings.append(partial(runner.leave, above, opened))
    _accept_modes(runner)
    failed = False
    try:
        with modes:
            yield
    except BaseException as error:
        failed = is_failure(error)
        raise
    finally:
        _accept_modes(runner)
        for close in reversed(closings):
            close(keep=failed)


def _accept_modes(runner: "Runner") -> None:
    """Nobody in the tree is to blame for the modes as they are now."""
    if runner.guard is not None:
        for name in runner.assembly.names:
            if name.endswith(".mode"):
                runner.guard.accept(name)
