"""Waiting for a fact."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout_s: float = 10.0, message: str | Callable[[], object] = "") -> T:
    """The first true value of ``predicate``, asked again and again for at most ``timeout_s`` seconds.

    An ``AssertionError`` raised by ``predicate`` counts as "not yet". Fails with ``message`` (a string, or a function
    called at the end, to show what was there), the last value and the last error.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = 0.005
    value: T | None = None
    error: AssertionError | None = None
    while True:
        try:
            if value := predicate():
                return value
            error = None
        except AssertionError as exc:
            error = exc
        if time.monotonic() >= deadline_s:
            expectation = message() if callable(message) else message
            last = f"last error: {error}" if error else f"last value: {value!r}"
            raise AssertionError(f"not within {timeout_s} s: {expectation or predicate}; {last}") from error
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)
