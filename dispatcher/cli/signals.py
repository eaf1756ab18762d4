"""Ctrl-C and SIGTERM as an event, for commands that run until they are told to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set. After that they end what is still being stopped, and no longer wait for it."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        # Both raise KeyboardInterrupt now, even where a shell that put us in the background had them ignored.
        for number in before:
            signal.signal(number, signal.default_int_handler)

    for number in before:
        signal.signal(number, ask_to_stop)
    try:
        yield stop
    finally:
        if not stop.is_set():
            for number, handler in before.items():
                signal.signal(number, handler)
