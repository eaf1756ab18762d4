"""What Celery says its calls mean, held against attached workers: one cluster, a row of the table for each call."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, chunks, group
from celery.canvas import Signature
from celery.exceptions import TaskRevokedError, TimeLimitExceeded

from tests.eventually import eventually
from tests.process.cluster import PATIENCE_S, Cluster
from tests.redis_server import RedisServer

Sig = Callable[..., Signature]


@pytest.fixture(scope="module")
def cluster(redis_executable: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A dispatcher and two prefork workers. Tests leave nothing behind but lines in the ledger."""
    folders = [Path(tempfile.mkdtemp(prefix="dispatcher-redis-", dir="/tmp")) for _ in range(2)]
    servers = [RedisServer(redis_executable, folder) for folder in folders]
    made = Cluster(*servers, tmp_path_factory.mktemp("meaning"), app="tests.process.meaning_app")
    try:
        made.start_dispatcher(leads=False)
        made.start_worker("w1", concurrency=3, ready=False)
        made.start_worker("w2", concurrency=2, ready=False)
        for worker in made.processes[1:]:
            made.epoch(worker)
        yield made
    finally:
        # Results unsubscribe when they are collected, and retry for long where Redis has gone before.
        made.producer.backend.result_consumer.subscribed_to.clear()
        made.end()
        for server, folder in zip(servers, folders, strict=True):
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sig(cluster: Cluster) -> Sig:
    """``sig("add", 1, 2, countdown=1)``: as a producer without the tasks' code writes it."""
    return lambda name, *args, **options: Signature(name, args=args, options=options, app=cluster.producer)


CANVAS: dict[str, tuple[Callable[[Sig], Any], Any]] = {
    "chain": (lambda s: chain(s("add", 1, 2), s("add", 10), s("add", 100)), 113),
    "group": (lambda s: group(s("add", n, n) for n in range(4)), [0, 2, 4, 6]),
    "chord": (lambda s: chord([s("add", n, 1) for n in range(4)], s("total")), 10),
    "chord in a chain": (lambda s: chain(s("add", 1, 1), group(s("add", 1), s("add", 2)), s("total"), s("add", 5)), 12),
    "chunks": (lambda s: chunks(s("twice"), [(n,) for n in range(10)], 4, app=s("twice").app), [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]),
    "replace": (lambda s: s("replaced", 1), 1001),
    "replace in a chain": (lambda s: chain(s("replaced", 1), s("add", 1)), 1002),
    "replace in a chord": (lambda s: chord([s("replaced", 1), s("add", 1, 1)], s("total")), 1003),
    "retry in a chord": (lambda s: chord([s("again", 0.1), s("add", 1, 1)], s("total")), 4),
    "retry with countdown": (lambda s: s("again", 0.2), 2),
    "autoretry": (lambda s: s("auto", 2), 2),
    "countdown": (lambda s: s("add", 1, 1, countdown=0.5), 2),
    "eta": (lambda s: s("add", 1, 1, eta=datetime.now(UTC) + timedelta(seconds=0.5)), 2),
    "expires later": (lambda s: s("add", 1, 1, expires=60), 2),
    "soft time limit": (lambda s: s("soft"), "cut short"),
    "immutable": (lambda s: chain(s("add", 1, 2), s("add", 3, 4).set(immutable=True)), 7),
}


@pytest.mark.parametrize("call", CANVAS)
def test_calls_come_to_their_results(cluster: Cluster, sig: Sig, call: str) -> None:
    """Canvas, retries, times and limits end with the result that Celery says they have."""
    make, expected = CANVAS[call]
    assert make(sig).apply_async().get(timeout=PATIENCE_S) == expected
    cluster.nothing_is_left()


ENDS: dict[str, tuple[Callable[[Sig], Any], str, type[Exception] | str, int]] = {
    "expired": (lambda s: s("add", 1, 1, expires=datetime.now(UTC) - timedelta(seconds=1)), "REVOKED", TaskRevokedError, 0),
    "expired while it was not due": (lambda s: s("add", 1, 1, countdown=0.7, expires=0.2), "REVOKED", TaskRevokedError, 0),
    "hard time limit": (lambda s: s("hard"), "FAILURE", TimeLimitExceeded, 1),
    "an exception": (lambda s: s("fail"), "FAILURE", ValueError, 1),
    "an exception, acks_on_failure_or_timeout=False": (lambda s: s("dropped"), "FAILURE", ValueError, 1),
    "Reject": (lambda s: s("refused"), "FAILURE", "Reject", 1),
    "no retries left": (lambda s: s("auto", 9), "FAILURE", ConnectionError, 3),
    "first of a chain": (lambda s: chain(s("fail"), s("add", 1, 1)), "FAILURE", ValueError, 1),
    "part of a chord": (lambda s: chord([s("fail"), s("add", 1, 1)], s("total")), "FAILURE", ValueError, 2),
}


@pytest.mark.parametrize("call", ENDS)
def test_calls_that_do_not_succeed_say_why(cluster: Cluster, sig: Sig, call: str) -> None:
    """State, exception and the number of runs are Celery's; nothing of the job is left behind."""
    make, state, error, runs = ENDS[call]
    before = cluster.ledger.length()
    result = make(sig).apply_async()
    with pytest.raises(Exception) as raised:
        result.get(timeout=PATIENCE_S)
    assert error in (type(raised.value), type(raised.value).__name__)
    first = result.parent if call == "first of a chain" else result
    eventually(lambda: first.state == state, PATIENCE_S)
    cluster.nothing_is_left()
    starts = [entry for entry in cluster.ledger.entries()[before:] if entry.what == "start"]
    assert len(starts) == runs


def test_callbacks_and_errbacks_are_called(cluster: Cluster, sig: Sig) -> None:
    """``link`` gets the result, ``link_error`` the id of the job that failed; neither is called for the other's end."""
    well = sig("add", 20, 22).apply_async(link=sig("told"), link_error=sig("told"))
    ill = sig("fail").apply_async(link=sig("told"), link_error=sig("told"))
    eventually(lambda: {"told 42", f"told {ill.id}"} <= {entry.what for entry in cluster.ledger.entries()}, PATIENCE_S)
    cluster.nothing_is_left()
    assert [entry for entry in cluster.ledger.entries() if entry.what == f"told {well.id}"] == []


def test_a_task_knows_of_itself_what_it_did_before(cluster: Cluster, sig: Sig) -> None:
    """``bind``: id, retries, priority, routing, stamps, and that it was not delivered before."""
    stamped = sig("facts", priority=6, retries=0).stamp(customer="acme")
    result = stamped.apply_async()
    facts = result.get(timeout=PATIENCE_S)
    assert facts["stamps"] == {"customer": ["acme"]} or facts["stamps"] == {"customer": "acme"}
    assert (facts["name"], facts["id"], facts["retries"], facts["priority"]) == ("facts", result.id, 0, 6)
    assert (facts["routing_key"], facts["redelivered"], facts["parent_id"]) == ("dispatch", False, None)
    assert facts["root_id"] == result.id


def test_a_result_that_is_ignored_is_not_stored(cluster: Cluster, sig: Sig) -> None:
    """``ignore_result`` of the call, and of the task."""
    results = [sig("add", 1, 1).apply_async(ignore_result=True), sig("quiet").apply_async()]
    eventually(lambda: {one.id for one in results} <= cluster.ledger.runs().keys(), PATIENCE_S)
    cluster.nothing_is_left()
    assert cluster.states([one.id for one in results]) == {"PENDING": 2}


def test_rate_limits_hold_in_each_worker_and_stop_no_other_task(cluster: Cluster, sig: Sig) -> None:
    """Five a second in each of two workers: twelve jobs take a while; meanwhile others run."""
    limited = [sig("limited").apply_async().id for _ in range(12)]
    assert sig("add", 1, 1).apply_async().get(timeout=PATIENCE_S) == 2
    cluster.all_succeed(limited)
    began = [entry.at_ms for entry in cluster.ledger.starts() if entry.job in limited]
    assert len(began) == 12
    assert max(began) - min(began) >= 500
    cluster.nothing_is_left()


def test_a_quick_retry_ends_in_its_last_state(cluster: Cluster) -> None:
    """``retry(countdown=0)``: the next run may begin before the state RETRY of the one before is stored; the last word is SUCCESS."""
    jobs = cluster.send("again", 0, count=40)
    eventually(lambda: all(count == 3 for count in Counter(cluster.ledger.runs()[job] for job in jobs)), PATIENCE_S)
    cluster.nothing_is_left()
    assert cluster.states(jobs) == {"SUCCESS": 40}


def test_inspect_and_control_are_answered(cluster: Cluster) -> None:
    """Every worker answers what Celery's remote control asks, and a running job is found."""
    names = {"w1@promise", "w2@promise"}
    control = cluster.producer.control
    inspect = control.inspect(list(names), timeout=PATIENCE_S, limit=2)
    [job] = cluster.send("nap", 2)
    eventually(lambda: cluster.ledger.runs()[job] == 1, PATIENCE_S)
    for method in ("ping", "registered", "stats", "active", "reserved", "scheduled", "revoked", "active_queues", "conf", "report"):
        assert set(getattr(inspect, method)()) == names, method
    assert [found for answer in inspect.query_task(job).values() for found in answer] == [job]
    for answers in (
        control.rate_limit("limited", "50/s", destination=list(names), reply=True, timeout=PATIENCE_S, limit=2),
        control.time_limit("hard", hard=30, destination=list(names), reply=True, timeout=PATIENCE_S, limit=2),
        control.enable_events(destination=list(names), reply=True, timeout=PATIENCE_S, limit=2),
        control.pool_grow(1, destination=list(names), reply=True, timeout=PATIENCE_S, limit=2),
        control.pool_shrink(1, destination=list(names), reply=True, timeout=PATIENCE_S, limit=2),
    ):
        assert {name for answer in answers for name, said in answer.items() if "ok" in said} == names
    cluster.all_succeed([job, *cluster.send("add", 1, 1, count=20)])
    cluster.nothing_is_left()


def test_a_revoke_reaches_a_job_wherever_it_is(cluster: Cluster, sig: Sig) -> None:
    """Running (with ``terminate``), queued at a worker, in a lane, not yet due, by id or by stamp: none runs (on), each is REVOKED."""
    control = cluster.producer.control
    running = cluster.send("nap", 600, count=5)
    eventually(lambda: {entry.job for entry in cluster.ledger.running()} >= set(running), PATIENCE_S)
    waiting = [*cluster.send("noop", count=12), *cluster.send("noop", countdown=0.5)]
    stamped = [sig("noop").stamp(customer="evil").apply_async().id for _ in range(3)]
    epochs = [cluster.epoch(worker) for worker in cluster.processes[1:]]
    eventually(lambda: all(cluster.queued(epoch) == 2 for epoch in epochs), PATIENCE_S)
    control.revoke(waiting)
    control.revoke_by_stamped_headers({"customer": ["evil"]})
    control.revoke(running, terminate=True)
    jobs = running + waiting + stamped
    eventually(lambda: cluster.states(jobs) == {"REVOKED": len(jobs)}, PATIENCE_S, lambda: cluster.states(jobs))
    cluster.nothing_is_left()
    assert {job: count for job, count in cluster.ledger.runs().items() if job in jobs} == dict.fromkeys(running, 1)
    cluster.all_succeed(cluster.send("noop", count=10))
