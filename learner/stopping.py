"""Stopping: what a signal asks of a run that keeps checkpoints, and how it takes its course afterwards."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Request:
    """Whether somebody asked for the end of a run.

    Attributes:
        number: the signal, or None.
    """

    number: signal.Signals | None = None


_open: list[Request] = []  # that of the outermost block, if there is one


@contextmanager
def stoppable(is_wanted: bool) -> Iterator[Request]:
    """While the block runs, SIGTERM and Ctrl-C are noted, and take their course when it has ended, also by an error.

    The handlers that there were are back once one has come, so a second one ends it at once. A block inside another is
    asked together with it. Python lets only the main thread handle signals; in others, and unless `is_wanted`, nothing
    changes.
    """
    if not is_wanted or threading.current_thread() is not threading.main_thread():
        yield Request()
        return
    if _open:
        yield _open[0]
        return
    request = Request()
    before = {one: signal.getsignal(one) for one in SIGNALS}

    def give_back() -> None:
        for one, handler in before.items():
            if signal.getsignal(one) is note:
                signal.signal(one, handler)

    def note(number: int, frame: FrameType | None) -> None:
        request.number = signal.Signals(number)
        give_back()

    _open.append(request)
    try:
        for one, handler in before.items():
            if handler is not None and handler != signal.SIG_IGN:  # None: set by other code than Python's
                signal.signal(one, note)
        if request.number is not None:  # it came before the last of them was set
            give_back()
        yield request
    except BaseException as error:
        give_back()
        _take_course(request.number, error)
        raise
    finally:
        give_back()
        _open.clear()
    _take_course(request.number)


def _take_course(number: signal.Signals | None, error: BaseException | None = None) -> None:
    """Let a signal do what it would have done, after `error` where that ended the block first."""
    if number is None or (number == signal.SIGINT and isinstance(error, KeyboardInterrupt)):
        return
    if error is not None and signal.getsignal(number) == signal.SIG_DFL:  # nobody else will be able to tell of it
        sys.excepthook(type(error), error, error.__traceback__)
    signal.raise_signal(number)
