"""The thread that stores the state of dead jobs: how often it tries, and what it says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dispatcher.wiring import PAUSE_MAX_S, PAUSE_S, DispatcherProcess


class Stop(threading.Event):
    """Notes how long the thread would wait, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return self.is_set()


def run(answers: list[int | Exception]) -> Stop:
    stop = Stop()
    left: Iterator[int | Exception] = iter(answers)

    def step() -> int:
        answer = next(left, None)
        if answer is None:
            stop.set()
            return 0
        if isinstance(answer, Exception):
            raise answer
        return answer

    DispatcherProcess(cast("Any", None), cast("Any", SimpleNamespace(step=step)), cast("Any", None))._settle(stop)
    return stop


def test_it_tries_for_ever_and_ever_less_often() -> None:
    """Down to a bound, and as often as ever once it went well."""
    waits = run([OSError("away")] * 9 + [0]).waits
    assert waits[:9] == sorted(waits[:9])
    assert waits[0] > PAUSE_S
    assert waits[8] == PAUSE_MAX_S
    assert waits[9] == PAUSE_S


def test_an_error_is_said_once_and_another_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    """What hides behind the first outage is not kept from the log."""
    with caplog.at_level(logging.WARNING):
        run([OSError("away"), OSError("away"), LookupError("no table"), LookupError("no table"), 1, OSError("away")])
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["away", "no table", "away"]
