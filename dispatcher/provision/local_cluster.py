"""A whole cluster on this machine, for as long as a ``with`` block lasts: Redis, dispatcher, workers, perhaps Flower."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
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
from dispatcher.observe import flower
from dispatcher.observe.log_lines import log_line
from dispatcher.provision.autoscaler import Autoscaler
from dispatcher.provision.base import WorkerKind
from dispatcher.provision.child import Child, Children
from dispatcher.provision.embedded_redis import EmbeddedRedis, StateFolder
from dispatcher.provision.fleet_file import Fleet, FleetEntry, default_fleet
from dispatcher.provision.processes import BACKOFF_S, ProcessProvisioner, how_it_ended
from dispatcher.settings import Settings, load_settings, settings_environ
from dispatcher.store.keys import Keys
from dispatcher.store.operator.admin_store import AdminStore
from dispatcher.store.redis_client.connection import connect
from dispatcher.store.redis_client.redaction import redact

APP: Final = "workers.app"
SUPERVISE_S: Final = 0.2
READY_TIMEOUT_S: Final = 60.0
READY_TIMEOUT_PER_WORKER_S: Final = 5.0
"""A worker takes two seconds of processor time to start, and they all start at once."""
FLOWER_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """A worker process of the cluster. ``name`` is its Celery node name."""

    name: str
    pid: int
    weight: float
    concurrency: int
    models: tuple[str, ...]


@dataclass(slots=True)
class _Supervised:
    """A process that must run as long as the cluster does."""

    name: str
    child: Child
    start: Callable[[], Child]
    failures: int = 0
    restart_at_ms: int | None = None


class LocalCluster:
    """``with LocalCluster(fleet) as cluster:`` has a cluster whose workers are all ready; afterwards no process is left.

    What ends without being told to is started again. Where this process is killed the others end too (on Linux).
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
        """``redis_url`` of ``None``: that of the settings, else an embedded Redis. ``settings`` of ``None``: those of ``environ``.

        ``folder`` holds the socket, the data and the logs; without one they are in a temporary folder that ends with the
        cluster. ``flower_port`` of ``None``: the settings' port, else any that is free. ``app`` is what Celery's ``-A`` gets.
        ``stop_timeout_s``: how long running jobs may take at the end. ``on_event`` hears, in a sentence, of what was started again.
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
        self._supervised: list[_Supervised] = []
        self._stopping = threading.Event()
        self._supervision = threading.RLock()

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
            LocalWorker(one.name, one.pid, one.kind.weight, one.kind.concurrency, one.kind.models)
            for one in self.provisioner.list()
            if not one.stopping
        ]

    def kill(self, name: str) -> None:
        """SIGKILL a worker, its pool included, and leave it dead. ``name`` with or without ``@host``."""
        if self.provisioner.child(name) is None:
            raise Invalid(f"no worker {name!r} runs here: there are {', '.join(one.name for one in self.workers) or 'none'}")
        self.provisioner.kill(name)

    def status(self) -> dict[str, Any]:
        """What ``dispatcher status --json`` prints."""
        return self.admin.status()

    def log_of(self, name: str) -> Path:
        """The log of a process: ``redis``, ``dispatcher``, ``flower`` or a worker's short name."""
        return self._logs / f"{name}.log"

    # -- starting

    def _start(self, stack: contextlib.ExitStack) -> None:
        folder = self._folder(stack)
        self._logs = folder.path / "logs"
        self._logs.mkdir(exist_ok=True)
        for old in self._logs.glob("*.log"):
            old.unlink()
        children = Children(self._clock)
        stack.callback(children.close)
        if not self.redis_url:
            embedded = EmbeddedRedis(folder.path, children, self._environ, self._clock)
            stack.callback(embedded.stop)
            embedded.start()
            self._supervise("Redis", _child_of(embedded), lambda: _restarted(embedded))
            self.redis_url = embedded.url
        client = connect(self.redis_url)
        stack.callback(client.close)
        _check_answers(client, self.redis_url)
        self.admin = AdminStore(client, Keys(cell=self.settings.cell))
        port = self._free_port() if self._with_flower else None
        settings = replace(self.settings, redis_url=self.redis_url)
        if port is not None:
            self.flower_url = f"http://127.0.0.1:{port}"
            settings = replace(settings, flower_url=settings.flower_url or self.flower_url)
        environ = self._environ | settings_environ(settings)
        self.provisioner = ProcessProvisioner(
            children, environ=environ, logs=self._logs, app=self._app, task_events=self._with_flower, clock=self._clock,
            on_restart=lambda name, why: self._on_event(f"worker {name} {why}"),
        )  # fmt: skip

        def start_dispatcher() -> Child:
            command = [sys.executable, "-m", "dispatcher", *(("-A", self._app) if self._app != APP else ()), "run"]
            return children.start("dispatcher", command, log=self._logs / "dispatcher.log", environ=environ)

        dispatcher = self._supervise("the dispatcher", start_dispatcher(), start_dispatcher)
        stack.callback(lambda: children.stop([dispatcher.child], timeout_s=5.0))
        if port is not None:
            self._start_flower(stack, children, environ, port)
        stack.callback(lambda: self.provisioner.stop_all(timeout_s=self._stop_timeout_s))
        started = [self.provisioner.start_named(name, kind).name for name, kind in self.fleet.workers()]
        self._wait_until_ready(started, dispatcher)
        if self.flower_url is not None:
            self._wait_for_flower()
        supervisor = threading.Thread(target=self._run_supervision, name="supervise", daemon=True)
        supervisor.start()
        stack.callback(supervisor.join, 5.0)
        if settings.autoscaler_enabled:
            self._start_autoscaler(stack, settings)
        stack.callback(self._stopping.set)
        folder.announce(self.redis_url)

    def _folder(self, stack: contextlib.ExitStack) -> StateFolder:
        if self._chosen_folder is not None:
            return stack.enter_context(StateFolder(self._chosen_folder))
        path = Path(tempfile.mkdtemp(prefix="dispatcher-cluster-"))
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        return stack.enter_context(StateFolder(path))

    def _supervise(self, name: str, child: Child, start: Callable[[], Child]) -> _Supervised:
        self._supervised.append(_Supervised(name, child, start))
        return self._supervised[-1]

    def _start_flower(
        self, stack: contextlib.ExitStack, children: Children, environ: Mapping[str, str], port: int
    ) -> None:
        command = flower.command(self.redis_url, port, self._app)
        environ = {**environ, **flower.environment(self.redis_url)}

        def start_flower() -> Child:
            return children.start("flower", command, log=self._logs / "flower.log", environ=environ)

        supervised = self._supervise("Flower", start_flower(), start_flower)
        stack.callback(lambda: children.stop([supervised.child], timeout_s=3.0))

    def _start_autoscaler(self, stack: contextlib.ExitStack, settings: Settings) -> None:
        client = connect(self.redis_url, text=False)
        stack.callback(client.close)
        autoscaler = Autoscaler(
            client, self.admin.keys, settings, kinds=self.fleet.kinds(), provisioner=self.provisioner, clock=self._clock,
            emit=lambda event: self._on_event(f"autoscaler: {log_line(event)[1]}"),
        )  # fmt: skip
        thread = threading.Thread(target=autoscaler.run, args=(self._stopping,), name="autoscale", daemon=True)
        thread.start()
        stack.callback(thread.join, 5.0)

    def _free_port(self) -> int:
        wanted = self._flower_port or self.settings.flower_port
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                if self._flower_port is not None:
                    raise Invalid(f"port {wanted} is taken: choose another with --port-flower, or use --no-flower") from None
            else:
                return wanted
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    # -- waiting

    def _wait_until_ready(self, names: Sequence[str], dispatcher: _Supervised) -> None:
        timeout_s = READY_TIMEOUT_S + READY_TIMEOUT_PER_WORKER_S * len(names)
        for _ in self._until(timeout_s):
            if dispatcher.child.exit_code is not None:
                raise Unavailable(f"the dispatcher {_ended(dispatcher.child)}")
            for name in names:
                child = self.provisioner.child(name)
                if child is not None and child.exit_code is not None:
                    raise Unavailable(f"worker {name} {_ended(child)}")
            status = self.admin.status()
            ready = {worker["name"] for worker in status["workers"] if worker["state"] == "ready"}
            if ready.issuperset(names) and status["leader"]:
                return
        late = sorted(set(names) - ready) or ["the dispatcher"]
        raise Unavailable(f"not ready within {timeout_s:.0f} s: {', '.join(late)}; the logs are in {self._logs}")

    def _wait_for_flower(self) -> None:
        assert self.flower_url is not None
        port = int(self.flower_url.rpartition(":")[2])
        process = next(one.child for one in self._supervised if one.name == "Flower")
        for _ in self._until(FLOWER_TIMEOUT_S):
            if process.exit_code is not None:
                raise Unavailable(f"Flower {_ended(process)}; use --no-flower to do without")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                return
        raise Unavailable(f"Flower has not opened port {port} within {FLOWER_TIMEOUT_S:.0f} s; its log is {process.log}")

    def _until(self, timeout_s: float) -> Iterator[None]:
        deadline_ms = self._clock.monotonic_ms() + round(timeout_s * 1000)
        while self._clock.monotonic_ms() < deadline_ms:
            yield
            self._clock.sleep(0.1)

    # -- supervision

    def _run_supervision(self) -> None:
        while not self._stopping.wait(SUPERVISE_S):
            try:
                self.step()
            except Unavailable as exc:  # a process that cannot be started now may be later
                self._on_event(str(exc))

    def step(self) -> None:
        """Reap what has ended and start again what should run. Never waits for a worker."""
        with self._supervision:
            self.provisioner.step()
            now_ms = self._clock.monotonic_ms()
            for one in self._supervised:
                exit_code = one.child.exit_code
                if exit_code is None:
                    continue
                if one.restart_at_ms is None:
                    wait_s = BACKOFF_S[min(one.failures, len(BACKOFF_S) - 1)] if one.failures else 0.0
                    one.failures += 1
                    one.restart_at_ms = now_ms + round(wait_s * 1000)
                    self._on_event(f"{one.name} {how_it_ended(exit_code)}; starting it again in {wait_s:g} s")
                if now_ms >= one.restart_at_ms:
                    one.child, one.restart_at_ms = one.start(), None


def _child_of(embedded: EmbeddedRedis) -> Child:
    assert embedded.child is not None
    return embedded.child


def _restarted(embedded: EmbeddedRedis) -> Child:
    embedded.start()
    return _child_of(embedded)


def _ended(child: Child) -> str:
    assert child.exit_code is not None
    return f"{how_it_ended(child.exit_code)} before it was ready: {child.log_tail() or 'it wrote nothing'}"


def _check_answers(client: redis.Redis, url: str) -> None:
    try:
        client.ping()
    except redis.RedisError as exc:
        raise Unavailable(f"Redis at {redact(url)} does not answer ({exc}): start it, or name another with --redis-url") from exc


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM leaves the ``with`` block instead of ending the process on the spot, where nobody handles it otherwise."""
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
