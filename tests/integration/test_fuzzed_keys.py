"""Anything at all in what producers, workers and operators write: the loop goes on, and the job beside it is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from dispatcher.store.admin_store import AdminStore
from tests.integration.stage import Stage
from tests.messages import envelope

NUMBERS = (0, -1, 1e308, 2**63, 2**70, "NaN", "", None, True, [], {}, "x" * 3_000, "\x00", "\ud800")
SHAPES = (b"", b"{", b"[]", b"{}", b"null", b"1e999", b'"', b"\xff\xfe\x00", b'{"a":' * 400, b"NaN", b"-", b"1" * 400)


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    made = Stage(redis_url, hold_ratio=0.0)
    yield made
    made.close()


def bytes_of(rng: Random) -> bytes:
    """Random bytes, or what is nearly something."""
    return rng.choice((rng.randbytes(rng.randrange(60)), rng.choice(SHAPES)))


def nearly(rng: Random, good: Any) -> bytes:
    """JSON of a good document with one value replaced, somewhere; or cut off; or no JSON."""
    luck = rng.random()
    if luck < 0.3:
        return bytes_of(rng)
    document = json.loads(json.dumps(good))
    place: Any = document
    while True:
        names: list[Any] = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not names:
            break
        name = rng.choice(names)
        if isinstance(place[name], dict | list) and place[name] and rng.random() < 0.7:
            place = place[name]
            continue
        place[name] = rng.choice(NUMBERS)
        break
    text = json.dumps(document).encode()
    return text[: rng.randrange(len(text))] if luck > 0.9 else text


REGISTRATION = {
    "name": "evil@h", "host": "h", "pid": 1, "concurrency": 4, "pool": "prefork", "weight": 1.0, "models": ["m"], "labels": {"a": "b"},
    "ingress": ["dispatch"], "tasks": ["other.task"], "at_most_once": [], "version": "",
}  # fmt: skip
TOTALS = {
    "kinds": [{"task": "demo.job", "model": "default", "done": 3, "busy_ms": 40, "cost_ms": 60, "failed": 1}],
    "failures_in_row": 1, "running": [["demo.job", "default", 5, 10, True]], "memory": [["m"], {"m": [1, 2]}],
}  # fmt: skip
FACTS = ("draining", "consume_age_ms", "done", "loop_lag_ms", "failed", "running", "probe")


def into_ingress(stage: Stage, rng: Random) -> None:
    for _ in range(20):
        raw = nearly(rng, envelope())
        (stage.client.lpush if rng.random() < 0.7 else stage.client.rpush)(rng.choice(stage.keys.ingress("dispatch")), raw)


def into_registrations(stage: Stage, rng: Random) -> None:
    for number in range(6):
        epoch = rng.choice((f"eeee{number:08x}", "e" * rng.randrange(1, 40)))
        stage.client.sadd(stage.keys.workers, epoch)
        stage.client.set(stage.keys.alive(epoch), "1", px=86_400_000)
        stage.client.hset(stage.keys.worker(epoch), "registration", nearly(rng, REGISTRATION))


def into_epochs(stage: Stage, rng: Random) -> None:
    for _ in range(6):
        stage.client.sadd(stage.keys.workers, bytes_of(rng))


def into_facts(stage: Stage, rng: Random) -> None:
    for number, name in enumerate(FACTS):
        stub = stage.worker(f"odd{number}", tasks=("other.task",))
        stage.client.hset(stage.keys.worker(stub.epoch), name, bytes_of(rng))


def into_totals(stage: Stage, rng: Random) -> None:
    for number in range(6):
        stub = stage.worker(f"odd{number}", tasks=("other.task",))
        stage.client.hset(stage.keys.totals, stub.epoch, nearly(rng, TOTALS))
    stage.client.hset(stage.keys.totals, bytes_of(rng), bytes_of(rng))


def into_names(stage: Stage, rng: Random) -> None:
    """Queues and models that workers named."""
    for _ in range(4):
        stage.client.sadd(stage.keys.ingress_queues, bytes_of(rng))
        stage.client.sadd(stage.keys.models, bytes_of(rng))
        stage.client.sadd(stage.keys.paused, bytes_of(rng) + b"x")


def into_rollouts(stage: Stage, rng: Random) -> None:
    for _ in range(4):
        stage.client.hset(stage.keys.rollouts, bytes_of(rng), bytes_of(rng))


def into_queues(stage: Stage, rng: Random) -> None:
    """Ids that nobody was given, in the list of a worker."""
    (stub, *_) = stage.workers.values()
    for _ in range(5):
        stage.client.lpush(stage.keys.worker_queue(stub.epoch), bytes_of(rng))
    stage.client.rpush(stage.keys.wake, bytes_of(rng))


def into_types(stage: Stage, rng: Random) -> None:
    """Keys of lanes and workers that are of another type."""
    for number in range(6):
        stub = stage.worker(f"odd{number}", tasks=("demo.job",))
        key = rng.choice((stage.keys.worker, stage.keys.leases, stage.keys.taken))(stub.epoch)
        stage.client.delete(key)
        stage.client.sadd(key, bytes_of(rng))
    for lane in (b"dispatch/demo.job/default/p9/c10", b"dispatch/demo.job/default/p0/c10", bytes_of(rng)):
        stage.client.sadd(stage.keys.lanes, lane)
        stage.client.set(stage.keys.lane_prefix.encode() + lane, bytes_of(rng))


def into_leases(stage: Stage, rng: Random) -> None:
    """Leases that nobody gave, of workers that live and of one that is silent from now on."""
    for number in range(4):
        stub = stage.worker(f"odd{number}", tasks=("other.task",))
        stage.client.hset(stage.keys.leases(stub.epoch), bytes_of(rng), bytes_of(rng))
        if number == 0:
            stage.client.delete(stage.keys.alive(stub.epoch))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "write",
    [into_ingress, into_registrations, into_epochs, into_facts, into_totals, into_names, into_rollouts, into_queues, into_types,
     into_leases],
    ids=lambda write: write.__name__,
)
def test_the_loop_goes_on_and_the_neighbour_is_done(stage: Stage, write: Callable[[Stage, Random], None], seed: int) -> None:
    """Whoever leads, whoever takes the lead next, and whoever asks for the status."""
    worker = stage.worker("good", concurrency=64)
    stage.step()
    write(stage, Random(seed))
    (first,) = stage.send()
    stage.clock.now_ms += 1_500
    for _ in range(3):
        stage.step()
    stage.text.delete(stage.keys.leader)
    stage.dispatcher = stage.make_dispatcher("successor")
    (second,) = stage.send()
    for _ in range(4):
        stage.clock.now_ms += 1_500
        worker.beat()
        stage.step()
    ran = []
    for _ in range(100):
        if (lease_id := stage.client.rpop(stage.keys.worker_queue(worker.epoch))) is None:
            break
        if taken := worker.store.take(lease_id.decode(errors="replace")):
            worker.end(taken)
            ran.append(json.loads(taken.message)["headers"]["id"])

    assert {first, second} <= set(ran)
    assert "good" in json.dumps(AdminStore(stage.text, stage.keys, ["dispatch"]).status()["workers"])
    assert all(reason for reason in stage.reasons().values())
