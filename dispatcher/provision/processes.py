"""Workers as processes of this machine: starts them with Celery's command, and again if they end by themselves."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from celery.utils.nodenames import gethostname

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import Unavailable
from dispatcher.provision.base import WorkerHandle, WorkerKind
from dispatcher.provision.child import Child, Children, how_it_ended

APP: Final = "workers.app"
"""Our ready-made Celery app: the workers run it where the user names no app."""
BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Waits before a process that keeps ending is started again."""
SETTLED_S: Final = 60.0
"""A worker that has run for this long starts its waits from the first again."""


@dataclass(slots=True)
class _Worker:
    short_name: str
    """The node name without ``@host``."""
    kind: WorkerKind
    child: Child
    started_ms: int
    stopping: bool = False
    """It was told to end, so it is not started again."""
    failures: int = 0
    """Times that it ended by itself since it last ran for ``SETTLED_S``."""
    restart_at_ms: int | None = None
    """When to start it again, by the monotonic clock; ``None`` while it runs."""


class ProcessProvisioner:
    """Starts ``celery worker`` processes; :meth:`step` starts a worker again that ended without being told to.

    A worker was told to end if :meth:`stop` or :meth:`kill` was called for it, or if it exited with 0, as it does after
    ``dispatcher drain``.
    """

    def __init__(
        self,
        children: Children,
        *,
        environ: Mapping[str, str],
        logs: Path,
        app: str = APP,
        task_events: bool = False,
        clock: Clock | None = None,
        on_restart: Callable[[str, str], None] | None = None,
    ) -> None:
        """``app`` is Celery's ``-A``.

        ``on_restart(name, why)`` is called for every worker that ended without being told to.
        """
        self._children = children
        self._environ = environ
        self._logs = logs
        self._app = app
        self._task_events = task_events
        self._clock = clock or SystemClock()
        self._on_restart = on_restart or (lambda _name, _why: None)
        self._host = gethostname()
        self._workers: dict[str, _Worker] = {}
        self._lock = threading.RLock()

    # -- the protocol

    def start(self, kind: WorkerKind) -> WorkerHandle:
        with self._lock:
            number = 1
            while (name := f"{kind.name}{number}") in self._workers or (number == 1 and kind.name in self._workers):
                number += 1
            return self.start_named(name, kind)

    def stop(self, name: str) -> None:
        """SIGTERM: the worker drains by itself."""
        with self._lock:
            if (worker := self._workers.get(_short(name))) is not None:
                worker.stopping = True
                worker.child.signal(signal.SIGTERM)

    def kill(self, name: str) -> None:
        """SIGKILL to the worker and its pool; not started again."""
        with self._lock:
            if (worker := self._workers.get(_short(name))) is not None:
                worker.stopping = True
                worker.child.kill()

    def list(self) -> list[WorkerHandle]:
        with self._lock:
            return [
                WorkerHandle(self.node_name(worker.short_name), worker.kind, worker.child.pid, worker.stopping)
                for worker in self._workers.values()
                if worker.child.exit_code is None
            ]

    # -- what a local cluster needs beyond the protocol

    def node_name(self, short_name: str) -> str:
        """Celery's node name of a worker."""
        return f"{short_name}@{self._host}"

    def start_named(self, short_name: str, kind: WorkerKind) -> WorkerHandle:
        """Start a worker under this name, which no other worker of ours may have."""
        with self._lock:
            child = self._spawn(short_name, kind)
            self._workers[short_name] = _Worker(short_name, kind, child, self._clock.monotonic_ms())
            return WorkerHandle(self.node_name(short_name), kind, child.pid)

    def child(self, name: str) -> Child | None:
        """The process of the worker ``name``, even if it has ended; ``None`` if we started no such worker."""
        with self._lock:
            worker = self._workers.get(_short(name))
            return worker.child if worker else None

    def step(self) -> None:
        """Reap workers that have ended; start them again, after a growing wait, if they were not told to end.

        Never waits.
        """
        with self._lock:
            monotonic_ms = self._clock.monotonic_ms()
            for worker in list(self._workers.values()):
                if (exit_code := worker.child.exit_code) is None:
                    continue
                if worker.restart_at_ms is None:
                    self._children.forget(worker.child)
                    if worker.stopping or exit_code == 0:
                        del self._workers[worker.short_name]
                        continue
                    if monotonic_ms - worker.started_ms > SETTLED_S * 1000:
                        worker.failures = 0
                    self._start_later(worker, how_it_ended(exit_code), monotonic_ms)
                elif worker.stopping:
                    del self._workers[worker.short_name]
                elif monotonic_ms >= worker.restart_at_ms:
                    try:
                        worker.child = self._spawn(worker.short_name, worker.kind)
                    except Unavailable as exc:
                        self._start_later(worker, str(exc), monotonic_ms)
                        continue
                    worker.started_ms, worker.restart_at_ms = monotonic_ms, None

    def _start_later(self, worker: _Worker, why: str, monotonic_ms: int) -> None:
        wait_s = restart_wait_s(worker.failures)
        worker.failures += 1
        worker.restart_at_ms = monotonic_ms + round(wait_s * 1000)
        self._on_restart(self.node_name(worker.short_name), f"{why}; starting it again in {wait_s:g} s")

    def stop_all(self, *, timeout_s: float) -> None:
        """Let all workers finish what they run, for at most ``timeout_s``; then kill them.

        Returns when all have ended.
        """
        with self._lock:
            for worker in self._workers.values():
                worker.stopping = True
            children = [worker.child for worker in self._workers.values()]
            self._workers.clear()
        self._children.stop(children, timeout_s=timeout_s)

    def _spawn(self, short_name: str, kind: WorkerKind) -> Child:
        return self._children.start(
            short_name,
            worker_command(short_name, kind, app=self._app, task_events=self._task_events),
            log=self._logs / f"{short_name}.log",
            environ=self._environ,
        )


def worker_command(short_name: str, kind: WorkerKind, *, app: str = APP, task_events: bool = False) -> list[str]:
    """Celery's command for one worker.

    Without gossip and mingle: they cost a second at the start, and nothing here uses them.
    """
    command = [
        sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{short_name}@%h",
        "--concurrency", str(kind.concurrency), "--pool", kind.pool, "--loglevel", "INFO",
        "--without-gossip", "--without-mingle", "--weight", f"{kind.weight:g}",
    ]  # fmt: skip
    if task_events:
        command.append("--task-events")
    if kind.models:
        command += ["--models", ",".join(kind.models)]
    if kind.models_max:
        command += ["--models-max", str(kind.models_max)]
    if kind.threads:
        command += ["--threads", str(kind.threads)]
    for name, value in kind.labels.items():
        command += ["--label", f"{name}={value}"]
    return command


def restart_wait_s(failures: int) -> float:
    """Seconds to wait before a process that has already ended by itself ``failures`` times is started again."""
    return BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]


def _short(name: str) -> str:
    return name.partition("@")[0]
