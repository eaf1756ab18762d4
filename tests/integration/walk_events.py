"""What may happen to a cell, in any order: producers, workers, dispatchers and accidents, over the real stores and a real Redis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import redis

from dispatcher.core.facts.labels import refused
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.returns.ending import BadEnd, Cause, GiveBack, verdict
from dispatcher.errors import EpochEnded
from dispatcher.leader.dispatcher import Dispatcher, StepReport
from dispatcher.store.frame import lane_of
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS
from tests.integration.stage import Stage, Stub, make_app
from tests.lua.cell import dump
from tests.messages import TASK, message

CONCURRENCY = 2
WINDOW = CONCURRENCY + 1  # window_extra is 1, and there is no time to hide: windows do not move
QUEUES = ("dispatch", "gpu")
TASKS = (TASK, "demo.pay")
MODELS = ("default", "minilm")
LISTS = tuple(key for queue in QUEUES for key in (queue, f"{queue}\x06\x163", f"{queue}\x06\x169"))


@dataclass
class Process:
    """What a worker process has in its memory, which Redis does not know of."""

    stub: Stub
    frozen: bool = False
    popped: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    outbox: list[str] = field(default_factory=list)


class Unreliable:
    """The store of a dispatcher whose replies are lost now and then, before or after the call has done its work, and for which the
    world moves on between a look and what is made of it.
    """

    def __init__(self, store: Any, rng: Random, meanwhile: Callable[[], None]) -> None:
        self._store = store
        self._rng = rng
        self._meanwhile = meanwhile
        self.is_on = True

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in ("apply", "giveback", "end_silent", "forget_worker", "look", "leases", "bury_late"):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            luck = self._rng.random() if self.is_on else 1.0
            if luck < 0.02:
                raise redis.ConnectionError("lost before")
            result = found(*args, **kwargs)
            if luck < 0.04:
                raise redis.ConnectionError("lost after")
            if luck < 0.3 and name in ("look", "leases"):
                self._meanwhile()
            return result

        return call


class Events(ABC):
    """A cell with two dispatchers and some workers, what may happen to it in any order, and the account of what must be in it."""

    def __init__(self, url: str, seed: int) -> None:
        self.rng, self.luck = Random(seed), Random(seed)
        self.stage = Stage(
            url, app=make_app(url), window_extra=1, window_hide_ms=0.0, hold_ratio=0.0, attempts_max=3, models=("minilm",),
            leader_ttl_s=3_600.0,
        )  # fmt: skip
        self.client, self.text, self.keys = self.stage.client, self.stage.text, self.stage.keys
        self.admin = AdminStore(self.text, self.keys, QUEUES)
        self.dispatchers = [self._dispatcher(f"leader-{i}") for i in (1, 2)]
        self.processes: list[Process] = []
        self.owed: Counter[bytes] = Counter()  # messages accepted and not acked
        self.taken: set[str] = set()
        self.sent = 0
        self.said: list[str] = []
        self.raced = False
        self.overtaken: dict[bytes, object] | None = None
        self.register()

    def _dispatcher(self, token: str) -> Dispatcher:
        store: Any = Unreliable(self.stage.make_store(token), self.luck, lambda: self.meanwhile(made))
        made = self.stage.make_dispatcher(token, store)
        return made

    # -- events; each is an order that may happen at any time

    def produce(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.push(self.new_message())

    def new_message(self, task_id: str | None = None, **facts: Any) -> bytes:
        self.sent += 1
        model, cost = self.rng.choice(MODELS), self.rng.choice((None, 0.1, 5.0))
        said: dict[str, Any] = {name: value for name, value in (("model", model), ("cost", cost)) if value not in (None, "default")}
        if self.rng.random() < 0.2:
            said["deadline_s"] = self.rng.choice((0.001, 1e6))
        if self.rng.random() < 0.2:
            said["requires"] = {"region": self.rng.choice(("eu", ["eu", "us"]))}
        return message(task_id or f"job-{self.sent}", task=self.rng.choice(TASKS), dispatch=said, **facts)

    def push(self, raw: bytes) -> None:
        self.client.lpush(self.rng.choice(LISTS), raw)
        self.owed[raw] += 1

    def produce_twice(self) -> None:
        """A retried publish: one delivery tag, two messages."""
        raw = self.new_message()
        self.push(raw)
        self.push(raw)

    def produce_garbage(self) -> None:
        """With a number at its end, so that each can be told from the others."""
        self.sent += 1
        kind = self.rng.choice((b"\xff\x00 %d", b"!%d", b'{"headers": %d}', b"[%d"))
        self.push(self.rng.choice((kind % self.sent, self.new_message(eta="tomorrow"))))

    def produce_for_later(self) -> None:
        self.push(self.new_message(eta="2999-01-01T00:00:00"))

    def requeue_at_the_head(self) -> None:
        """As kombu's restore does it."""
        raw = self.new_message()
        self.client.rpush(self.rng.choice(LISTS), raw)
        self.owed[raw] += 1

    def steal(self) -> None:
        """A stock worker consumes the queue too; what it popped is no job of ours."""
        raw = cast("bytes | None", self.client.rpop(self.rng.choice(LISTS)))
        if raw is not None:
            self.forget(raw)

    def time_comes(self) -> None:
        """What is scheduled becomes due."""
        for entry in cast("list[str]", self.text.zrange(self.keys.scheduled, 0, 2)):
            self.text.zadd(self.keys.scheduled, {entry: 1})

    def tick(self) -> None:
        self.step(self.rng.choice(self.dispatchers))

    def tick_tick(self) -> None:
        for _ in range(self.rng.randint(1, 4)):
            self.tick()

    def change_leader(self) -> None:
        self.text.delete(self.keys.leader)

    def restart_dispatcher(self) -> None:
        """Killed at any point; the next one knows what is in Redis."""
        at = self.rng.randrange(2)
        self.dispatchers[at] = self._dispatcher(f"leader-{self.sent}-{at}-{self.rng.random()}")

    def lose_scripts(self) -> None:
        self.client.script_flush()

    def lose_sequence(self) -> None:
        self.client.delete(self.keys.sequence)

    def pause(self) -> None:
        self.admin.pause(self.rng.choice(QUEUES))

    def resume(self) -> None:
        self.admin.resume()

    def requeue_dead(self) -> None:
        self.admin.dead_letters().requeue()

    def register(self) -> None:
        if sum(not process.frozen for process in self.processes) >= 5:
            return
        queues = self.rng.choice((("dispatch",), ("gpu",), QUEUES))
        tasks = self.rng.choice((TASKS, TASKS[:1]))
        stub = self.stage.worker(
            f"w{len(self.processes)}", concurrency=CONCURRENCY, weight=self.rng.choice((0.5, 1.0, 4.0)), ingress=queues, tasks=tasks,
            models=self.rng.choice(((), ("minilm",))), at_most_once=("demo.pay",),
            labels=self.rng.choice(({}, {"region": "eu"}, {"region": "us"})),
        )  # fmt: skip
        self.processes.append(Process(stub))

    def some(self, of: Callable[[Process], bool] = lambda process: True) -> Process | None:
        able = [process for process in self.processes if not process.frozen and of(process)]
        return self.rng.choice(able) if able else None

    def pop(self) -> None:
        if (process := self.some()) and (lease_id := process.stub.pop()):
            process.popped.append(lease_id)

    def pop_again(self) -> None:
        """Redis lost the pop with its last writes: the id is in the queue once more."""
        if process := self.some(lambda process: bool(process.popped or process.running)):
            self.text.rpush(self.keys.worker_queue(process.stub.epoch), self.rng.choice(process.popped + process.running))

    def take(self) -> None:
        if process := self.some(lambda process: bool(process.popped)):
            self.take_at(process, process.popped.pop(self.rng.randrange(len(process.popped))))

    def take_at(self, process: Process, lease_id: str) -> None:
        before, lives = dump(self.client), self.lives(process)
        started, late = process.stub.store.pipe.take(lease_id.encode(), 1)
        if not started:
            assert dump(self.client) == before, "a refused take wrote something"
            with suppress(EpochEnded):
                process.stub.store.giveback([GiveBack.late(late_id) for late_id in late])
            return
        assert lives, "a dead epoch started a job"
        assert lease_id not in self.taken, f"lease {lease_id} was taken twice"
        refusal = refused(parse_lane(lane_of(started[0].entry)).requires, process.stub.labels)
        assert refusal is None, f"a job began where it must not: {refusal}"
        self.taken.add(lease_id)
        process.running.append(lease_id)

    def run(self) -> None:
        """A whole life: popped, taken, ended."""
        for _ in range(3):
            self.pop()
            self.take()
        self.end()

    def end(self) -> None:
        """Jobs end; their acks are sent at once, or wait in the outbox."""
        if process := self.some(lambda process: bool(process.running)):
            count = self.rng.randint(1, len(process.running))
            process.outbox += process.running[:count]
            del process.running[:count]
            if self.rng.random() < 0.8:
                self.flush_at(process)

    def flush(self) -> None:
        if process := self.some(lambda process: bool(process.outbox)):
            self.flush_at(process)

    def flush_at(self, process: Process) -> None:
        """Sent until answered: now and then twice."""
        stub = process.stub
        for _ in range(self.rng.choice((1, 1, 2))):
            entries = cast("list[str | None]", self.text.hmget(self.keys.leases(stub.epoch), process.outbox))
            raws = [self.client.hget(self.keys.messages, entry[:16]) for entry in entries if entry]
            before, lives = dump(self.client), self.lives(process)
            try:
                ended = stub.store.ack(process.outbox)
            except EpochEnded:
                assert dump(self.client) == before, "a refused ack wrote something"
                break
            assert lives, "a dead epoch acked a job"
            assert ended == len(raws)
            for raw in raws:
                self.forget(cast("bytes", raw))
        process.outbox.clear()

    def forget(self, raw: bytes) -> None:
        self.owed[raw] -= 1
        if not self.owed[raw]:
            del self.owed[raw]

    def give_back(self) -> None:
        """A child died, a task rejected itself, or the worker recalls what it has not started."""
        if process := self.some(lambda process: bool(process.running or process.popped)):
            counter = self.rng.choice(("crashes", "rejects", "recalls", ""))
            held = process.running or process.popped
            lease_id = self.rng.choice(held)
            before, lives = dump(self.client), self.lives(process)
            try:
                ended = process.stub.store.giveback([self.returned(process, lease_id, counter)], delay_ms=1_000)
            except EpochEnded:
                ended = 0
            else:
                assert lives, "a dead epoch gave a job back"
            if not ended:
                assert dump(self.client) == before, "a refused giveback wrote something"
            if counter != "recalls" or not process.running:
                held.remove(lease_id)
            elif ended:
                raise AssertionError("a running job was recalled")

    def returned(self, process: Process, lease_id: str, counter: str) -> GiveBack:
        entry = process.stub.leases().get(lease_id)
        if counter != "crashes" or entry is None:
            return GiveBack(lease_id, counter)
        end = BadEnd(
            lease_id, Cause.PROCESS_DIED, "crashed", process.stub.name, process.stub.epoch, alone=len(process.running) == 1,
            deaths=entry.deaths, at_most_once=False,
        )  # fmt: skip
        return verdict(end, attempts_max=3)

    def lives(self, process: Process) -> bool:
        return bool(self.text.exists(self.keys.alive(process.stub.epoch)))

    def retry(self) -> None:
        """Celery publishes the next try before it acks this one."""
        if process := self.some(lambda process: bool(process.running)):
            self.push(self.new_message(f"retried-{self.rng.randrange(3)}", retries=1))
            process.outbox.append(process.running.pop())
            self.flush_at(process)

    def beat(self) -> None:
        for process in self.processes:
            if not process.frozen and self.rng.random() < 0.8:
                process.stub.beat(consume_age_ms=self.rng.choice((0, 0, 0, 0, 5_000)))

    def freeze(self) -> None:
        """Or killed: from outside they look the same."""
        if process := self.some():
            process.frozen = True

    def thaw(self) -> None:
        """It goes on where it was, not knowing that it was declared dead."""
        for process in self.processes:
            if process.frozen and self.rng.random() < 0.5:
                process.frozen = False
                for lease_id in process.popped[:]:
                    process.popped.remove(lease_id)
                    self.take_at(process, lease_id)
                if process.running and self.rng.random() < 0.5:
                    process.outbox, process.running = process.outbox + process.running, []
                    self.flush_at(process)

    def silence(self) -> None:
        """Seven seconds go by, in which the frozen ones say nothing."""
        live = [process for process in self.processes if not process.frozen]
        silent = tuple(process.stub for process in self.processes if process.frozen)
        self.age(silent)
        for tick in range(7):
            self.stage.clock.now_ms += 1_000
            for process in live:
                process.stub.beat()
                self.text.pexpire(self.keys.alive(process.stub.epoch), ALIVE_TTL_MS - 200 * (tick % 2))
            for one in self.dispatchers:
                self.step(one)

    def age(self, silent: tuple[Stub, ...]) -> None:
        for stub in silent:
            if cast("int", self.text.pttl(self.keys.alive(stub.epoch))) > ALIVE_TTL_MS - 59_000:  # once: a new date is a new beat
                self.text.pexpire(self.keys.alive(stub.epoch), ALIVE_TTL_MS - 60_000)

    def goodbye(self) -> None:
        """After which some go on for a while all the same."""
        if process := self.some():
            process.stub.store.goodbye()
            if self.rng.random() < 0.5:
                self.processes.remove(process)

    def drain(self) -> None:
        if process := self.some():
            process.stub.store.drain(self.rng.choice(("exit", "keep", "keep", "keep")))  # who exits is not undrained

    def undrain(self) -> None:
        if process := self.some():
            process.stub.store.drain("")

    # -- a step, and what happens in it

    @abstractmethod
    def step(self, one: Dispatcher) -> StepReport | None:
        """One dispatcher steps; ``None`` where it did not lead or was cut off."""

    def meanwhile(self, one: Dispatcher) -> None:
        """Between what ``one`` has seen and what it does about it: workers, producers, other leaders."""
        if self.raced:
            return
        self.raced = True
        self.said.append("meanwhile")
        for event in self.luck.sample(self.racing, 3):
            self.said.append(event.__name__)
            event()
        if self.luck.random() < 0.3:
            other = next(dispatcher for dispatcher in (*self.dispatchers, self._dispatcher("third")) if dispatcher is not one)
            self.change_leader()
            with suppress(redis.ConnectionError):
                other.step()
            if self.luck.random() < 0.5:
                self.text.set(self.keys.leader, one.parts.store.token)  # Redis lost its last writes
            elif self.text.get(self.keys.leader) not in (None, one.parts.store.token):
                self.overtaken = dump(self.client)

    @property
    def racing(self) -> list[Callable[[], None]]:
        return [
            self.produce, self.requeue_at_the_head, self.steal, self.run, self.pop, self.take, self.end, self.give_back, self.goodbye,
            self.drain, self.undrain, self.register, self.requeue_dead, self.thaw, self.pause,
        ]  # fmt: skip
