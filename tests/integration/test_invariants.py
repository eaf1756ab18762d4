"""The promises, under any order of events: a seeded walk over the real stores and dispatchers on a real Redis, checked after each step.

A walk that fails prints the command that repeats it. ``WALK_SEEDS=1000-2000`` walks others than those listed here.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, cast

import pytest
import redis

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.leader.dispatcher import Dispatcher, StepReport
from dispatcher.store.frame import FRAME_BYTES, parse_entry
from tests.integration.stage import Stub
from tests.integration.walk_events import CONCURRENCY, LISTS, QUEUES, TASKS, WINDOW, Events, Process
from tests.lua.cell import dump

EVENTS = 250
SEEDS = range(1, 25)
LONG_SEEDS = range(1_000, 1_400)


class Walk(Events):
    """Events in an order that a seed gives, and what must hold after each."""

    def step(self, one: Dispatcher) -> StepReport | None:
        leader = cast("str | None", self.text.get(self.keys.leader))
        self.raced, self.overtaken = False, None
        if leader is not None and leader != one.parts.store.token:
            self.raced = True  # nothing moves while it steps, so that what it writes can be seen
            before = dump(self.client)
            with suppress(redis.ConnectionError):
                assert not one.step().leads
            assert dump(self.client) == before, "a standby wrote something"
            return None
        leases_before = self.lease_counts()
        try:
            report = one.step()
        except redis.ConnectionError:
            return None
        finally:
            if self.overtaken is not None:
                assert dump(self.client) == self.overtaken, "a leader that was overtaken wrote something"
        for epoch, count in self.lease_counts().items():
            assert count <= max(WINDOW, leases_before.get(epoch, 0)), f"{epoch} holds {count} leases, more than its window"
        if report.leads and not (self.raced or report.promoted or report.returned or report.more):
            self.check_nothing_is_held_back(one)
        return report

    def lease_counts(self) -> dict[str, int]:
        epochs = sorted(cast("set[str]", self.text.smembers(self.keys.workers)))
        with self.text.pipeline(transaction=False) as pipe:
            for epoch in epochs:
                pipe.hlen(self.keys.leases(epoch))
            return dict(zip(epochs, pipe.execute(), strict=True))

    # -- what must hold

    def check_account(self) -> None:
        """Invariants 1 and 2: each message once in the ingress or in keeping; each job kept once, in one place."""
        with self.client.pipeline() as pipe:
            for key in LISTS:
                pipe.lrange(key, 0, -1)
            pipe.hgetall(self.keys.messages)
            pipe.smembers(self.keys.lanes)
            pipe.zrange(self.keys.scheduled, 0, -1)
            pipe.zrange(self.keys.dead_letters, 0, -1)
            pipe.hkeys(self.keys.dead_reasons)
            pipe.smembers(self.keys.unsettled)
            pipe.smembers(self.keys.workers)
            pipe.keys(self.keys.lane("*"))
            pipe.keys(self.keys.leases("*"))
            *ingress, messages, lanes, scheduled, dead, reasons, unsettled, workers, lane_keys, lease_keys = pipe.execute()
            for key in lane_keys:
                pipe.lrange(key, 0, -1)
            for key in lease_keys:
                pipe.hgetall(key)
            *found, = pipe.execute()
        waiting, leases = found[: len(lane_keys)], found[len(lane_keys) :]
        kept = Counter(raw for part in ingress for raw in part) + Counter(messages.values())
        assert kept == self.owed, f"lost {self.owed - kept}, too many {kept - self.owed}"

        places = Counter(entry[:16] for part in (scheduled, dead, *waiting, *(one.values() for one in leases)) for entry in part)
        assert set(places) == set(messages), "a job without its message, or a message without a job"
        assert set(places.values()) <= {1}, f"in two places: {[job for job, count in places.items() if count > 1]}"
        routed = [(entry[:16], entry[FRAME_BYTES:].decode()) for part in (scheduled, *(one.values() for one in leases)) for entry in part]
        prefix = len(self.keys.lane_prefix)
        routed += [(frame[:16], key[prefix:].decode()) for key, part in zip(lane_keys, waiting, strict=True) for frame in part]
        for job, lane in routed:
            assert parse_lane(lane).task == task_of(messages[job]), "a job in the lane of another"
        assert {self.keys.lane(name.decode()).encode() for name in lanes} == set(lane_keys), "a lane that the snapshot does not see"
        assert set(reasons) == set(dead) >= set(unsettled)
        assert {self.keys.leases(epoch.decode()).encode() for epoch in workers} >= set(lease_keys), "leases that nobody will reap"
        ids = Counter(id_ for one in leases for id_ in one)
        assert set(ids.values()) <= {1}

    def check_nothing_is_held_back(self, one: Dispatcher) -> None:
        """Invariant 4: no job waits for which a worker that may run it has room; suspects, and workers kept for them, aside."""
        paused = cast("set[str]", self.text.smembers(self.keys.paused))
        filters = standard_filters(stall_ms=3_000)
        suspects = one.parts.suspects
        kept = suspects._emptying | (suspects._alone or set())
        workers = [
            view
            for process in self.processes
            if (view := self.view(process.stub)) is not None and view.room and view.epoch not in kept
        ]
        for name in cast("set[str]", self.text.smembers(self.keys.lanes)):
            lane = parse_lane(name)
            if {"*", lane.ingress} & paused or lane.alone:
                continue
            for worker in workers:
                refusals = [by.refuses(lane, worker) for by in filters]
                assert any(refusals), f"a job of {name} waits, and {worker.name} has room"

    def view(self, stub: Stub) -> WorkerView | None:
        """The worker as Redis has it."""
        facts = cast("dict[str, str]", self.text.hgetall(self.keys.worker(stub.epoch)))
        if not facts or not self.text.exists(self.keys.alive(stub.epoch)):
            return None
        said = self.dispatchers[0].parts.store.registrations().learn([stub.epoch]).new[stub.epoch]
        return WorkerView(
            epoch=stub.epoch, name=said.name, concurrency=said.concurrency, weight=said.weight, models=frozenset(said.models),
            tasks=frozenset(said.tasks), ingress=frozenset(said.ingress), leases=len(stub.leases()), leased_cost_ms=0, taken=0,
            window=WINDOW, draining=facts.get("draining", ""), consume_age_ms=int(facts.get("consume_age_ms", "0")),
            labels=said.labels,
        )  # fmt: skip

    # -- walking

    def go(self, events: int) -> None:
        """SAFETY: any events in any order."""
        often: list[Callable[[], None]] = [self.produce, self.tick, self.tick_tick, self.pop, self.take, self.end, self.run, self.beat]
        seldom: list[Callable[[], None]] = [
            self.produce_twice, self.produce_garbage, self.produce_for_later, self.requeue_at_the_head, self.steal, self.time_comes,
            self.change_leader, self.restart_dispatcher, self.lose_scripts, self.lose_sequence, self.pause, self.resume, self.requeue_dead,
            self.register, self.register, self.pop_again, self.flush, self.give_back, self.give_back, self.retry, self.freeze, self.thaw,
            self.silence, self.goodbye, self.drain, self.undrain, self.undrain,
        ]  # fmt: skip
        for _ in range(events):
            event = self.rng.choice(often if self.rng.random() < 0.65 else seldom)
            self.said.append(event.__name__)
            event()
            self.check_account()

    def settle(self) -> None:
        """LIVENESS: the faults stop, a worker comes that can do anything; all that is owed is run, or is a dead letter."""
        self.said.append("settle")
        for one in self.dispatchers:
            cast("Any", one.parts.store).is_on = False
        self.admin.resume()
        self.change_leader()  # who held the lead may have been killed
        self.time_comes_for_all()
        for process in self.processes:
            process.frozen = True
        helper = Process(
            self.stage.worker(
                "helper", concurrency=CONCURRENCY, ingress=QUEUES, tasks=TASKS, models=("minilm",), labels={"region": "eu"}
            )
        )
        self.processes.append(helper)
        for _ in range(4):
            self.silence()
        for _ in range(2_000):
            self.time_comes_for_all()
            self.step(self.dispatchers[0])
            self.step(self.dispatchers[1])
            self.check_account()
            while lease_id := helper.stub.pop():
                self.take_at(helper, lease_id)
            if not helper.running and sum(self.owed.values()) == self.text.zcard(self.keys.dead_letters):
                break
            helper.outbox, helper.running = helper.outbox + helper.running, []
            if helper.outbox:
                self.flush_at(helper)
        assert sum(self.owed.values()) == self.text.zcard(self.keys.dead_letters), f"nobody will run what is left: {self.where()}"
        assert set(self.text.smembers(self.keys.workers)) == {helper.stub.epoch}, "dead workers are left"
        assert {parse_entry(entry).job for entry in helper.stub.leases().values()} == set()

    def where(self) -> dict[str, object]:
        """What is where, for a failure's message."""
        lists = {key: self.text.llen(key) for key in (*LISTS, *cast("list[str]", self.text.keys(self.keys.lane("*"))))}
        leases = {key: self.text.hlen(key) for key in cast("list[str]", self.text.keys(self.keys.leases("*")))}
        return {**lists, **leases, "scheduled": self.text.zcard(self.keys.scheduled), "alive": self.text.keys(self.keys.alive("*"))}

    def time_comes_for_all(self) -> None:
        for entry in cast("list[str]", self.text.zrange(self.keys.scheduled, 0, -1)):
            self.text.zadd(self.keys.scheduled, {entry: 1})


@cache
def task_of(raw: bytes) -> str:
    return str(json.loads(raw)["headers"]["task"])


def seeds(ordinary: range) -> list[Any]:
    first, _, last = os.environ.get("WALK_SEEDS", "").partition("-")
    return [
        pytest.param(seed, id=f"seed{seed}") for seed in (range(int(first), int(last or first) + 1) if first else ordinary)
    ]


def walk(url: str, seed: int) -> None:
    made = Walk(url, seed)
    try:
        made.go(EVENTS)
        made.settle()
    except BaseException:
        print(f"after {len(made.said)} events, the last of which were {', '.join(made.said[-8:])}; to repeat it:")
        print(f"    WALK_SEEDS={seed} python -m pytest tests/integration/test_invariants.py -k 'seed{seed} and short'")
        raise
    finally:
        made.stage.close()


@pytest.mark.parametrize("seed", seeds(SEEDS))
def test_a_short_walk(redis_url: str, seed: int) -> None:
    """SAFETY after each of some hundred events, LIVENESS in the end."""
    walk(redis_url, seed)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", seeds(LONG_SEEDS))
def test_another_short_walk(redis_url: str, seed: int) -> None:
    """The same from seeds that take minutes together."""
    walk(redis_url, seed)
