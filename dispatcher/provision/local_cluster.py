"""A whole cluster on this machine while a ``with`` block lasts: Redis, dispatcher, workers, perhaps Flower."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

import redis

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import Invalid, Unavailable
from dispatcher.observe.log_lines import log_line
from dispatcher.provision.autoscaler import Autoscaler
from dispatcher.provision.base import WorkerKind
from dispatcher.provision.child import Child, Children, ended_early
from dispatcher.provision.embedded_redis import EmbeddedRedis
from dispatcher.provision.fleet_file import Fleet, FleetEntry, default_fleet
from dispatcher.provision.local_flower import free_port, start_flower, wait_for_flower
from dispatcher.provision.processes import APP
from dispatcher.provision.state_folder import StateFolder
from dispatcher.provision.supervisor import Supervised, Supervisor
from dispatcher.settings import Settings, load_settings
from dispatcher.store.keys import Keys
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.redis_client.redaction import redact

READY_TIMEOUT_S: Final = 60.0
READY_TIMEOUT_PER_WORKER_S: Final = 5.0
"""A worker takes two seconds of processor time to start, and they all start at once."""


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """A worker process of the cluster."""

    name: str
    """Celery's node name."""
    pid: int
    weight: float
    concurrency: int
    models: tuple[str, ...]


class LocalCluster:
    """``with LocalCluster(fleet) as cluster:`` starts a cluster and waits for its workers.

    At the end of the block no process is left. A process that ends by itself is started again. If this process is
    killed, the others end too (on Linux).
    """

    def __init__(
        self,
        fleet: Fleet | Sequence[WorkerKind] | None = None,
        redis_url: str | None = None,
        *,
        settings: Settings | None = None,
        flower: bool = False,
        flower_port: int | None = None,
        folder: Path | None = None,
        app: str = APP,
        environ: Mapping[str, str] = os.environ,
        stop_timeout_s: float = 10.0,
        clock: Clock | None = None,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        """``settings`` of ``None``: read them from ``environ``.

        ``redis_url`` of ``None``: the settings' URL, else an embedded Redis. ``folder`` holds the socket, the data and
        the logs; without it they are in a temporary folder that is removed at the end. ``flower_port`` of ``None``: the
        settings' port, else any free port. ``app`` is Celery's ``-A``. ``stop_timeout_s``: how long running jobs may
        take at the end. ``on_event`` gets a sentence for each process that is started again and for each decision of
        the autoscaler.
        """
        if fleet is None:
            fleet = default_fleet()
        elif not isinstance(fleet, Fleet):
            fleet = Fleet(tuple(FleetEntry(kind) for kind in fleet))
        self.fleet = fleet
        self.settings = settings or load_settings(environ)
        self.redis_url = redis_url or self.settings.redis_url
        self.flower_url: str | None = None
        self._with_flower = flower
        self._flower_port = flower_port
        self._chosen_folder = folder
        self._app = app
        self._environ = dict(environ)
        self._stop_timeout_s = stop_timeout_s
        self._clock = clock or SystemClock()
        self._on_event = on_event or (lambda _: None)
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> LocalCluster:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_sigterm_unwinds())
            self._start(stack)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._cleanup.close()

    # -- what it offers

    @property
    def workers(self) -> list[LocalWorker]:
        """The workers that run now."""
        return [
            LocalWorker(worker.name, worker.pid, worker.kind.weight, worker.kind.concurrency, worker.kind.models)
            for worker in self.provisioner.list()
            if not worker.stopping
        ]

    def kill(self, name: str) -> None:
        """SIGKILL a worker and its pool, and do not start it again. ``name`` with or without ``@host``."""
        if self.provisioner.child(name) is None:
            names = ", ".join(worker.name for worker in self.workers) or "none"
            raise Invalid(f"no worker {name!r} runs here: there are {names}")
        self.provisioner.kill(name)

    def status(self) -> dict[str, Any]:
        """What ``dispatcher status --json`` prints."""
        return self.admin.status()

    # -- starting

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Start all parts in the order in which they need each other; ``stack`` stops them in the opposite order."""
        folder = self._enter_folder(stack)
        logs = folder.path / "logs"
        logs.mkdir(exist_ok=True)
        for old in logs.glob("*.log"):
            old.unlink()
        children = Children(self._clock)
        stack.callback(children.close)
        embedded = redis_child = None
        if not self.redis_url:
            embedded = EmbeddedRedis(folder.path, children, self._environ, self._clock)
            stack.callback(embedded.stop)
            redis_child = embedded.start()
            self.redis_url = embedded.url
        client = connect(self.redis_url)
        stack.callback(client.close)
        _check_answers(client, self.redis_url)
        self.admin = AdminStore(client, Keys(cell=self.settings.cell))
        settings = replace(self.settings, redis_url=self.redis_url)
        port = free_port(self.settings.flower_port, self._flower_port) if self._with_flower else None
        if port is not None:
            self.flower_url = f"http://127.0.0.1:{port}"
            settings = replace(settings, flower_url=settings.flower_url or self.flower_url)
        supervisor = Supervisor(
            children, settings, environ=self._environ, logs=logs, app=self._app, task_events=self._with_flower,
            clock=self._clock, on_event=self._on_event,
            slots=self.fleet.slots_most(settings.autoscaler_workers_max if settings.autoscaler_enabled else 0),
        )  # fmt: skip
        self.provisioner = supervisor.workers
        if embedded is not None and redis_child is not None:
            supervisor.keep("Redis", redis_child, embedded.start)
        dispatcher = self._start_dispatcher(stack, children, supervisor, logs)
        flower = self._start_flower(stack, children, supervisor, logs, port) if port is not None else None
        stack.callback(lambda: self.provisioner.stop_all(timeout_s=self._stop_timeout_s))
        started = [self.provisioner.start_named(name, kind).name for name, kind in self.fleet.workers()]
        self._wait_until_ready(started, dispatcher, logs)
        if flower is not None and port is not None:
            wait_for_flower(flower.child, port, self._clock)
        stack.enter_context(supervisor.running())
        if settings.autoscaler_enabled:
            self._start_autoscaler(stack, settings)
        folder.announce(self.redis_url)

    def _enter_folder(self, stack: contextlib.ExitStack) -> StateFolder:
        if self._chosen_folder is not None:
            return stack.enter_context(StateFolder(self._chosen_folder))
        path = Path(tempfile.mkdtemp(prefix="dispatcher-cluster-"))
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        return stack.enter_context(StateFolder(path))

    def _start_dispatcher(
        self, stack: contextlib.ExitStack, children: Children, supervisor: Supervisor, logs: Path
    ) -> Supervised:
        command = [sys.executable, "-m", "dispatcher", *(("-A", self._app) if self._app != APP else ()), "run"]

        def start() -> Child:
            return children.start("dispatcher", command, log=logs / "dispatcher.log", environ=supervisor.environ)

        dispatcher = supervisor.keep("the dispatcher", start(), start)
        stack.callback(lambda: children.stop([dispatcher.child], timeout_s=5.0))
        return dispatcher

    def _start_flower(
        self, stack: contextlib.ExitStack, children: Children, supervisor: Supervisor, logs: Path, port: int
    ) -> Supervised:
        def start() -> Child:
            log, environ = logs / "flower.log", supervisor.environ
            return start_flower(children, self.redis_url, port, app=self._app, log=log, environ=environ)

        flower = supervisor.keep("Flower", start(), start)
        stack.callback(lambda: children.stop([flower.child], timeout_s=3.0))
        return flower

    def _start_autoscaler(self, stack: contextlib.ExitStack, settings: Settings) -> None:
        client = connect(self.redis_url, text=False)
        stack.callback(client.close)
        autoscaler = Autoscaler(
            client, self.admin.keys, settings, kinds=self.fleet.kinds(), provisioner=self.provisioner,
            clock=self._clock, emit=lambda event: self._on_event(f"autoscaler: {log_line(event)[1]}"),
        )  # fmt: skip
        stop = threading.Event()
        thread = threading.Thread(target=autoscaler.run, args=(stop,), name="autoscale", daemon=True)
        thread.start()
        stack.callback(thread.join, 5.0)
        stack.callback(stop.set)

    # -- waiting

    def _wait_until_ready(self, names: Sequence[str], dispatcher: Supervised, logs: Path) -> None:
        timeout_s = READY_TIMEOUT_S + READY_TIMEOUT_PER_WORKER_S * len(names)
        deadline_ms = self._clock.monotonic_ms() + round(timeout_s * 1000)
        ready: set[str] = set()
        while self._clock.monotonic_ms() < deadline_ms:
            if dispatcher.child.exit_code is not None:
                raise Unavailable(f"the dispatcher {ended_early(dispatcher.child)}")
            for name in names:
                child = self.provisioner.child(name)
                if child is not None and child.exit_code is not None:
                    raise Unavailable(f"worker {name} {ended_early(child)}")
            status = self.admin.status()
            ready = {worker["name"] for worker in status["workers"] if worker["state"] == "ready"}
            if ready.issuperset(names) and status["leader"]:
                return
            self._clock.sleep(0.1)
        late = sorted(set(names) - ready) or ["the dispatcher"]
        raise Unavailable(f"not ready within {timeout_s:.0f} s: {', '.join(late)}; the logs are in {logs}")


def _check_answers(client: redis.Redis, url: str) -> None:
    try:
        client.ping()
    except redis.RedisError as exc:
        raise Unavailable(
            f"Redis at {redact(url)} does not answer ({exc}): start it, or name another with --redis-url"
        ) from exc


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """While the cluster starts, SIGTERM leaves the ``with`` block instead of ending this process at once.

    Only where SIGTERM has no handler yet, and only in the main thread.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def unwind(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
