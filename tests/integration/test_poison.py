"""Jobs that kill their workers, and those that only were there: real Redis, stub workers, a clock moved by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chord
from celery.exceptions import ChordError
from celery.result import AsyncResult

from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.returns.ending import BadEnd, Cause, GiveBack, verdict
from dispatcher.errors import PoisonJob
from dispatcher.events import SuspectIsolated
from dispatcher.leader.telling.explain import Explainer
from dispatcher.store.operator.admin_store import AdminStore
from tests.integration.stage import Stage, Stub, task_id
from tests.life import Taken
from tests.messages import TASK


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    one = Stage(redis_url, window_extra=0)
    one.worker("bystander", ingress=("elsewhere",))  # one worker of one is half the fleet, and gets another lease_ttl_s
    yield one
    one.close()


def die(stage: Stage, worker: Stub) -> None:
    """SIGKILL, and as long as it takes until it is noticed."""
    stage.pass_ms(7_000, silent=(worker,))
    del stage.workers[worker.epoch]


def take_all(worker: Stub) -> dict[str, Taken]:
    """Task id → job, of all that the worker was given; all of it is started."""
    found = {}
    while (taken := worker.take()) is not None:
        found[task_id(taken)] = taken
    return found


def shared_deaths(stage: Stage, jobs: set[str], count: int = 2) -> None:
    """All of them were running on a worker that died, so often."""
    for life in range(count):
        worker = stage.worker(f"shared{life}", concurrency=8)
        stage.steps()
        assert set(take_all(worker)) == jobs
        die(stage, worker)


def run_suspects(stage: Stage, poison: set[str]) -> dict[str, int]:
    """Workers run what comes, and die of poison, until nothing waits; task id → how often it ran there."""
    ran: dict[str, int] = {}
    for life in range(20):
        worker = stage.worker(f"alone{life}", concurrency=8)
        while True:
            stage.steps()
            started = take_all(worker)
            if not started:
                return ran
            assert len(started) == len(worker.leases()) == 1, "a suspect does not run alone"
            ((job, taken),) = started.items()
            ran[job] = ran.get(job, 0) + 1
            if job in poison:
                die(stage, worker)
                break
            worker.end(taken)
    raise AssertionError("some wait for ever")


def test_poison_is_buried_with_its_story_and_innocents_are_not(stage: Stage) -> None:
    """Two shared deaths make suspects of all; each then runs alone, the innocent end, and the poison has died ``attempts_max`` times."""
    sent = stage.send(5)
    poison = sent[2]
    shared_deaths(stage, set(sent))
    ran = run_suspects(stage, {poison})

    assert ran == dict.fromkeys(sent, 1)
    assert stage.reasons() == {poison: "worker_died"}
    stage.settler.step()
    story = r"3 times.*: run 1 on shared0@h \(life .*; run 2 on shared1@h \(life .*; run 3 on alone.@h \(life [0-9a-f]+\), alone, "
    with pytest.raises(PoisonJob, match=story):
        AsyncResult(poison, app=stage.app).get(timeout=10)
    assert all(AsyncResult(job, app=stage.app).get(timeout=10) == "done" for job in sent if job != poison)
    assert len([one for one in stage.events if isinstance(one, SuspectIsolated)]) == 5
    assert not stage.text.exists(stage.keys.lanes)


def test_a_worker_of_one_slot_is_always_alone(stage: Stage) -> None:
    """Its job is buried after ``attempts_max`` deaths, one line of the story each."""
    (sent,) = stage.send()
    for life in range(3):
        assert stage.reasons() == {}
        worker = stage.worker(f"w{life}")
        stage.steps()
        taken = worker.take()
        assert taken is not None
        assert taken.entry.deaths == life
        die(stage, worker)

    assert stage.reasons() == {sent: "worker_died"}
    (letter,) = AdminStore(stage.text, stage.keys).dead_letters().list()
    assert [(line["worker"], line["alone"], line["how"]) for line in letter.story] == [
        (f"w{life}@h", True, "the worker died (silent)") for life in range(3)
    ]
    facts = explain(stage, sent)
    assert (facts["place"], facts["story"]) == ("dead", letter.story)


def explain(stage: Stage, job: str) -> dict[str, Any]:
    return Explainer(stage.client, stage.keys, stage.settings, ("dispatch",), lambda _: None).explain(job)


def test_explain_tells_of_a_suspect_that_waits(stage: Stage) -> None:
    """What happened to it so far, and why it waits: the only worker that may have it runs something else."""
    (sent,) = stage.send()
    shared_deaths(stage, {sent}, 1)
    worker = stage.worker("w", concurrency=2)
    stage.steps()
    ((_, suspect),) = take_all(worker).items()
    stage.send()
    stage.steps()
    take_all(worker)
    worker.store.giveback([_died(worker, suspect)])
    stage.pass_ms(2_000)

    facts = explain(stage, sent)
    assert facts["place"] == "lane"
    assert "waits for one that runs nothing else" in facts["why"]
    assert [line["worker"] for line in facts["story"]] == ["shared0@h", "w@h"]
    assert {one["worker"]: one["refused"] for one in facts["candidates"]}["w@h"] == "ejected: kept for a suspect, which runs alone"


def test_nothing_is_put_beside_a_suspect_by_whoever_leads(stage: Stage) -> None:
    """Its worker has seven free slots, and other jobs wait; a successor knows it from Redis. When it has ended the worker is as before."""
    (suspect,) = stage.send()
    shared_deaths(stage, {suspect})
    worker = stage.worker("w", concurrency=8)
    stage.steps()
    ((job, taken),) = take_all(worker).items()
    assert job == suspect
    others = stage.send(3)
    stage.steps()
    assert len(worker.leases()) == 1

    stage.dispatcher.resign()
    stage.dispatcher = stage.make_dispatcher("leader-2")
    stage.steps()
    assert len(worker.leases()) == 1
    worker.end(taken)
    stage.steps()
    assert worker.run_all() == others
    assert not stage.text.exists(stage.keys.alone)


def test_a_busy_worker_is_emptied_for_a_suspect(stage: Stage) -> None:
    """It gets nothing new, what it has not begun goes back in line, what it runs ends: then the suspect comes, before the others."""
    (suspect,) = stage.send()
    shared_deaths(stage, {suspect}, 1)
    worker = stage.worker("w", concurrency=2)
    stage.steps()
    ((_, first),) = take_all(worker).items()
    waiting = stage.send(6)
    stage.steps()
    begun = worker.take()
    assert begun is not None
    worker.store.giveback([_died(worker, first)])  # its process: now it is a suspect
    stage.steps()
    assert set(worker.leases()) == {begun.lease_id}
    worker.end(begun)
    stage.steps()
    ((job, taken),) = take_all(worker).items()
    assert job == suspect
    worker.end(taken)
    stage.steps()
    assert [*worker.run_all()] == waiting[1:3]


def _died(worker: Stub, taken: Taken) -> GiveBack:
    end = BadEnd(
        taken.lease_id, Cause.PROCESS_DIED, "its process died", worker.name, worker.epoch, alone=False, deaths=taken.entry.deaths,
        at_most_once=False,
    )  # fmt: skip
    return verdict(end, attempts_max=3)


def test_a_dead_process_and_a_dead_worker_count_alike(stage: Stage) -> None:
    """Two of the one and one of the other are three."""
    (sent,) = stage.send()
    worker = stage.worker("w")
    for _ in range(2):
        stage.steps()
        taken = worker.take()
        assert taken is not None
        worker.store.giveback([_died(worker, taken)])
    stage.steps()
    assert worker.take() is not None
    die(stage, worker)

    assert stage.reasons() == {sent: "worker_died"}
    (letter,) = AdminStore(stage.text, stage.keys).dead_letters().list()
    assert [line["how"] for line in letter.story] == ["its process died", "its process died", "the worker died (silent)"]


def test_the_errback_and_the_chord_of_poison_are_told(stage: Stage) -> None:
    """As of any job that failed."""
    job, callback, errback = (stage.app.tasks[name] for name in (TASK, "demo.callback", "demo.errback"))
    result = chord([job.s(1), job.s(2).on_error(errback.s())])(callback.s())
    members = [part.id for part in result.parent.results]
    shared_deaths(stage, set(members))
    run_suspects(stage, {members[1]})
    stage.settler.step()

    with pytest.raises(ChordError, match="worker_died"):
        AsyncResult(result.id, app=stage.app).get(timeout=10)
    with pytest.raises(PoisonJob):
        AsyncResult(members[1], app=stage.app).get(timeout=10)
    tasks = [parse_lane(entry.lane).task for entry in stage.waiting()]
    stage.steps()
    tasks += [json.loads(raw)["headers"]["task"] for raw in stage.client.hvals(stage.keys.messages)]
    assert "demo.errback" in tasks
