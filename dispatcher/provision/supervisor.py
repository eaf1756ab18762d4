"""Keeps local processes running: workers, and all else that a cluster needs, are started again when they end."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dispatcher.clock import Clock, SystemClock
from dispatcher.errors import Unavailable
from dispatcher.provision.child import Child, Children, how_it_ended
from dispatcher.provision.processes import APP, ProcessProvisioner, restart_wait_s
from dispatcher.settings import Settings, settings_environ
from dispatcher.worker.threads import cores_here, share_of_cores

log = logging.getLogger(__name__)

STEP_INTERVAL_S: Final = 0.2


@dataclass(slots=True)
class Supervised:
    """A process that must run until the supervisor stops."""

    name: str
    child: Child
    start: Callable[[], Child]
    failures: int = 0
    """Times that it ended by itself, or could not be started."""
    restart_at_ms: int | None = None
    """When to start it again, by the monotonic clock; ``None`` while it runs."""


class Supervisor:
    """The local processes of ``dispatcher up`` and of ``dispatcher autoscale``."""

    def __init__(
        self,
        children: Children,
        settings: Settings,
        *,
        environ: Mapping[str, str],
        logs: Path,
        app: str = APP,
        task_events: bool = False,
        clock: Clock | None = None,
        on_event: Callable[[str], None],
        slots: int = 0,
    ) -> None:
        """``app`` is Celery's ``-A``. ``on_event`` gets a sentence for each process that is started again. ``slots``:
        how many slots all workers together have at most, which share this machine's cores; 0: each worker has them for
        itself.
        """
        self.environ = {**share_of_cores(slots, cores_here(), environ), **environ, **settings_environ(settings)}
        """The environment of each process: ``environ``, with the settings in it."""
        self.workers = ProcessProvisioner(
            children, environ=self.environ, logs=logs, app=app, task_events=task_events, clock=clock,
            on_restart=lambda name, why: on_event(f"worker {name} {why}"),
        )  # fmt: skip
        self._clock = clock or SystemClock()
        self._on_event = on_event
        self._supervised: list[Supervised] = []

    def keep(self, name: str, child: Child, start: Callable[[], Child]) -> Supervised:
        """From now on start this process again whenever it has ended."""
        self._supervised.append(Supervised(name, child, start))
        return self._supervised[-1]

    def step(self) -> None:
        """Reap what has ended and start again what should run. Never waits for a worker. One thread at a time."""
        self.workers.step()
        monotonic_ms = self._clock.monotonic_ms()
        for process in self._supervised:
            exit_code = process.child.exit_code
            if exit_code is None:
                continue
            if process.restart_at_ms is None:
                self._start_later(process, f"{process.name} {how_it_ended(exit_code)}", monotonic_ms)
            if process.restart_at_ms is not None and monotonic_ms >= process.restart_at_ms:
                try:
                    process.child, process.restart_at_ms = process.start(), None
                except Unavailable as exc:
                    self._start_later(process, str(exc), monotonic_ms)

    def _start_later(self, process: Supervised, why: str, monotonic_ms: int) -> None:
        # No wait after the first end: the whole cluster waits for Redis and the dispatcher.
        wait_s = restart_wait_s(process.failures) if process.failures else 0.0
        process.failures += 1
        process.restart_at_ms = monotonic_ms + round(wait_s * 1000)
        self._on_event(f"{why}; starting it again in {wait_s:g} s")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Step in a thread of its own until the ``with`` block ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="supervise", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(5.0)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(STEP_INTERVAL_S):
            try:
                self.step()
            except Exception:
                # A bug must not end supervision: what ends would stay ended.
                log.exception("a step of the supervisor failed; going on")
