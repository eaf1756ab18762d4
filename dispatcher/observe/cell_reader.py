"""Reads from Redis what the dispatcher's Flower node needs to know: names of lists, live workers, who leads."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

import redis

from dispatcher.clock import Clock, SystemClock
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.message import headers_of
from dispatcher.errors import Invalid
from dispatcher.observe.node import LiveWorker
from dispatcher.store.frame import parse_entry
from dispatcher.store.keys import Keys, text_names
from dispatcher.store.leader.leader_view import read_leader_info
from dispatcher.store.operator.dead_letters import MESSAGE_READ_BYTES_MAX
from dispatcher.store.registration import Registrations
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS

REMEMBER_S: Final = 60.0
"""How long an empty lane is still named: Flower shows 0 for it, and need not inspect again when it fills."""
SCHEDULED_SHOWN_MAX: Final = 100
"""How many of the jobs that wait for their time are listed: there may be millions, and each message must be read."""
BEAT_AGE_MAX_S: Final = 3.0
"""How old a worker's last beat may be: the node stands in for a worker only while the worker itself beats."""


class CellReader:
    """Reads from the Redis of a cell. Every method raises redis-py's errors as they are."""

    def __init__(
        self, client: redis.Redis, keys: Keys, ingress: Sequence[str] = (), clock: Clock | None = None
    ) -> None:
        """``client`` returns text. ``ingress``: more queues to name than workers have named."""
        self._client = client
        self._keys = keys
        self._ingress = tuple(ingress)
        self._clock = clock or SystemClock()
        self._lanes_seen_ms: dict[str, int] = {}
        self._registrations = Registrations(client, keys)
        self._mutex = threading.Lock()

    def queues(self) -> list[str]:
        """kombu names of all ingress queues, lanes (with jobs now or a minute ago) and workers' queues."""
        keys = self._keys
        with self._client.pipeline(transaction=False) as pipe:
            pipe.smembers(keys.ingress_queues)
            pipe.smembers(keys.lanes)
            pipe.smembers(keys.workers)
            named, lanes, epochs = map(text_names, pipe.execute())
        names = [*sorted({*self._ingress, *named})]
        names += [keys.queue_name(keys.lane(lane)) for lane in self._recent(lanes)]
        names += [keys.queue_name(keys.worker_queue(epoch)) for epoch in sorted(epochs)]
        return names

    def scheduled(self) -> list[dict[str, Any]]:
        """The jobs that are due next, at most :data:`SCHEDULED_SHOWN_MAX`, in the form of ``celery inspect scheduled``.

        Members of ``scheduled`` that are no jobs are left out.
        """
        keys = self._keys
        members = cast(
            "list[tuple[str, float]]",
            self._client.zrange(keys.scheduled, 0, SCHEDULED_SHOWN_MAX - 1, withscores=True),
        )
        waiting = []
        for member, due_ms in members:
            try:
                entry = parse_entry(member)
                waiting.append((entry.job, parse_lane(entry.lane), datetime.fromtimestamp(due_ms / 1000, UTC)))
            except (ValueError, OverflowError, Invalid):
                continue
        with self._client.pipeline(transaction=False) as pipe:
            for job, _, _ in waiting:
                pipe.hstrlen(keys.messages, job)
            sizes = pipe.execute()
            for (job, _, _), size in zip(waiting, sizes, strict=True):
                pipe.hget(keys.messages, job if 0 < size <= MESSAGE_READ_BYTES_MAX else "")
            messages = pipe.execute()
        shown = []
        for (_, lane, due), message in zip(waiting, messages, strict=True):
            headers = headers_of(message)
            request = {
                "id": headers.get("id"), "name": lane.task, "type": lane.task,
                "args": headers.get("argsrepr"), "kwargs": headers.get("kwargsrepr"),
                "hostname": None, "time_start": None, "acknowledged": False, "worker_pid": None,
                "delivery_info": {
                    "exchange": "", "routing_key": lane.ingress, "priority": lane.step, "redelivered": False,
                },
            }  # fmt: skip
            shown.append({"eta": due.isoformat(), "priority": lane.step, "request": request})
        return shown

    def live_workers(self) -> list[LiveWorker]:
        """All workers that have not been reaped.

        The counts are read for solo workers only: the node stands in for them.
        """
        keys = self._keys
        epochs = sorted(text_names(cast("set[str]", self._client.smembers(keys.workers))))
        self._registrations.learn(epochs)
        known = self._registrations.known
        solo = [epoch for epoch in epochs if epoch in known and known[epoch].pool == "solo"]
        with self._client.pipeline(transaction=False) as pipe:
            for epoch in solo:
                pipe.pttl(keys.alive(epoch))
                pipe.hmget(keys.worker(epoch), "running", "done")
            replies = iter(pipe.execute())
        live = []
        for epoch, registration in known.items():
            if epoch in solo:
                beat_age_ms = ALIVE_TTL_MS - next(replies)
                running, done = next(replies)
                beats = beat_age_ms < 1000 * BEAT_AGE_MAX_S
                running = int(running or 0) if beats else 0
                live.append(LiveWorker(registration.name, registration.pid, running, int(done or 0)))
            else:
                live.append(LiveWorker(registration.name, registration.pid))
        return live

    def is_led_from_here(self) -> bool:
        """True if another process on this host leads the cell: its node has the same name as ours."""
        who = read_leader_info(self._client, self._keys) if self._client.exists(self._keys.leader) else {}
        return bool(who.get("host") == socket.gethostname() and who.get("pid") != os.getpid())

    def _recent(self, lanes: set[str]) -> list[str]:
        now_ms = self._clock.monotonic_ms()
        with self._mutex:
            self._lanes_seen_ms.update(dict.fromkeys(lanes, now_ms))
            for lane, seen_ms in list(self._lanes_seen_ms.items()):
                if now_ms - seen_ms > 1000 * REMEMBER_S:
                    del self._lanes_seen_ms[lane]
            return sorted(self._lanes_seen_ms)

