"""A cell of real processes: Redis, dispatcher, Celery workers; and a ledger, in a Redis of its own, of what ran, where and when.

Nothing here looks into a process. What is asserted comes from the ledger, from Redis, from results and from exit codes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from celery.result import AsyncResult

from dispatcher.settings import Settings
from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.sentinel import transport_options
from tests.eventually import eventually
from tests.interpreters import ROOT, start_python
from tests.proxy import Proxy
from tests.redis_server import RedisServer
from tests.sentinels import Sentinels
from tests.tls import TlsProxy

Way = RedisServer | Proxy | Sentinels | TlsProxy
"""What has the URLs by which a process of the cell gets to Redis."""
PATIENCE_S = 60.0
"""How long a test waits for what must happen at some time: the machine may be busy."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger. ``at_ms`` is its Redis' time; both Redis servers read the same clock."""

    at_ms: int
    what: str
    job: str
    worker: str
    pid: int
    task: str


class Ledger:
    """What the tasks themselves wrote down."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client(1, decode_responses=True)
        self.url = server.url(1)

    def entries(self) -> list[Entry]:
        return [
            Entry(int(id_.split("-")[0]), one["what"], one["job"], one["worker"], int(one["pid"]), one["task"])
            for id_, one in self._client.xrange("ledger")
        ]

    def starts(self) -> list[Entry]:
        return [entry for entry in self.entries() if entry.what == "start"]

    def runs(self) -> Counter[str]:
        """Task id → how often it began."""
        return Counter(entry.job for entry in self.starts())

    def ended(self) -> set[str]:
        """Jobs that came to an end at least once."""
        return {entry.job for entry in self.entries() if entry.what == "end"}

    def running(self) -> list[Entry]:
        """Executions that began and have not ended, those of dead processes included."""
        open_: dict[tuple[str, int], Entry] = {}
        for entry in self.entries():
            if entry.what == "start":
                open_[entry.job, entry.pid] = entry
            else:
                open_.pop((entry.job, entry.pid), None)
        return list(open_.values())

    def now_ms(self) -> int:
        """The time that entries are dated by."""
        seconds, microseconds = self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def say(self, what: str) -> None:
        """Tasks that wait for this word go on."""
        self._client.lpush(what, "1")

    def length(self) -> int:
        """Cheaper than reading it."""
        return int(self._client.xlen("ledger"))


class Process:
    """A process in a group of its own, its output in a file."""

    def __init__(self, name: str, command: Sequence[str], environ: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = start_python(command, environ, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def send(self, sig: signal.Signals) -> None:
        """To the process alone: its children must manage."""
        self._process.send_signal(sig)

    def kill(self) -> None:
        """SIGKILL of the process alone, and wait until it has gone."""
        self.send(signal.SIGKILL)
        self._process.wait(30)

    def freeze(self) -> None:
        """SIGSTOP of the process and its children."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self.pid, signal.SIGCONT)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit code, once it has exited by itself."""
        return eventually(lambda: None if self.exit_code is None else (self.exit_code,), timeout_s, self.tail)[0]

    def end(self) -> None:
        """Kill the group, whatever state it is in."""
        for sig in (signal.SIGKILL, signal.SIGCONT):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, sig)
        self._process.wait(30)

    def tail(self, bytes_max: int = 4000) -> str:
        return f"--- {self.name} (exit code {self.exit_code})\n{self.log.read_text(errors='replace')[-bytes_max:]}"


WIDE_WINDOWS = {"window_extra": 2}
"""Workers hold more than they run, so that there is something queued to be lost."""


class Cluster:
    """One cell. ``end()`` kills all of it."""

    def __init__(
        self, broker: RedisServer | Sentinels, ledger: RedisServer, folder: Path, *, app: str = "tests.process.app", **settings: Any
    ) -> None:
        """``app``: the module that processes are started of. ``settings``: knobs of the dispatcher by name, for every process."""
        self._app = app
        self.broker = broker
        self.ledger = Ledger(ledger)
        self.keys = Keys()
        self.client: redis.Redis = broker.client(decode_responses=True)
        self.folder = folder
        self.processes: list[Process] = []
        self.environ = dict(os.environ) | {
            **broker_environ(broker),
            "PROMISE_LEDGER": self.ledger.url,
            "PYTHONWARNINGS": "ignore",
            **{f"DISPATCHER_{name.upper()}": str(value) for name, value in (WIDE_WINDOWS | settings).items()},
        }
        # The producer knows nothing of a dispatcher: Celery, a broker, a default queue.
        self.producer = Celery("producer", broker=broker.celery_url(), backend=broker.celery_url(1), set_as_current=False)
        self.producer.conf.update(
            task_default_queue="dispatch",
            result_backend_thread_safe=True,
            broker_transport_options=transport_options(broker.url()),
            result_backend_transport_options=transport_options(broker.url()),
        )

    # -- processes

    def start_dispatcher(self, *, leads: bool = True, via: Way | None = None) -> Process:
        """A dispatcher; with ``leads``, one that leads by now. ``via``: its way to Redis."""
        count = sum(one.name.startswith("dispatcher") for one in self.processes)
        command = [sys.executable, "-m", "dispatcher", "-A", self._app, "run"]
        process = self._start(f"dispatcher{count}", command, via)

        def leading() -> bool:
            assert process.exit_code is None, process.tail()
            return self.leader_pid() == process.pid

        if leads:
            eventually(leading, PATIENCE_S, process.tail)
        return process

    def start_ready_made(self, *options: str, **environ: str) -> Settings:
        """A dispatcher and a worker of the ready-made app with these options, over this broker; the settings of who submits to them."""
        self.environ |= environ | {"DISPATCHER_REDIS_URL": self.broker.url()}
        dispatcher = self._start("dispatcher0", [sys.executable, "-m", "dispatcher", "run"])
        self.epoch(self.start_ready_made_worker("w1", *options))
        eventually(lambda: self.leader_pid() == dispatcher.pid, PATIENCE_S, dispatcher.tail)
        return Settings(redis_url=self.broker.url(), chunk_lines_max=8)

    def start_ready_made_worker(self, name: str, *options: str) -> Process:
        """A worker of the ready-made app; does not wait for it."""
        command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-n", f"{name}@promise", "-c", "2", "-l", "WARNING"]
        return self._start(name, [*command, "--models", "deadly", *options])

    def leader_pid(self) -> int | None:
        """The process that leads now."""
        info = self.client.hget(self.keys.leader_info, "info")
        return json.loads(info)["pid"] if info and self.client.exists(self.keys.leader) else None

    def start_worker(
        self, name: str, *options: str, pool: str = "prefork", concurrency: int = 2, ready: bool = True, via: Way | None = None,
        app: str | None = None,
    ) -> Process:
        """``celery worker``, with Celery's own options; with ``ready``, waits until it is registered. ``via``: its way to Redis.

        ``app``: of another module than the cluster's.
        """
        command = [
            sys.executable, "-m", "celery", "-A", app or self._app, "worker", "-n", f"{name}@promise", "-P", pool,
            "-c", str(concurrency), "-l", "WARNING", *options,
        ]  # fmt: skip
        process = self._start(name, command, via)
        if ready:
            self.epoch(process)
        return process

    def start_workers(self, *names: str, **options: Any) -> list[Process]:
        """Several, started together."""
        workers = [self.start_worker(name, ready=False, **options) for name in names]
        for worker in workers:
            self.epoch(worker)
        return workers

    def _start(self, name: str, command: Sequence[str], via: Way | None = None) -> Process:
        environ = self.environ | (broker_environ(via) if via else {})
        process = Process(name, command, environ, self.folder / f"{name}.log")
        self.processes.append(process)
        return process

    def epoch(self, worker: Process) -> str:
        """The life of a worker process, once it is registered."""

        def registered() -> str | None:
            assert worker.exit_code is None, worker.tail()
            for epoch in self.client.smembers(self.keys.workers):
                text = self.client.hget(self.keys.worker(epoch), "registration")
                if text and json.loads(text)["pid"] == worker.pid:
                    return str(epoch)
            return None

        return eventually(registered, PATIENCE_S, worker.tail)

    def command(self, *arguments: str, via: Way | None = None) -> str:
        """What ``dispatcher ARGUMENTS`` prints, run as an operator would. ``via``: its way to Redis."""
        environ = self.environ | {"DISPATCHER_REDIS_URL": (via or self.broker).url()}
        done = subprocess.run(
            [sys.executable, "-m", "dispatcher", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    # -- jobs

    def send(self, task: str, *args: Any, count: int = 1, **options: Any) -> list[str]:
        """Plain ``send_task``; the task ids."""
        return [self.producer.send_task(task, args, **options).id for _ in range(count)]

    def result(self, job: str) -> AsyncResult:
        return self.producer.AsyncResult(job)

    def states(self, jobs: Sequence[str]) -> Counter[str]:
        """How many of the jobs have which state in the result backend."""
        backend = self.producer.backend
        with self.broker.client(1) as client:
            texts = client.mget([backend.get_key_for_task(job) for job in jobs])
        return Counter(json.loads(text)["status"] if text else "PENDING" for text in texts)

    def all_succeed(self, jobs: Sequence[str], timeout_s: float = PATIENCE_S) -> None:
        """Wait until every job's result is there."""
        eventually(lambda: self.states(jobs) == {"SUCCESS": len(jobs)}, timeout_s, lambda: self.states(jobs))

    # -- what Redis says

    def now_ms(self) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def leases(self, epoch: str) -> int:
        return int(self.client.hlen(self.keys.leases(epoch)))

    def taken(self, epoch: str) -> int:
        return int(self.client.hlen(self.keys.taken(epoch)))

    def queued(self, epoch: str) -> int:
        return int(self.client.llen(self.keys.worker_queue(epoch)))

    def gone_at_ms(self, epoch: str) -> int | None:
        """When a life was forgotten, by Redis' clock: not before all its leases had gone back."""
        score = self.client.zscore(self.keys.gone, epoch)
        return None if score is None else int(score)

    def dead_letters(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.client.hvals(self.keys.dead_reasons)]

    def kept(self) -> dict[str, Any]:
        """Every place that may hold a job, and how many it holds: all but what belongs to living workers and has no job in it."""
        jobs_of = ("messages", "lanes", "scheduled", "lane:", "leases:", "taken:", "wq:", "dead_letters", "dead_reasons", "unsettled")
        held = {}
        for key in self.client.scan_iter(count=1000):
            ours = key.startswith("dispatch:") and key.removeprefix("dispatch:").startswith(jobs_of)
            if ours or key.startswith(("unacked", "dispatch\x06", "a\x06", "b\x06")) or key in {"dispatch", "a", "b"}:
                held[key] = self.client.type(key)
        return held

    def bindings_of_worker_queues(self) -> list[str]:
        """Bindings that kombu left behind and that name a worker's list."""
        return [
            member
            for key in self.client.scan_iter("_kombu.binding.*", count=1000)
            for member in self.client.smembers(key)
            if ":wq:" in key + member
        ]

    def nothing_is_left(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until no list, hash or set of the dispatcher holds a job, and kombu's ``unacked`` is empty."""
        eventually(lambda: not self.kept(), timeout_s, self.kept)
        assert self.bindings_of_worker_queues() == []

    def each_ran_once(self, jobs: Iterable[str]) -> None:
        """By the ledger: these jobs, no others, once each, to the end."""
        jobs = set(jobs)
        runs = self.ledger.runs()
        assert runs.keys() == jobs, f"{len(jobs - runs.keys())} never ran, {len(runs.keys() - jobs)} are unknown"
        assert {job: count for job, count in runs.items() if count > 1} == {}
        assert self.ledger.ended() == jobs

    # -- the end

    def end(self) -> None:
        """Kill everything, and print the logs: pytest shows them where a test failed."""
        for process in self.processes:
            process.end()
        for process in self.processes:
            print(process.tail())
        self.producer.close()
        self.client.close()


def freeze_with_a_popped_job(cluster: Cluster, worker: Process) -> list[str]:
    """Freeze the only worker, idle, so that the next job's lease is popped into its socket. The last id is that job's.

    A worker that is frozen while it is not waiting at its list pops nothing: it is thawed, runs the job, and is frozen again.
    """
    epoch = cluster.epoch(worker)
    jobs: list[str] = []
    for _ in range(20):
        worker.freeze()
        jobs += cluster.send("noop")
        eventually(lambda: cluster.leases(epoch) == 1, PATIENCE_S)
        if cluster.queued(epoch) == 0:
            return jobs
        worker.thaw()
        cluster.all_succeed(jobs)
        eventually(lambda: cluster.leases(epoch) == 0, PATIENCE_S)
    raise AssertionError("it was never waiting at its list")


def broker_environ(way: Way) -> dict[str, str]:
    """How a process of the cell gets to Redis."""
    return {"PROMISE_BROKER": way.url(), "PROMISE_RESULTS": way.url(1)}


MakeCluster = Callable[..., Cluster]
