"""Python's cycle collector, which waits while a tree is put together."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_waits() -> Iterator[None]:
    """Collect no cycles meanwhile.

    What a tree is made of stays, so there is nothing to collect, and with torch imported the collector goes over some
    hundred thousand objects each time: half of the time that a tree of a thousand stages takes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
