"""A cell from its first process to its last job."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import redis

from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.registration import Registration
from tests.messages import envelope
from tests.simulation.account import Broken, Job
from tests.simulation.chaos import Chaos
from tests.simulation.processes import AutoscalerProcess, DispatcherProcess
from tests.simulation.server import redis_time
from tests.simulation.worker import WorkerProcess
from tests.simulation.world import LISTS, QUEUES, Process, World

TASKS = ("demo.job", "demo.pay")
PAY = "demo.pay"
"""Its workers say acks_late=False: it runs at most once."""
FAULTY_S = 20.0
CLOCK_WRONG_S = 25.0
"""Longer than an ejection, and a probe after it."""
SETTLE_S = 240.0
"""How long after the last fault everything must be done. Jobs with a retry, a backoff or a deadline need most of it."""


class Simulation(World):
    """Production code under faults that are all drawn from ``seed``."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        backend = SimpleNamespace(mark_as_failure=self._store_failure, store_result=self._store_failure)
        self.backend = SimpleNamespace(backend=backend, tasks={}, conf=SimpleNamespace(accept_content=["json"]))
        self.operator = Process(self, "operator")
        self.operator.holds_up = 0.0
        self.operator.line.away = lambda: False
        self.wire = self.operator.client(text=False)
        self.admin = AdminStore(self.operator.client(text=True), self.keys, QUEUES)
        self.behaviours: dict[str, str] = {}
        self.sent_jobs = 0

    def _store_failure(self, *_args: Any, **_kwargs: Any) -> None:
        if self.is_faulty and self.rng.random() < 0.2:
            raise redis.ConnectionError("the result backend is away")

    # -- processes

    def start_dispatcher(self) -> None:
        if len(self.living(DispatcherProcess)) < 2:
            DispatcherProcess(self, f"dispatcher{len(self.processes)}").line.loss = self.loss

    def start_worker(
        self, name: str, *, ended: Callable[[WorkerProcess, bool], Any] | None = None, helper: bool = False
    ) -> WorkerProcess:
        rng = self.rng
        registration = Registration(
            name, "sim", 1, concurrency=rng.choice((1, 2, 4)), weight=1.0 if helper else rng.choice((0.5, 1.0, 2.0)),
            ingress=QUEUES if helper else rng.choice((QUEUES, QUEUES, ("gpu",))), tasks=(*TASKS, PROBE_TASK),
            models=("minilm",) if helper or rng.random() < 0.7 else (), at_most_once=(PAY,),
        )  # fmt: skip
        worker = WorkerProcess(self, registration, self._behave, ended or self._restart, has_loop=rng.random() < 0.7)
        worker.line.loss = self.loss
        return worker

    def _restart(self, worker: WorkerProcess, again: bool) -> None:
        if again:
            delay_us = self.rng.randrange(200_000, 2_000_000)
            helper = worker.name.startswith("helper")
            self.at(self.now_us + delay_us, None, lambda: self.start_worker(worker.name, helper=helper) and None)

    @property
    def loss(self) -> float:
        return 0.01 if self.is_faulty else 0.0

    # -- jobs

    def publish(self, task_id: str | None = None, *, key: str | None = None, at_the_head: bool = False, **headers: Any) -> bytes:
        rng = self.rng
        self.sent_jobs += 1
        task_id = task_id or f"job{self.sent_jobs}"
        task = PAY if rng.random() < 0.1 else "demo.job"
        said: dict[str, Any] = {"cost": rng.choice((0.02, 0.3, 3.0))} if rng.random() < 0.7 else {}
        due_ms, deadline = 0, False
        if rng.random() < 0.3:
            said["model"] = "minilm"
        if rng.random() < 0.2:
            said["session"] = f"s{rng.randrange(3)}"
        if rng.random() < 0.2:
            said["tenant"] = rng.choice("ab")
        if rng.random() < 0.1:
            said["deadline_s"], deadline = rng.choice((0.5, 5.0, 1e4)), True
        if rng.random() < 0.1:
            due_ms = self.redis_ms() + rng.randrange(10_000)
            headers["eta"] = datetime.fromtimestamp(due_ms / 1000, UTC).isoformat()
        self.behaviours.setdefault(task_id, rng.choices(
            ("done", "failed", "retried", "rejected", "kills its process", "kills its worker", "cannot be delivered"),
            (80, 5, 5, 5, 2, 2, 1),
        )[0])  # fmt: skip
        made = envelope(task_id, task=task, dispatch=said, **headers)
        made["properties"]["delivery_tag"] = made["properties"]["reply_to"] = f"{rng.getrandbits(128):032x}"
        raw = json.dumps(made).encode()
        reasons = {"kills its process": {"process_died"}, "kills its worker": {"worker_died"}, "cannot be delivered": {"delivery_failed"}}
        allowed = reasons.get(self.behaviours[task_id], set()) | ({"deadline_passed"} if deadline else set())
        job = Job(raw, task, said.get("model", "default"), due_ms, deadline, task == PAY, frozenset(allowed))
        self._push(job, key or rng.choice(LISTS), at_the_head=at_the_head)
        return raw

    def _push(self, job: Job, key: str, *, at_the_head: bool = False) -> None:
        self.account.published(job)
        (self.wire.rpush if at_the_head else self.wire.lpush)(key, job.raw)

    def republish(self, message: bytes) -> None:
        """As a task's retry does."""
        headers = json.loads(message)["headers"]
        self.behaviours[headers["id"]] = "done"
        self.publish(headers["id"], retries=1)

    def _behave(self, message: bytes, attempts: int) -> tuple[str, float]:
        outcome = self.behaviours.get(json.loads(message)["headers"]["id"], "done")
        if outcome == "rejected" and attempts >= 2:
            outcome = "done"
        return outcome, self.rng.choice((0.01, 0.1, 0.1, 1.0, 8.0 if self.is_faulty else 1.0))

    # -- a simulation

    def run(self) -> None:
        """SAFETY under faults, then LIVENESS without."""
        logging.disable(logging.CRITICAL)
        before = random.getstate()
        random.seed(self.seed)
        try:
            with redis_time(self.redis_s):
                for _ in range(2):
                    self.start_dispatcher()
                for i in range(self.rng.randint(1, 4)):
                    self.start_worker(f"w{i}@sim")
                if self.rng.random() < 0.3:
                    AutoscalerProcess(self)
                Chaos(self).begin(FAULTY_S)
                self.run_for(FAULTY_S)
                self._settle()
        finally:
            random.setstate(before)
            logging.disable(logging.NOTSET)

    def _settle(self) -> None:
        self.say("no more faults")
        self.is_faulty = False
        self.admin.resume()
        for process in self.processes:
            process.frozen_until_us = 0
            process.line.loss, process.line.is_cut = 0.0, False
        for worker in self.living(WorkerProcess):
            worker.life.drain("")
        self.start_worker("helper@sim", helper=True)
        if self.hours_us:
            self._clock_stays_wrong()
        ends_us = self.now_us + round(SETTLE_S * 1e6)
        while self._unfinished():
            if self.now_us > ends_us:
                raise Broken(f"nobody will do what is left: {self.account.left()}, workers {self._who_lives()}")
            self.run_for(1.0)
        self.run_for(1.0)

    def leads(self, dispatcher: DispatcherProcess) -> bool:
        """True if Redis has its name as the leader's."""
        return bool(self.server.value(self.keys.leader) == dispatcher.store.token.encode())

    def _clock_stays_wrong(self) -> None:
        """For a while without faults: what workers do is learned from, and who was ejected returns. Then a clock that was set back is right
        again, so that jobs are due that were to begin later.
        """
        self.run_for(2.0)
        for dispatcher in self.living(DispatcherProcess):
            if not self.leads(dispatcher):
                dispatcher.kill()  # a standby that takes over begins anew, and would hide a leader that waits
        self.account.clock_is_set()
        self.redis_skew_us += self.hours_us
        self.say("Redis' clock is set by as much again")
        self.run_for(CLOCK_WRONG_S)
        leaders = [one for one in self.living(DispatcherProcess) if self.leads(one)]
        self.account.demand(len(leaders) == 1, f"{len(leaders)} dispatchers lead after Redis' clock was set")
        silent_ms = self.true_ms() - leaders[0].read_at_ms
        self.account.demand(silent_ms <= 3_000, f"nothing was learned in the last {silent_ms} ms: Redis' clock was set")
        made_up = [epoch for epoch, ejection in leaders[0].ejections.items() if ejection.reason == "made up"]
        self.account.demand(not made_up, f"{made_up} are still ejected: Redis' clock was set")
        if self.hours_us < 0:
            self.account.clock_is_set()
            self.redis_skew_us -= 2 * self.hours_us

    def _unfinished(self) -> bool:
        return bool(self.account.left()) or any(
            worker.epoch not in self.account.ended and worker._runs for worker in self.living(WorkerProcess)
        ) or not self._who_lives()[1]

    def _who_lives(self) -> tuple[list[str], bool]:
        """Epochs that Redis knows of, and whether each belongs to a living process."""
        known = sorted(epoch.decode() for epoch in self.server.members(self.keys.workers))
        return known, set(known) <= {worker.epoch for worker in self.living(WorkerProcess)}
