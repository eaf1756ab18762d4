"""Workers as processes of this machine, started with Celery's own command."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from celery.utils.nodenames import gethostname

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import Unavailable
from dispatcher.provision.base import WorkerHandle, WorkerKind
from dispatcher.provision.child import Child, Children

BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Waits before a worker that keeps ending is started again."""
SETTLED_S: Final = 60.0
"""A worker that ran for this long is not one that keeps ending."""


@dataclass(slots=True)
class _Worker:
    short_name: str
    kind: WorkerKind
    child: Child
    started_ms: int
    stopping: bool = False
    failures: int = 0
    restart_at_ms: int | None = field(default=None)


class ProcessProvisioner:
    """Starts ``celery worker`` processes and, in :meth:`step`, starts again those that ended and were not told to.

    Told to: by :meth:`stop`, by :meth:`kill`, or by anyone else in an orderly way, that is, with exit code 0 (``dispatcher drain``).
    """

    def __init__(
        self,
        children: Children,
        *,
        environ: Mapping[str, str],
        logs: Path,
        app: str = "workers.app",
        task_events: bool = False,
        clock: Clock | None = None,
        on_restart: Callable[[str, str], None] | None = None,
    ) -> None:
        """``on_restart(name, why)`` hears of every worker that ended without being told to."""
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

    # -- what a local cluster needs besides

    def node_name(self, short_name: str) -> str:
        """Celery's name of the worker."""
        return f"{short_name}@{self._host}"

    def start_named(self, short_name: str, kind: WorkerKind) -> WorkerHandle:
        """Start a worker under a name that none of ours has."""
        with self._lock:
            child = self._spawn(short_name, kind)
            self._workers[short_name] = _Worker(short_name, kind, child, self._clock.monotonic_ms())
            return WorkerHandle(self.node_name(short_name), kind, child.pid)

    def child(self, name: str) -> Child | None:
        """The process of the worker of that name, ended or not; ``None`` where there is none."""
        with self._lock:
            worker = self._workers.get(_short(name))
            return worker.child if worker else None

    def step(self) -> None:
        """Reap what has ended; start again, after a wait that grows, what was not told to end. Never waits."""
        with self._lock:
            now_ms = self._clock.monotonic_ms()
            for worker in list(self._workers.values()):
                if (exit_code := worker.child.exit_code) is None:
                    continue
                if worker.restart_at_ms is None:
                    self._children.forget(worker.child)
                    if worker.stopping or exit_code == 0:
                        del self._workers[worker.short_name]
                        continue
                    if now_ms - worker.started_ms > SETTLED_S * 1000:
                        worker.failures = 0
                    self._start_later(worker, how_it_ended(exit_code), now_ms)
                elif worker.stopping:
                    del self._workers[worker.short_name]
                elif now_ms >= worker.restart_at_ms:
                    try:
                        worker.child = self._spawn(worker.short_name, worker.kind)
                    except Unavailable as exc:
                        self._start_later(worker, str(exc), now_ms)
                        continue
                    worker.started_ms, worker.restart_at_ms = now_ms, None

    def _start_later(self, worker: _Worker, why: str, now_ms: int) -> None:
        wait_s = BACKOFF_S[min(worker.failures, len(BACKOFF_S) - 1)]
        worker.failures += 1
        worker.restart_at_ms = now_ms + round(wait_s * 1000)
        self._on_restart(self.node_name(worker.short_name), f"{why}; starting it again in {wait_s:g} s")

    def stop_all(self, *, timeout_s: float) -> None:
        """Let all of them finish what they run, for at most ``timeout_s``; then kill. Returns when all have ended."""
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


def worker_command(short_name: str, kind: WorkerKind, *, app: str = "workers.app", task_events: bool = False) -> list[str]:
    """Celery's command for one worker. Gossip and mingle are left out: a second at the start, for nothing used here."""
    command = [
        sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{short_name}@%h", "--concurrency", str(kind.concurrency),
        "--pool", kind.pool, "--loglevel", "INFO", "--without-gossip", "--without-mingle", "--weight", f"{kind.weight:g}",
    ]  # fmt: skip
    if task_events:
        command.append("--task-events")
    if kind.models:
        command += ["--models", ",".join(kind.models)]
    if kind.models_max:
        command += ["--models-max", str(kind.models_max)]
    for name, value in kind.labels.items():
        command += ["--label", f"{name}={value}"]
    return command


def how_it_ended(exit_code: int) -> str:
    """``exited with 1``, or ``was killed by signal 9``."""
    return f"exited with {exit_code}" if exit_code >= 0 else f"was killed by signal {-exit_code}"


def _short(name: str) -> str:
    return name.partition("@")[0]
