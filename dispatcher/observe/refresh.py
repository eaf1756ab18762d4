"""Makes Flower inspect the workers again when there are new queues or workers.

By itself Flower inspects only at its start and when somebody opens a worker's page: its Broker tab would show the
queues of that moment for ever.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from dispatcher.clock import Clock
from dispatcher.errors import Unavailable
from dispatcher.observe.flower_client import get_workers

log = logging.getLogger(__name__)

READ_S: Final = 1.0
BETWEEN_S: Final = 2.5
"""Flower joins a request to the inspection that runs, which takes a second and may have our answer already."""
RETRY_S: Final = 5.0
TIMEOUT_S: Final = 2.0


class FlowerRefresh:
    """A thread that sends ``GET /workers?refresh=1`` after :meth:`ask`, and when ``queues()`` names a new queue.

    Several reasons at a time make one request. While Flower does not answer, the request is repeated every few seconds.
    """

    def __init__(self, url: str, queues: Callable[[], Sequence[str]], clock: Clock) -> None:
        self._url = url
        self._queues = queues
        self._clock = clock
        self._known: frozenset[str] = frozenset()
        self._asked = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="flower-refresh", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(TIMEOUT_S)
            self._thread = None

    def ask(self) -> None:
        """Make Flower inspect again soon. Returns at once."""
        self._asked.set()

    def _run(self) -> None:
        next_ms = 0
        while not self._stopping.wait(READ_S):
            self._read_queues()
            if not self._asked.is_set() or self._clock.monotonic_ms() < next_ms:
                continue
            self._asked.clear()
            if refreshed := self._request():
                wait_s = BETWEEN_S
            else:
                self._asked.set()
                wait_s = RETRY_S
            log.debug("asked Flower at %s to inspect again: %s", self._where(), "done" if refreshed else "no answer")
            next_ms = self._clock.monotonic_ms() + round(1000 * wait_s)

    def _read_queues(self) -> None:
        try:
            names = frozenset(self._queues())
        except Exception as exc:  # noqa: BLE001 (a caller's function that asks Redis)
            log.debug("cannot list the queues for Flower: %s: %s", type(exc).__name__, exc)
            return
        if names - self._known:
            self._asked.set()
        self._known = names

    def _request(self) -> bool:
        try:
            get_workers(self._url, "refresh=1&json=1", timeout_s=TIMEOUT_S)
        except Unavailable:
            return False
        return True

    def _where(self) -> str:
        return urlsplit(self._url).hostname or self._url
