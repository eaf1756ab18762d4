"""The supervisor: which processes it starts again, and when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

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


def supervisor(clock: ManualClock, sentences: list[str], **given: Any) -> Supervisor:
    children = cast("Children", SimpleNamespace())
    facts = {"environ": {}, "logs": Path("/tmp"), "clock": clock, "on_event": sentences.append} | given
    return Supervisor(children, Settings(), **facts)


def test_workers_of_one_machine_share_its_cores() -> None:
    """Whatever starts them says how many slots they have; what the user's environment says comes first."""
    threads = "DISPATCHER_WORKER_THREADS"
    assert supervisor(ManualClock(), [], slots=10**6).environ[threads] == "1"
    assert supervisor(ManualClock(), [], slots=10**6, environ={threads: "7"}).environ[threads] == "7"
    assert threads not in supervisor(ManualClock(), []).environ


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


def test_a_start_that_fails_is_tried_again_after_waits_that_grow() -> None:
    """The user is told why, and processes after it are started all the same."""
    clock, sentences = ManualClock(1_000), list[str]()
    kept = supervisor(clock, sentences)
    answers: list[Child | None] = [process(), None, None]

    def start() -> Child:
        if (child := answers.pop()) is None:
            raise Unavailable("no room")
        return child

    flower, dispatcher = kept.keep("Flower", process(), start), kept.keep("the dispatcher", process(), process)
    end(flower.child, 1)
    end(dispatcher.child, 1)
    kept.step()
    assert dispatcher.child.exit_code is None
    assert (flower.child.exit_code, sentences[1]) == (1, "no room; starting it again in 2 s")

    kept.step()
    assert len(answers) == 2, "it waits before the next try"
    for wait_s in BACKOFF_S[1:3]:
        clock.now_ms += round(1000 * wait_s)
        kept.step()
    assert flower.child.exit_code is None
