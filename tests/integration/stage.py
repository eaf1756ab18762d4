"""A dispatcher and stub workers in this process, on a real Redis, with a clock that the test moves."""

from __future__ import annotations

import json
from base64 import b64decode
from itertools import count
from random import Random
from typing import Any, cast

from celery import Celery
from celery.app.task import Context

from dispatcher.clock import ManualClock
from dispatcher.core.admission.rules import Admission
from dispatcher.core.health.liveness import JITTER_MS
from dispatcher.core.returns.ending import GiveBack
from dispatcher.events import Event
from dispatcher.leader.build import make_dispatcher
from dispatcher.leader.dispatcher import Dispatcher, StepReport
from dispatcher.leader.settle import Settler
from dispatcher.settings import Settings
from dispatcher.store.frame import Entry, parse_entry
from dispatcher.store.keys import Keys
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.unsettled_store import UnsettledStore
from dispatcher.store.redis_client.connection import celery_url, connect
from dispatcher.store.registration import Registration
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS, Beat
from tests.life import Life, Taken
from tests.messages import TASK

TICK_MS = 500
RESULT_DB = 1


class Stub:
    """A worker without Celery: it does one thing at a time, when told."""

    def __init__(self, stage: Stage, epoch: str, registration: Registration) -> None:
        self.stage = stage
        self.epoch = epoch
        self.name = registration.name
        self.labels = registration.labels
        self.store = Life(stage.text, stage.keys, epoch)
        assert self.store.register(registration)
        self.done = 0

    def beat(self, **facts: Any) -> Beat:
        return self.store.heartbeat({"done": self.done, "consume_age_ms": 0, **facts})

    def queued(self) -> list[str]:
        """Lease ids in the queue, next first."""
        return list(reversed(cast("list[str]", self.stage.text.lrange(self.stage.keys.worker_queue(self.epoch), 0, -1))))

    def leases(self) -> dict[str, Entry]:
        found = cast("dict[str, str]", self.stage.text.hgetall(self.stage.keys.leases(self.epoch)))
        return {id_: parse_entry(entry) for id_, entry in found.items()}

    def pop(self) -> str | None:
        return cast("str | None", self.stage.text.rpop(self.stage.keys.worker_queue(self.epoch)))

    def take(self) -> Taken | None:
        """Pop and start the next job; ``None`` if there is none."""
        lease_id = self.pop()
        return None if lease_id is None else self.store.take(lease_id)

    def end(self, taken: Taken, result: object = "done") -> None:
        """Store the result as Celery would, chord counted, then ack."""
        message = json.loads(taken.message)
        embed = json.loads(b64decode(message["body"]))[2]
        context = Context({**message["headers"], **embed, "called_directly": False, "delivery_info": {}, "args": [], "kwargs": {}})
        self.stage.app.backend.mark_as_done(message["headers"]["id"], result, request=context)
        self.store.ack([taken.lease_id])
        self.done += 1

    def run_all(self) -> list[str]:
        """Task ids of the jobs run, in order, until the queue is empty."""
        ran = []
        while (taken := self.take()) is not None:
            self.end(taken)
            ran.append(task_id(taken))
        return ran


class Stage:
    """``app`` sends jobs as anybody's Celery app would; ``dispatcher`` is stepped by the test."""

    def __init__(self, url: str, *, prefix: str = "", app: Celery | None = None, **settings: Any) -> None:
        self.url = url
        self.client = connect(url, text=False)
        self.text = connect(url)
        self.keys = Keys(prefix=prefix)
        self.clock = ManualClock(1_000_000)
        self.events: list[Event] = []
        self.settings = Settings(redis_url=url, **({"window_extra": 2, "leader_ttl_s": 60.0} | settings))
        self.app = app or make_app(url, prefix=prefix)
        self.workers: dict[str, Stub] = {}
        self._epochs = count(1)
        self.dispatcher = self.make_dispatcher("leader-1")
        self.settler = Settler(UnsettledStore(self.client, self.keys, "leader-1"), self.app, self.events.append)

    def close(self) -> None:
        self.app.close()
        self.client.close()
        self.text.close()

    def make_dispatcher(self, token: str, store: DispatchStore | None = None, **options: Any) -> Dispatcher:
        return make_dispatcher(
            store or self.make_store(token),
            self.settings,
            admission=Admission(routes={}, default_cost_s=1.0),
            clock=self.clock,
            rng=Random(1),
            emit=self.events.append,
            **options,
        )

    def make_store(self, token: str) -> DispatchStore:
        return DispatchStore(connect(self.url, text=False), self.keys, token)

    def worker(self, name: str = "w1", epoch: str | None = None, **facts: Any) -> Stub:
        given: dict[str, Any] = {"name": f"{name}@h", "host": "h", "pid": 1, "concurrency": 1, "tasks": (TASK,)}
        stub = Stub(self, epoch or f"{next(self._epochs):012x}", Registration(**(given | facts)))
        self.workers[stub.epoch] = stub
        return stub

    def send(self, jobs: int = 1, **options: Any) -> list[str]:
        """Task ids of jobs sent through Celery."""
        return [self.app.send_task(TASK, **options).id for _ in range(jobs)]

    def step(self) -> StepReport:
        return self.dispatcher.step()

    def steps(self, limit: int = 200) -> None:
        """Step until nothing is left to do: twice nothing, for the first may have learned of a queue that the second reads."""
        quiet = 0
        for _ in range(limit):
            report = self.step()
            busy = report.more or report.admitted or report.assigned or report.promoted or report.returned
            quiet = 0 if busy else quiet + 1
            if quiet == 2:
                return
        raise AssertionError(f"the dispatcher is not done after {limit} steps: {report}")

    def pass_ms(self, span_ms: int, *, silent: tuple[Stub, ...] = ()) -> None:
        """Time passes, the dispatcher ticking: workers beat, the ``silent`` ones do not. Redis' clock cannot be moved, so the dates of
        beats are: of the last of a silent worker to a minute ago, once; of the others a little, so that each is seen to be new.
        """
        for stub in silent:
            if cast("int", self.text.pttl(self.keys.alive(stub.epoch))) > ALIVE_TTL_MS - 59_000:
                self.text.pexpire(self.keys.alive(stub.epoch), ALIVE_TTL_MS - 60_000)
        self.step()
        for tick in range(span_ms // TICK_MS):
            self.clock.now_ms += TICK_MS
            for stub in self.workers.values():
                if stub not in silent:
                    stub.beat()
                    self.text.pexpire(self.keys.alive(stub.epoch), ALIVE_TTL_MS - 4 * JITTER_MS * (tick % 2))
            self.step()

    # -- what is there

    def waiting(self) -> list[Entry]:
        """Entries of all lanes; next first in each."""
        found: list[Entry] = []
        for lane in sorted(cast("set[str]", self.text.smembers(self.keys.lanes))):
            frames = cast("list[str]", self.text.lrange(self.keys.lane(lane), 0, -1))
            found += [parse_entry(frame + lane) for frame in frames]
        return found

    def reasons(self) -> dict[str, str]:
        """Task id (or job number) → reason of each dead letter."""
        found: dict[str, str] = {}
        for job in cast("list[str]", self.text.zrange(self.keys.dead_letters, 0, -1)):
            record = json.loads(cast("str", self.text.hget(self.keys.dead_reasons, job)))
            if record.get("task_id") is None and (raw := self.client.hget(self.keys.messages, job)):
                record["task_id"] = _id_in(cast("bytes", raw))
            found[record["task_id"] or job] = record["reason"]
        return found

    def kinds(self) -> list[str]:
        """Names of the events so far."""
        return [type(event).__name__ for event in self.events]

    def is_empty(self) -> bool:
        """Whether no job is in keeping anywhere."""
        keys = self.keys
        leases = sum(len(stub.leases()) for stub in self.workers.values())
        return not leases and not self.text.exists(keys.messages, keys.lanes, keys.scheduled, keys.dead_letters, *keys.ingress("dispatch"))


def task_id(taken: Taken) -> str:
    return str(json.loads(taken.message)["headers"]["id"])


def recall(lease_id: str) -> GiveBack:
    return GiveBack(lease_id, "recalls")


def make_app(url: str, *, prefix: str = "") -> Celery:
    """A producer's app: nothing of ours is in it. Results go to another database."""
    app = Celery(
        "stage", broker=celery_url(url), backend=celery_url(url.rpartition("=")[0] + f"={RESULT_DB}"), set_as_current=False
    )
    app.conf.update(task_default_queue="dispatch", broker_transport_options={"global_keyprefix": prefix} if prefix else {})

    def job(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("stubs run no tasks")

    def errback(failed_id: str) -> None:
        raise AssertionError("stubs run no tasks")

    for name, function in ((TASK, job), ("demo.callback", job), ("demo.errback", errback)):
        app.task(function, name=name, shared=False)
    return app


def _id_in(raw: bytes) -> str | None:
    try:
        return str(json.loads(raw)["headers"]["id"])
    except (ValueError, LookupError, TypeError):
        return None


def in_turn(stub: Stub, stage: Stage) -> list[str]:
    """Task ids in the order in which a worker of one slot is given them."""
    ran: list[str] = []
    while True:
        stage.step()
        if not (now := stub.run_all()):
            return ran
        ran += now
