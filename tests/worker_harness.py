"""A cell for worker tests: a real dispatcher in a thread, real Celery workers as processes or in threads, an independent ledger."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import kombu.pools
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.wiring import build_dispatcher
from dispatcher.worker import attach
from tests.eventually import eventually
from tests.interpreters import start_python
from tests.worker_app import Ledger, make_app

QUICK = {"heartbeat_s": 0.2, "lease_ttl_s": 3, "idle_wait_s": 0.05, "reject_backoff_s": 0.2, "window_extra": 2}


class Sent:
    """A job that was sent. Reads its result as any client could: Celery's own results subscribe, and outlive the test's Redis."""

    def __init__(self, client: redis.Redis, job: str) -> None:
        self.id = job
        self._client = client

    @property
    def state(self) -> str:
        """Celery's state, PENDING where the backend knows nothing."""
        text = self._client.get(f"celery-task-meta-{self.id}")
        return json.loads(text)["status"] if text else "PENDING"

    def get(self, timeout_s: float = 10.0) -> Any:
        """The result, or what the job failed with, once it has ended."""
        eventually(lambda: self.state in {"SUCCESS", "FAILURE", "REVOKED"}, timeout_s)
        return json.loads(self._client.get(f"celery-task-meta-{self.id}"))["result"]


class WorkerProcess:
    """``celery worker`` in a process of its own, its output in a file."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        log.write_bytes(b"")
        self.process = start_python(command, env, log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, sig: signal.Signals) -> None:
        self.process.send_signal(sig)

    def wait(self, timeout_s: float = 15.0) -> int:
        """The exit code."""
        return eventually(lambda: (self.process.poll(),) if self.process.poll() is not None else None, timeout_s, self.output)[0]

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    def end(self) -> None:
        if self.lives:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGKILL)
            self.process.wait(10)


@contextmanager
def open_cell(url: str, folder: Path, *, dispatcher: bool = True, **settings: Any) -> Iterator[Cell]:
    """A :class:`Cell` that is closed at the end, its dispatcher running unless told otherwise."""
    cell = Cell(url, folder, **settings)
    try:
        if dispatcher:
            cell.start_dispatcher()
        yield cell
    finally:
        cell.close()


class Cell:
    """One dispatcher and its workers over the Redis at ``url``. Everything ends with :meth:`close`."""

    def __init__(
        self, url: str, folder: Path, *, keys: Keys | None = None, app_options: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        self.url = url
        self.folder = folder
        self.app_options = app_options or {}
        self.settings = Settings(redis_url=url, **(QUICK | settings))
        self.ledger_path = folder / "ledger"
        kombu.pools.reset()  # of this URL, too, left by tests before this, which may have killed them
        self.app = self.make_app(attached=False, result_backend="disabled://")
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.keys = keys or Keys()
        self.ledger = Ledger(self.ledger_path)
        self.workers: list[WorkerProcess] = []
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def make_app(self, **conf: Any) -> Celery:
        """An app of this cell."""
        return make_app(self.url, self.ledger_path, **self.app_options, **conf)

    # -- the dispatcher

    def start_dispatcher(self) -> None:
        process = build_dispatcher(self.settings, self.make_app(attached=False), rng=Random(0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=process.run, args=(self._stop,), daemon=True)
        self._thread.start()

    def stop_dispatcher(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join(10)
            self._thread = None

    # -- workers

    def environment(self) -> dict[str, str]:
        env = dict(os.environ, TEST_BROKER=self.url, TEST_LEDGER=str(self.ledger_path), PYTHONWARNINGS="ignore")
        for name in ("heartbeat_s", "lease_ttl_s", "reject_backoff_s", "attempts_max", "shutdown_grace_s"):
            env[f"DISPATCHER_{name.upper()}"] = str(getattr(self.settings, name))
        return env

    def spawn(
        self, name: str = "w1", *, pool: str = "prefork", concurrency: int = 2, ready: bool = True, options: tuple[str, ...] = ()
    ) -> WorkerProcess:
        """Start ``celery worker``; with ``ready``, wait until it is registered."""
        command = [
            sys.executable, "-m", "celery", "-A", "tests.worker_app", "worker", "-n", f"{name}@test", "-P", pool,
            "-c", str(concurrency), "--without-gossip", "--without-mingle", "-l", "INFO", *options,
        ]  # fmt: skip
        worker = WorkerProcess(f"{name}@test", command, self.environment(), self.folder / f"{name}.log")
        self.workers.append(worker)
        if ready:
            self.wait_registered(worker)
        return worker

    def wait_registered(self, worker: WorkerProcess) -> str:
        """Its epoch, once it is registered."""

        def registered() -> str | None:
            assert worker.lives, worker.output()
            return self.epoch_of(worker.name)

        return eventually(registered, 20, worker.output)

    @contextmanager
    def in_process(
        self, *, pool: str = "threads", concurrency: int = 2, app: Celery | None = None, **options: Any
    ) -> Iterator[Any]:
        """A worker in a thread of this process, as Celery's own test helper starts it."""
        app = app or self.make_app()
        attach(app, self.settings)
        options = {"perform_ping_check": False, "hostname": "inner@test"} | options
        # A fork takes along the locks of redis-py that the dispatcher's threads hold just then, and kombu asks for them in the child.
        forks_beside = pool == "prefork" and self._thread is not None
        if forks_beside:
            self.stop_dispatcher()
        with start_worker(app, pool=pool, concurrency=concurrency, **options) as worker:
            eventually(lambda: self.epoch_of("inner@test"))
            if forks_beside:
                self.start_dispatcher()
            yield worker

    # -- what Redis says

    def registrations(self) -> dict[str, dict[str, Any]]:
        """Registrations of the lives that are not forgotten, by epoch."""
        found = {}
        for epoch in self.client.smembers(self.keys.workers):
            if text := self.client.hget(self.keys.worker(epoch), "registration"):
                found[epoch] = json.loads(text)
        return found

    def epoch_of(self, name: str) -> str | None:
        """The living epoch of a node name."""
        alive = [e for e, one in self.registrations().items() if one["name"] == name and self.client.exists(self.keys.alive(e))]
        return alive[0] if alive else None

    def leases(self, epoch: str | None = None) -> list[str]:
        """Lease ids, of one life or of all."""
        names = [self.keys.leases(epoch)] if epoch else self.client.keys(self.keys.leases("*"))
        return [lease for name in names for lease in self.client.hkeys(name)]

    def no_leases(self) -> bool:
        assert self.leases() == []
        return True

    def waiting(self) -> int:
        return sum(self.client.llen(key) for key in self.client.keys(self.keys.lane("*"))) + self.client.llen("dispatch")

    def lanes_hold(self) -> int:
        """How many jobs lie in lanes."""
        return sum(self.client.llen(key) for key in self.client.keys(self.keys.lane("*")))

    def dead_letters(self) -> dict[str, dict[str, Any]]:
        return {job: json.loads(text) for job, text in self.client.hgetall(self.keys.dead_reasons).items()}

    def drain(self, epoch: str, mode: str) -> None:
        """As ``dispatcher drain`` does."""
        self.client.hset(self.keys.worker(epoch), "draining", mode) if mode else self.client.hdel(self.keys.worker(epoch), "draining")

    # -- jobs

    def send(self, task: str, *args: Any, count: int = 1, **options: Any) -> list[Sent]:
        return [Sent(self.client, self.app.send_task(task, args, **options).id) for _ in range(count)]

    def lease(self, epoch: str, message: str | None = None, task: str = "work", job: str = "1000000000000001") -> str:
        """Lease a message to a worker as ``assign`` would, past all that ``admit`` refuses; the lease id."""
        entry = f"{job}{1:013d}{1000:09d}00000000{0:013d}dispatch/{task}/default/p0/c10"
        lease_id = f"{epoch}.{job}"
        if message is not None:
            self.client.hset(self.keys.messages, job, message)
        self.client.hset(self.keys.leases(epoch), lease_id, entry)
        self.client.lpush(self.keys.worker_queue(epoch), lease_id)
        return lease_id

    def raw(self, task: str, *args: Any, **options: Any) -> str:
        """A message as a producer sends it, taken off a queue that nobody admits from."""
        self.app.send_task(task, args, queue="aside", **options)
        return self.client.rpop("aside")

    def runs(self) -> Counter[str]:
        """Task id → how often it began."""
        return Counter(self.ledger.started())

    def kill_connections(self) -> None:
        """Every client's connection, as a network blip would; the one that asks is spared."""
        self.client.client_kill_filter(_type="normal", skipme=True)

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.stop_dispatcher()
        self.app.close()
        self.client.close()


def log_lines(worker: WorkerProcess, pattern: str) -> list[str]:
    return re.findall(pattern, worker.log.read_text(errors="replace"))
