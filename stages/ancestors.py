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
    if runner.guard is not None:
        runner.guard.forget()  # nobody is to blame for the modes
    failed = False
    try:
        with modes:
            yield
    except BaseException as error:
        failed = is_failure(error)
        raise
    finally:
        if runner.guard is not None:
            runner.guard.forget()
        for close in reversed(closings):
            close(keep=failed)
