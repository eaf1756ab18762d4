"""The dispatcher on a real Redis, with stub workers that tell of themselves what the test says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest

from dispatcher.core.facts.evidence import PROBE_TASK, KindTotals, WorkerTotals
from dispatcher.events import JobsRecalled, WorkerEjected
from dispatcher.store.operator.admin_store import AdminStore
from tests.eventually import eventually
from tests.integration.stage import Stage, Stub, task_id
from tests.messages import TASK

FAST = {"heartbeat_s": 0.0, "lease_ttl_s": 60.0}


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    made = Stage(redis_url, **FAST, recall_after_s=0.001)
    yield made
    made.close()


def tell(stub: Stub, *, done: int = 0, failed: int = 0, in_row: int = 0, probes: int = 0, bad: int = 0) -> None:
    """A beat with totals."""
    totals = WorkerTotals([KindTotals(TASK, "default", done, failed, 0, done * 100, done * 1000)], in_row, [], None, probes, bad)
    stub.store.heartbeat({"done": done, "consume_age_ms": 0}, msgspec.json.encode(totals))


def make_faulty(stage: Stage, bad: Stub, *others: Stub) -> None:
    """It fails, they do not, until it is ejected."""
    for second in range(1, 10):
        tell(bad, failed=10 * second, in_row=10 * second)
        for one in others:
            tell(one, done=10 * second)
        stage.step()
        if "WorkerEjected" in stage.kinds():
            return
    raise AssertionError(stage.events)


def test_an_ejected_worker_gets_nothing_and_gives_back_what_it_has_not_begun(stage: Stage) -> None:
    """`status` says so and why; what it runs it may finish."""
    bad, good = stage.worker("bad", concurrency=1), stage.worker("good", concurrency=1)
    stage.send(2)
    stage.steps()
    running = bad.take()
    assert running is not None
    stage.send(2)
    stage.steps()
    make_faulty(stage, bad, good)
    stage.steps()

    (said,) = [event for event in stage.events if isinstance(event, WorkerEjected)]
    assert (said.name, said.span_ms) == ("bad@h", 30_000)
    assert list(bad.leases()) == [running.lease_id]
    assert len(good.leases()) == 3
    stage.pass_ms(2_000)  # what the leader knows is told now and then
    shown = {one["name"]: (one["state"], one["ejected"]) for one in AdminStore(stage.text, stage.keys).status()["workers"]}
    assert shown["bad@h"] == ("ejected", said.reason)
    assert shown["good@h"] == ("ready", "")
    stage.send(3)
    stage.steps()
    assert list(bad.leases()) == [running.lease_id]


def test_a_successor_knows_who_is_ejected(stage: Stage) -> None:
    """From its first plan on."""
    bad, good = stage.worker("bad"), stage.worker("good")
    make_faulty(stage, bad, good)
    eventually(lambda: stage.step() and "fail" in str(stage.text.hget(stage.keys.policy, "health")))
    stage.dispatcher.resign()
    stage.dispatcher = stage.make_dispatcher("leader-2")
    stage.send(2)
    stage.steps()

    assert bad.leases() == {}
    assert len(good.leases()) == 2


def test_idle_workers_are_probed_and_busy_ones_are_not(redis_url: str) -> None:
    """One probe at a time, a plain job of the worker's own queue that counts as nobody's."""
    stage = Stage(redis_url, **FAST, probe_interval_s=0.001)
    busy = stage.worker("busy", tasks=(TASK, PROBE_TASK))
    stage.send(1)
    stage.steps()
    idle = stage.worker("idle", tasks=(TASK, PROBE_TASK))
    eventually(lambda: stage.step() and idle.leases())

    assert [entry.lane.split("/")[1] for entry in busy.leases().values()].count(PROBE_TASK) == 0
    probe = idle.take()
    assert probe is not None
    message = json.loads(probe.message)
    assert (message["headers"]["task"], message["headers"]["ignore_result"]) == (PROBE_TASK, True)
    stage.steps()
    assert idle.queued() == []
    idle.store.ack([probe.lease_id])
    tell(idle, probes=1)
    eventually(lambda: stage.step() and idle.leases())
    stage.close()


def test_what_waits_at_a_busy_worker_goes_to_one_that_is_free(stage: Stage) -> None:
    """In its order, its message untouched, and no more often than ``recalls_max``."""
    full = stage.worker("full", concurrency=1)
    sent = stage.send(3)
    stage.steps()
    running = full.take()
    assert running is not None
    assert len(full.leases()) == 3
    free = stage.worker("free", concurrency=2)
    stage.steps()

    assert [event.count for event in stage.events if isinstance(event, JobsRecalled)] == [2]
    assert {entry.recalls for entry in free.leases().values()} == {1}
    assert free.run_all() == sent[1:]
    assert list(full.leases()) == [running.lease_id]
    assert task_id(running) == sent[0]
