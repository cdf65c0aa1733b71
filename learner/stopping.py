"""Stopping: what a signal asks of a run that keeps checkpoints, and how it takes its course afterwards."""

import signal
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


@contextmanager
def stoppable(is_wanted: bool) -> Iterator[Request]:
    """While the block runs, SIGTERM and Ctrl-C are noted, and take their course when it has ended.

    The handlers that there were are back once one has come, so a second one ends it at once. Python lets only the main
    thread handle signals; in others, and unless `is_wanted`, nothing changes.
    """
    request = Request()
    if not is_wanted or threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {one: signal.getsignal(one) for one in SIGNALS}

    def give_back() -> None:
        for one, handler in before.items():
            if signal.getsignal(one) is note:
                signal.signal(one, handler)

    def note(number: int, frame: FrameType | None) -> None:
        request.number = signal.Signals(number)
        give_back()

    for one, handler in before.items():
        if handler is not None and handler != signal.SIG_IGN:  # None: set by other code than Python's
            signal.signal(one, note)
    try:
        yield request
    finally:
        give_back()
    if request.number is not None:
        signal.raise_signal(request.number)
