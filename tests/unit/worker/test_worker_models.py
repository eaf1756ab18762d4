"""What a worker's processes have in memory, and how its main process learns it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher.clock import ManualClock
from dispatcher.worker import models_max, report_models
from dispatcher.worker.life import models
from dispatcher.worker.life.models import ModelMemory, resident
from tests.eventually import eventually


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelMemory]:
    """Of a worker in whose main process nobody has said anything."""
    monkeypatch.setattr(models, "_resident", None)
    opened = ModelMemory(3)
    yield opened
    opened.close()


def told(memory: ModelMemory) -> dict[str, Any]:
    read = memory.read()
    return {"resident": read.resident, "loads": read.loads} if read else {}


@pytest.fixture
def child() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Starts children of this process, each of which does one thing and then stays until the test ends."""
    pids = []

    def fork(act: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                act()
                signal.pause()
            finally:
                os._exit(0)
        pids.append(pid)
        return pid

    yield fork
    for pid in pids:
        kill(pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_nothing_said_is_not_an_empty_memory(memory: ModelMemory) -> None:
    """A worker that never reports says nothing; one that reports an empty memory says that it is empty."""
    assert memory.read() is None
    report_models(())
    assert told(memory) == {"resident": [], "loads": {}}
    assert models_max() == 3


def test_what_is_loaded_and_dropped_is_told_with_its_times(memory: ModelMemory) -> None:
    """Resident models are those of the last report, load times add up over all."""
    report_models(["chat@1"], {"chat@1": 12.0})
    report_models({"chat@1", "other"}, {"other": 0.5})
    report_models({"chat@1", "other"})
    assert told(memory) == {"resident": ["chat@1", "other"], "loads": {"chat@1": (1, 12_000), "other": (1, 500)}}
    report_models({"other"})
    report_models({"other", "chat@1"}, {"chat@1": 8.0})
    assert told(memory) == {"resident": ["chat@1", "other"], "loads": {"chat@1": (2, 20_000), "other": (1, 500)}}
    report_models(())
    assert told(memory)["resident"] == []


def test_a_report_outside_a_worker_fails_nothing_and_is_told_once_there_is_one(memory: ModelMemory) -> None:
    """Before a worker is made, and after it has ended, a report is only remembered."""
    memory.close()
    memory.close()
    report_models(["chat"], {"chat": 1.0})
    assert memory.read() is None
    later = ModelMemory()
    assert told(later)["resident"] == ["chat"]
    later.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """What reports are dated by."""
    manual = ManualClock(100_000)
    monkeypatch.setattr(models, "_clock", manual)
    return manual


def test_a_job_waited_for_the_loads_of_its_model_while_it_ran(memory: ModelMemory, clock: ManualClock) -> None:
    """Only for the part of a load that lies within its time, and only in its own process: threads that use other models do not wait."""
    report_models(["chat"], {"chat": 12.0})
    me = os.getpid()
    assert memory.loading_ms(me, "chat", 80_000, 101_000) == 12_000
    assert memory.loading_ms(me, "chat", 90_000, 101_000) == 10_000
    assert memory.loading_ms(me, "chat", 80_000, 89_000) == 1_000
    assert memory.loading_ms(me, "chat", 100_000, 101_000) == 0
    assert memory.loading_ms(me, "other", 80_000, 101_000) == 0
    assert memory.loading_ms(me + 1, "chat", 80_000, 101_000) == 0


def test_loads_of_one_report_came_one_after_the_other(memory: ModelMemory, clock: ManualClock) -> None:
    """The last of them ended when it was made."""
    report_models(["a", "b"], {"a": 10.0, "b": 5.0})
    me = os.getpid()
    assert memory.loading_ms(me, "b", 96_000, 101_000) == 4_000
    assert memory.loading_ms(me, "a", 80_000, 90_000) == 5_000
    assert memory.loading_ms(me, "a", 94_000, 101_000) == 1_000


def test_a_load_that_has_not_ended_counts_up_to_now(memory: ModelMemory, clock: ManualClock) -> None:
    """From when it was reported, until it is in memory or given up."""
    me = os.getpid()
    report_models([], loading=["chat"])
    assert memory.loading_ms(me, "chat", 90_000, 107_000) == 7_000
    assert told(memory)["resident"] == []
    clock.now_ms = 112_000
    report_models(["chat"], {"chat": 12.0})
    assert told(memory)["resident"] == ["chat"]
    assert memory.loading_ms(me, "chat", 90_000, 120_000) == 12_000
    report_models(["chat"], loading=["other"])
    report_models(["chat"])
    assert memory.loading_ms(me, "other", 90_000, 120_000) == 0


def test_a_process_that_runs_one_job_waits_for_every_load(memory: ModelMemory, child: Callable[[Callable[[], None]], int]) -> None:
    """A child does one job at a time, so that what it loads is for that job, whatever the job calls its model."""
    pid = child(lambda: report_models(["a"], {"a": 5.0}))
    now_ms = eventually(lambda: told(memory) and time.monotonic_ns() // 1_000_000)
    assert memory.loading_ms(pid, "default", now_ms - 3_600_000, now_ms + 1) == 5_000


def test_children_report_through_what_they_inherit(memory: ModelMemory, child: Callable[[Callable[[], None]], int]) -> None:
    """A model is resident as long as half of the processes that have any have it; one that has died has none."""
    report_models(())
    first = child(lambda: report_models(["a"], {"a": 1.0}))
    eventually(lambda: told(memory) == {"resident": ["a"], "loads": {"a": (1, 1000)}})
    second = child(lambda: report_models(["b"]))
    eventually(lambda: told(memory)["resident"] == ["a", "b"])
    child(lambda: report_models(["b"]))
    eventually(lambda: told(memory)["resident"] == ["b"])
    kill(second)
    assert told(memory)["resident"] == ["a", "b"]
    kill(first)
    assert told(memory) == {"resident": ["b"], "loads": {"a": (1, 1000)}}


def test_what_does_not_fit_into_the_pipe_is_told_later(memory: ModelMemory) -> None:
    """A report never waits for the main process; no change is lost, and a name that is too long harms no other."""
    names = [f"model-{number:05d}-{'x' * 100}" for number in range(2000)]
    report_models(names)
    assert len(told(memory)["resident"]) < 2000
    eventually(lambda: report_models(names) or len(told(memory)["resident"]) == 2000)
    few = [*names[:3], "y" * 10_000]
    eventually(lambda: report_models(few) or told(memory)["resident"] == names[:3])


@pytest.mark.parametrize(("has", "expected"), [
    ([], set()),
    ([set(), {"a"}], {"a"}),
    ([{"a"}, {"b"}], {"a", "b"}),
    ([{"a", "b"}, {"b"}, {"b", "c"}], {"b"}),
    ([{"a"}, {"b"}, {"c"}, {"d"}], set()),
])  # fmt: skip
def test_a_model_is_resident_where_half_of_the_processes_have_it(has: list[set[str]], expected: set[str]) -> None:
    """Of those that have any: one that has none has run nothing."""
    assert resident(has) == expected
