"""Sends probes: plain Celery messages of the task ``dispatcher.probe``, leased straight to one worker, past lanes and
ejection.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.core.facts.header import DEFAULT_MODEL
from dispatcher.core.facts.lane import Lane, lane_name
from dispatcher.core.facts.message import write_message
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.health.probing import Probing
from dispatcher.store.leader.dispatch_store import DispatchStore

EXPIRES_MS = 7 * 24 * 3_600_000
"""Should a probe ever end up in a plain queue, Celery drops it after that. Workers compare it with their own clocks, so
it must be far more than those differ from Redis' clock, or no probe is ever run and no ejected worker returns.
"""


class Prober:
    """Asks :class:`Probing` whom to probe; that reads the outcome from what workers tell with their beats."""

    def __init__(self, store: DispatchStore, probing: Probing) -> None:
        self._store = store
        self._probing = probing

    def step(self, workers: Sequence[WorkerView], now_ms: int, elapsed_ms: int) -> int:
        """Probe the workers that are due. How many probes were sent."""
        sent = 0
        for worker in self._probing.due(workers, now_ms, elapsed_ms):
            lane = lane_name(Lane(min(worker.ingress, default="dispatch"), PROBE_TASK, DEFAULT_MODEL, 0, 0))
            if self._store.assign_probe(worker.epoch, lane=lane, window=worker.concurrency, message=probe_message(now_ms)):
                self._probing.sent(worker.epoch, now_ms)
                sent += 1
        return sent


def probe_message(now_ms: int) -> bytes:
    """One probe, as a message with ids of its own."""
    return write_message(PROBE_TASK, task_id=str(uuid4()), delivery_tag=str(uuid4()), expires_ms=now_ms + EXPIRES_MS)
