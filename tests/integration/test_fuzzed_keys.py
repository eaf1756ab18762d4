"""Anything at all in what producers, workers and operators write: the loop goes on, and the job beside it is done."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

from dispatcher.cli import cli
from dispatcher.core.returns.ending import BadEnd, Cause, GiveBack, verdict
from dispatcher.events import Unreadable
from dispatcher.leader.settle import Settler
from dispatcher.observe.cell_reader import CellReader
from dispatcher.store.key_catalogue import typed_keys
from dispatcher.store.keys import Keys
from dispatcher.store.leader.unsettled_store import UnsettledStore
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.worker.revoke_store import RevokeStore
from dispatcher.worker.life.revokes import Revokes
from tests.integration.stage import RESULT_DB, Stage, Stub, task_id
from tests.life import Taken
from tests.messages import TASK, envelope, message

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
    text = nearly_json(rng, good)
    return text[: rng.randrange(len(text))] if luck > 0.9 else text


def nearly_json(rng: Random, good: Any) -> bytes:
    """JSON of a good document with one value replaced, somewhere."""
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
    return json.dumps(document).encode()


REGISTRATION = {
    "name": "evil@h", "host": "h", "pid": 1, "concurrency": 4, "pool": "prefork", "weight": 1.0, "models": ["m"], "labels": {"a": "b"},
    "ingress": ["dispatch"], "tasks": ["other.task"], "at_most_once": [], "version": "",
}  # fmt: skip
TOTALS = {
    "kinds": [{"task": "demo.job", "model": "default", "done": 3, "busy_ms": 40, "cost_ms": 60, "failed": 1}],
    "failures_in_row": 1, "running": [["demo.job", "default", 5, 10, True]], "memory": [["m"], {"m": [1, 2]}],
}  # fmt: skip
LANE = "dispatch/demo.job/default/p0/c10"
LINE = {"began_ms": 1_700_000_000_000, "ended_ms": 1_700_000_001_000, "worker": "w1@h", "epoch": "5a", "how": "its process died"}
REASON = {
    "entry": "0" * 15 + "1" + "1700000000000" + "000001000" + "0" * 8 + "0" * 13 + LANE, "reason": "worker_died", "detail": "3 times",
    "task_id": "dead", "task": TASK, "ingress": "dispatch", "step": 0, "story": [LINE, LINE],
}  # fmt: skip
ERRBACK = {
    "task": TASK, "args": [], "kwargs": {}, "options": {"countdown": 1, "serializer": "json"}, "subtask_type": None, "immutable": True,
}  # fmt: skip
EMBED = {"callbacks": [ERRBACK], "errbacks": [ERRBACK], "chain": [ERRBACK], "chord": ERRBACK}
HOLD = {"lane": LANE, "reason": "unroutable", "refusals": {"full": [1, "w"]}, "waits_for": {"w": 1}, "unroutable_s": 1.5}
LEARNED = {"window": 3, "speeds": {"default": 1.0}, "warmth": 1.0, "ejected": "", "resident": ["m"]}
VIEW = {
    "strategy": "earliest_completion", "holds": [HOLD], "unroutable": 1, "load_ms": {"m": 5}, "workers": {"000000000001": LEARNED},
}  # fmt: skip
DECISION = {
    "at_ms": 5, "lane": LANE, "given": [["w", "5a", 1, 0.5]], "frames": "1" + "0" * 58, "strategy": "random",
    "ranking": [["w", 1.0, {"run_ms": 1.0}]], "refused": {"full": [1, "w"]},
}  # fmt: skip
TICK = {"admitted": [[10**15, ["logged", "other"]]], "decisions": [DECISION]}
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


def into_dead_letters(stage: Stage, rng: Random) -> None:
    """Reasons of dead letters, and members of ``unsettled`` that are no jobs."""
    stage.client.lpush("dispatch", *(message(f"dead{number}", eta="tomorrow", embed=EMBED) for number in range(6)))
    stage.step()
    for job in stage.client.smembers(stage.keys.unsettled):
        stage.client.hset(stage.keys.dead_reasons, job, nearly(rng, REASON))
    stage.client.hset(stage.keys.dead_reasons, bytes_of(rng), nearly(rng, REASON))
    stage.client.sadd(stage.keys.unsettled, bytes_of(rng), bytes_of(rng))


def into_canvas(stage: Stage, rng: Random) -> None:
    """Of messages that are refused: their headers, errbacks and chords."""
    for number in range(6):
        sent = envelope() | {"headers": json.loads(nearly_json(rng, envelope()["headers"])) | {"id": f"dead{number}", "eta": "tomorrow"}}
        sent["body"] = b64encode(b"[[], {}, " + nearly_json(rng, EMBED) + b"]").decode()
        stage.client.lpush("dispatch", json.dumps(sent))


def into_stories(stage: Stage, rng: Random) -> None:
    """Of jobs whose worker is silent from now on; one story is no list."""
    stub = stage.worker("odd", concurrency=6, labels={"zone": "odd"})
    stage.send(6, headers={"dispatch": {"requires": {"zone": "odd"}}})
    stage.step()
    leases = stub.leases()
    assert len(leases) == 6
    for lease_id, entry in leases.items():
        stub.store.take(lease_id)
        stage.client.rpush(stage.keys.story(entry.job), *(nearly(rng, LINE) for _ in range(3)))
    story = stage.keys.story(min(entry.job for entry in leases.values()))
    stage.client.delete(story)
    stage.client.set(story, bytes_of(rng))
    stage.client.delete(stage.keys.alive(stub.epoch))


def into_what_is_shown(stage: Stage, rng: Random) -> None:
    """By the leader, for those who look."""
    stage.client.hset(stage.keys.leader_info, "info", nearly(rng, {"host": "h", "pid": 5, "started_at": "now"}))
    stage.client.set(stage.keys.leader_view, nearly(rng, VIEW))


def into_decisions(stage: Stage, rng: Random) -> None:
    stage.client.delete(stage.keys.decisions)
    for number in (1, 2, rng.choice((3, 2**60))):
        fields: dict[Any, Any] = {"n": rng.choice((1, bytes_of(rng))), rng.choice((b"tick", bytes_of(rng))): nearly(rng, TICK)}
        stage.client.xadd(stage.keys.decisions, fields, id=f"{number}-{rng.choice((0, 7))}")


def into_alone(stage: Stage, rng: Random) -> None:
    """Epochs that nobody is, where a suspect is said to run."""
    for _ in range(4):
        stage.client.hset(stage.keys.alone, bytes_of(rng), bytes_of(rng))


def into_revoked(stage: Stage, rng: Random) -> None:
    score = rng.choice((0.0, -1.0, 5.0, 1e308, float("inf"), float("-inf")))
    stage.client.zadd(stage.keys.revoked, {rng.choice((b"", b"id:", b"stamp:")) + nearly(rng, ["shop", "7"]): score for _ in range(9)})
    stage.client.set(stage.keys.revoked_at, rng.choice((b"5", bytes_of(rng))))


SINGLE, TYPES = typed_keys(Keys())


def write_wrong(client: Any, key: str, rng: Random, *types: bytes) -> None:
    """A value under ``key`` that is of none of these types."""
    client.delete(key)
    writes = {b"string": client.set, b"list": client.rpush, b"set": client.sadd}
    rng.choice([write for type_, write in writes.items() if type_ not in types])(key, bytes_of(rng))


def into_types_of_the_cell(stage: Stage, rng: Random) -> None:
    """A key of which there is one is of another type."""
    key = rng.choice(("leader_info", "leader_view", "decisions", "revoked", "revoked_at"))
    write_wrong(stage.client, getattr(stage.keys, key), rng, b"set")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "write",
    [into_ingress, into_registrations, into_epochs, into_facts, into_totals, into_names, into_rollouts, into_queues, into_types,
     into_leases, into_dead_letters, into_canvas, into_stories, into_what_is_shown, into_decisions, into_alone, into_revoked,
     into_types_of_the_cell],
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

    for _ in range(3):
        Settler(UnsettledStore(stage.client, stage.keys, "successor"), stage.app, stage.events.append).step()
    Revokes(RevokeStore(stage.text, stage.keys, kept_s=60)).heed(first, stage.client.mget(stage.keys.revoked_at)[0])
    assert {first, second} <= set(ran)
    assert "good" in json.dumps(AdminStore(stage.text, stage.keys, ["dispatch"]).status()["workers"])
    if write not in (into_dead_letters, into_types_of_the_cell):
        assert all(reason for reason in stage.reasons().values())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "write",
    [into_dead_letters, into_stories, into_what_is_shown, into_decisions, into_types_of_the_cell],
    ids=lambda write: write.__name__,
)
def test_an_operator_can_look(stage: Stage, write: Callable[[Stage, Random], None], seed: int) -> None:
    """At the cell, at a job that waits, at dead letters, and at one that only the log knows: no traceback."""
    stage.worker("good", concurrency=64)
    (waits,) = stage.send(headers={"dispatch": {"requires": {"region": "eu"}}})
    stage.step()
    stage.clock.now_ms += 1_500
    stage.step()
    write(stage, Random(seed))
    jobs = [waits, "dead0", "logged", *(entry.job for stub in stage.workers.values() for entry in stub.leases().values())]

    environ = {"DISPATCHER_RESULT_BACKEND": stage.url.rpartition("=")[0] + f"={RESULT_DB}"}
    for words in (["status"], ["status", "--json"], ["dead", "list"], ["dead", "requeue", "--all"], *(["explain", job] for job in jobs)):
        result = CliRunner().invoke(cli, ["--redis-url", stage.url, *words], env=environ)
        known = result.exit_code == 0 or "nothing is known of this job" in result.stdout
        assert known, (words, result.exception, result.output)
    assert CellReader(stage.text, stage.keys).is_led_from_here() is False  # this process leads it itself


@pytest.mark.parametrize("learned", [{"window": "x"}, {"speeds": 5}, {"warmth": []}], ids=str)
def test_what_a_leader_of_another_version_has_learned(stage: Stage, learned: dict[str, Any]) -> None:
    """The worker is a candidate by what Redis says of it."""
    stub = stage.worker("good")
    (waits,) = stage.send(headers={"dispatch": {"requires": {"region": "eu"}}})
    stage.step()
    stage.client.set(stage.keys.leader_view, json.dumps(VIEW | {"workers": {stub.epoch: learned}}))
    result = CliRunner().invoke(cli, ["--redis-url", stage.url, "explain", waits, "--json"])
    assert [one["worker"] for one in json.loads(result.stdout)["candidates"]] == ["good@h"]


def test_the_name_of_the_leaders_host_is_no_markup(stage: Stage) -> None:
    """``status`` shows it as it is."""
    stage.step()
    stage.client.hset(stage.keys.leader_info, "info", json.dumps({"host": "[/h]", "pid": 5}))
    result = CliRunner().invoke(cli, ["--redis-url", stage.url, "status"])
    assert (result.exit_code, "on [/h]" in result.stdout) == (0, True)


@pytest.mark.parametrize("at", range(len(SINGLE)), ids=[key.partition(":")[2] for key in SINGLE])
def test_a_key_of_the_cell_that_is_of_another_type(stage: Stage, at: int) -> None:
    """It is moved aside, the log names it in a sentence, and all goes on: a job is admitted, a retried one comes, one that cannot be read
    and one that was given up are buried and told, one that waits for its time comes, and a suspect runs alone.
    """
    key, type_ = SINGLE[at], TYPES[at].encode()
    worker = stage.worker("good", concurrency=8)
    (suspect,) = stage.send()
    stage.step()
    for _ in range(2):
        taken = worker.take()
        assert taken is not None
        worker.store.giveback([died(worker, taken)])
        stage.step()
    write_wrong(stage.client, key, Random(at), type_)

    given_up = worker.take() if key not in (stage.keys.messages, stage.keys.workers) else None
    jobs = stage.send(2) + stage.send(countdown=0.001)
    stage.client.lpush("dispatch", message("late", eta="tomorrow"))
    for _ in range(4):
        stage.clock.now_ms += 1_500
        worker.beat()
        stage.step()
    if given_up is not None:
        assert task_id(given_up) == suspect
        worker.store.giveback([died(worker, given_up)])
    if given_up is None:  # Redis has forgotten all workers, or what this one is to run
        worker = stage.worker("another", concurrency=8)
    for _ in range(4):
        stage.clock.now_ms += 1_500
        worker.beat()
        stage.step()
    ran = set(worker.run_all())
    for _ in range(4):
        stage.clock.now_ms += 1_500
        stage.steps()
        ran |= set(worker.run_all())

    assert set(jobs) <= ran
    assert stage.client.type(key) in (type_, b"none")
    assert stage.reasons()["late"] == "bad_eta"
    if given_up is not None:
        assert stage.reasons()[suspect] == "process_died"
    stage.settler.step()
    assert stage.text.scard(stage.keys.unsettled) == 0
    assert [event.what for event in stage.events if isinstance(event, Unreadable)] == [f"what is now under {key + ':aside'!r}"]


def died(worker: Stub, taken: Taken) -> GiveBack:
    """Its process died with it, alone."""
    end = BadEnd(
        taken.lease_id, Cause.PROCESS_DIED, "its process died", worker.name, worker.epoch, alone=taken.entry.deaths == 2,
        deaths=taken.entry.deaths, at_most_once=False,
    )  # fmt: skip
    return verdict(end, attempts_max=3)
