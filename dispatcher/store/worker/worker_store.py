"""What a worker does with Redis beside take and ack (``lease_pipe.py``): register, beat, give leases back, say goodbye.

Every call may raise ``redis.ConnectionError`` or ``redis.TimeoutError``. Then it may or may not have happened, and may
be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast
from uuid import uuid4

import redis

from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import FormatMismatch
from dispatcher.store.format_store import FormatStore
from dispatcher.store.giveback import give_back
from dispatcher.store.keys import Keys
from dispatcher.store.registration import Registration, Registrations, encode_registration
from dispatcher.store.scripts.call import Scripts, lived

ALIVE_TTL_MS = 24 * 3600 * 1000
"""TTL that a beat gives to ``alive:<epoch>``. It is not ``lease_ttl_s``: the leader alone decides which worker is
silent.
"""

DEAD_TTL_MS = 24 * 3600 * 1000

ADOPT_MAX = 50
"""Jobs in one call of ``adopt``: it carries their messages."""


class BeatStatus(IntEnum):
    """How Redis answered a beat."""

    OK = 1
    UNKNOWN = -1
    """Redis lost its state and does not know the epoch. Register anew, and adopt the jobs that run here."""
    DEAD = -2
    """The leader declared this life dead. Its jobs belong to others: kill the pool and exit."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat."""

    status: BeatStatus
    draining: str
    """``""``, ``"exit"`` or ``"keep"``."""
    leases: frozenset[str]
    """Ids of this life's leases."""
    queued: frozenset[str]
    """Ids in its queue, at most 1,000."""
    now_ms: int = 0
    """Redis' time."""
    is_led: bool = True
    """A dispatcher leads the cell."""


def new_epoch() -> str:
    """The id of a worker life: 12 hex digits."""
    return uuid4().hex[:12]


class WorkerStore:
    """The store of one worker life. Thread-safe as the client is."""

    def __init__(self, client: redis.Redis, keys: Keys, epoch: str) -> None:
        self.keys = keys
        self.epoch = epoch
        self._client = client
        self._run = Scripts(client)
        self._alive, self._dead = keys.alive(epoch), keys.dead(epoch)
        self._worker, self._queue = keys.worker(epoch), keys.worker_queue(epoch)
        self._leases, self._taken = keys.leases(epoch), keys.taken(epoch)

    @property
    def queue_name(self) -> str:
        """kombu's name of this worker's queue."""
        return self.keys.queue_name(self._queue)

    def register(self, registration: Registration) -> int:
        """Begin the life. Redis' time in ms; 0 if the epoch is in use (choose another).

        Raises :class:`FormatMismatch` where this worker cannot read what lies in Redis or what the leader writes; then
        nothing was written.
        """
        keys = self.keys
        names = [
            self._alive, self._worker, keys.workers, keys.ingress_queues, keys.models, keys.wake, keys.leader, keys.leader_info,
            keys.formats, keys.sequence,
        ]  # fmt: skip
        args: list[Any] = [self.epoch, ALIVE_TTL_MS, encode_registration(registration), *registration.formats]
        reply = int(self._run("register_worker", names, [*args, len(registration.ingress), *registration.ingress, *registration.models]))
        if reply < 0:
            process = f"worker {registration.name}"
            why = FormatStore(self._client, keys).read().refusal(process, registration.formats)
            raise FormatMismatch(why or f"{process} did not share a format with the leading dispatcher just now: start it again")
        return reply

    def adopt(self, jobs: Sequence[tuple[str, bytes, bytes]]) -> int:
        """Lease jobs that run here to this life, each as (lease id, entry, message): Redis lost the life they were
        leased to.

        Returns how many are leased to it now; the others lie elsewhere in Redis too. Raises
        :class:`~dispatcher.errors.EpochEnded`.
        """
        adopted = 0
        for at in range(0, len(jobs), ADOPT_MAX):
            reply = self._run(
                "adopt",
                [self._alive, self._leases, self._taken, self.keys.messages, self.keys.lanes],
                [self.keys.lane_prefix, *(part for job in jobs[at : at + ADOPT_MAX] for part in job)],
            )
            adopted += lived(reply, self.epoch)
        return adopted

    def heartbeat(self, facts: dict[str, Any], totals: bytes = b"") -> Beat:
        """Beat once, with numbers to show and to plan by: ``done, failed, busy_ms, running, consume_age_ms,
        loop_lag_ms``.

        ``totals``: JSON of :class:`~dispatcher.core.facts.evidence.WorkerTotals`; empty if Redis has the same already.
        """
        status, draining, leases, queued, now_ms, is_led = self._run(
            "heartbeat",
            [self._alive, self._dead, self._worker, self._leases, self._queue, self.keys.totals, self.keys.leader],
            [ALIVE_TTL_MS, self.epoch, totals, *(part for pair in facts.items() for part in pair)],
        )
        return Beat(BeatStatus(status), draining, frozenset(leases), frozenset(queued), now_ms, bool(is_led))

    def others(self) -> dict[str, Registration]:
        """Epoch → registration of the other workers that live and take new jobs, as far as it can be read."""
        epochs = sorted(cast("set[str]", self._client.smembers(self.keys.workers)) - {self.epoch})
        known = Registrations(self._client, self.keys).learn(epochs).new
        with self._client.pipeline(transaction=False) as pipe:
            for epoch in known:
                pipe.exists(self.keys.alive(epoch))
                pipe.hget(self.keys.worker(epoch), "draining")
            replies = pipe.execute()
        facts = zip(known, replies[::2], replies[1::2], strict=True)
        return {epoch: known[epoch] for epoch, is_alive, draining in facts if is_alive and not draining}

    def turn(self, task_id: str) -> tuple[int, int]:
        """The last admitted turn of a task id (``header.turn_of``), and when it was admitted, in ms of Redis' time.

        (0, 0) if only its first turn is known.
        """
        try:
            turn, at_ms = (cast("str | None", self._client.get(self.keys.turn(task_id))) or "0 0").split()
            return int(turn), int(at_ms)
        except (redis.ResponseError, ValueError):  # a key that another program wrote
            return 0, 0

    def giveback(self, leases: Sequence[GiveBack], *, delay_ms: int = 0) -> int:
        """End leases without an ack. Returns how many there were. Newest first keeps the order of their lanes.

        Raises :class:`~dispatcher.errors.EpochEnded` if they belong to others now.
        """
        reply = give_back(self._run, self.keys, self.epoch, leases, guard=self._alive, delay_ms=delay_ms)
        return lived(reply, self.epoch)

    def drain(self, mode: str = "exit") -> bool:
        """Ask for no new jobs, as ``dispatcher drain`` does from outside. False if this life has ended."""
        return int(self._run("drain_worker", [self._alive, self._worker, self.keys.wake], [mode])) > 0

    def goodbye(self) -> None:
        """End the life in order: the jobs that it still has go back in line at once, and no death is counted."""
        self._run("end_epoch", [self._alive, self._alive, self._dead, self.keys.wake], ["", "goodbye", DEAD_TTL_MS, 0])
