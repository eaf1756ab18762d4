"""The supervisor: which processes it starts again, and when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from dispatcher.clock import ManualClock
from dispatcher.errors import Unavailable
from dispatcher.provision.child import Child, Children
from dispatcher.provision.processes import BACKOFF_S
from dispatcher.provision.supervisor import Supervisor
from dispatcher.settings import Settings


def process() -> Child:
    """A process that runs until a test gives it an exit code."""
    return cast("Child", SimpleNamespace(exit_code=None))


def end(child: Child, exit_code: int) -> None:
    cast("SimpleNamespace", child).exit_code = exit_code


def supervisor(clock: ManualClock, sentences: list[str]) -> Supervisor:
    children = cast("Children", SimpleNamespace())
    return Supervisor(children, Settings(), environ={}, logs=Path("/tmp"), clock=clock, on_event=sentences.append)


def test_a_process_that_ends_is_started_again_at_once_and_later_after_waits_that_grow() -> None:
    """The whole cluster waits for Redis and the dispatcher: only what keeps ending waits."""
    clock, sentences, started = ManualClock(1_000), list[str](), list[Child]()
    kept = supervisor(clock, sentences)

    def start() -> Child:
        started.append(process())
        return started[-1]

    redis = kept.keep("Redis", process(), start)
    kept.step()
    assert not started

    end(redis.child, -9)
    kept.step()
    assert len(started) == 1
    assert sentences == ["Redis was killed by signal 9; starting it again in 0 s"]

    end(started[-1], 1)
    kept.step()
    assert (len(started), sentences[-1]) == (1, "Redis exited with 1; starting it again in 2 s")
    clock.now_ms += round(1000 * BACKOFF_S[1])
    kept.step()
    assert (len(started), redis.child) == (2, started[-1])


def test_a_start_that_fails_is_tried_again() -> None:
    """The error reaches the caller, which tells the user; the next step tries again."""
    clock = ManualClock(1_000)
    kept = supervisor(clock, [])
    answers: list[Child | None] = [process(), None]

    def start() -> Child:
        if (child := answers.pop()) is None:
            raise Unavailable("no room")
        return child

    flower = kept.keep("Flower", process(), start)
    end(flower.child, 1)
    with pytest.raises(Unavailable):
        kept.step()
    kept.step()
    assert flower.child.exit_code is None
