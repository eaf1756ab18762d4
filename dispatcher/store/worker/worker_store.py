"""What a worker does with Redis: register, beat, take, ack, give back, say goodbye. Nothing else writes its leases.

Every call may raise ``redis.ConnectionError`` or ``redis.TimeoutError`` and then may or may not have happened; all of them
may be called again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast
from uuid import uuid4

import msgspec
import redis

from dispatcher.core.returns.ending import DEADLINE_PASSED, LATE, GiveBack
from dispatcher.errors import DeadlinePassed, EpochEnded, FormatMismatch
from dispatcher.store.format_store import FormatStore
from dispatcher.store.frame import Entry, parse_entry
from dispatcher.store.keys import Keys
from dispatcher.store.registration import Registration, encode_registration
from dispatcher.store.scripts.sources import Scripts

ALIVE_TTL_MS = 24 * 3600 * 1000
"""TTL that a beat gives to ``alive:<epoch>``. Not the lease TTL: what is silent is decided by the leader alone."""

DEAD_TTL_MS = 24 * 3600 * 1000

ADOPT_MAX = 50
"""Jobs in one call of ``adopt``, for it carries their messages."""

STORY_TTL_MS = 7 * 24 * 3600 * 1000

GIVEBACK_MAX = 500
"""Leases that one call of :func:`giveback` may end."""


class BeatStatus(IntEnum):
    """How Redis answered a beat."""

    OK = 1
    UNKNOWN = -1
    """Redis does not know the epoch: it lost its state. Register anew and adopt what is held."""
    DEAD = -2
    """The epoch was reaped. Its jobs belong to others: kill the pool and exit."""


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat. ``draining`` is ``""``, ``"exit"`` or ``"keep"``."""

    status: BeatStatus
    draining: str
    leases: frozenset[str]
    queued: frozenset[str]
    now_ms: int = 0
    """Redis' time."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A job this worker has started: the message as the producer sent it, and what is kept of the job."""

    lease_id: str
    message: str
    entry: Entry


LATE_REASON = msgspec.json.encode({"reason": DEADLINE_PASSED, "detail": LATE})
"""Why a job whose deadline has passed is buried, as the scripts take it."""


def new_epoch() -> str:
    """The id of a worker life: 12 hex digits."""
    return uuid4().hex[:12]


class WorkerStore:
    """The store of one worker life. Thread-safe as the client is; the epoch is fixed."""

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

        Raises :class:`FormatMismatch` where this worker cannot read what lies in Redis or what the leader writes; then nothing was written.
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
        """Have jobs that run here, (lease id, entry, message) of each, leased to this life: Redis lost the one they were leased to.

        How many are; the others are elsewhere in Redis too. Raises :class:`EpochEnded`.
        """
        adopted = 0
        for at in range(0, len(jobs), ADOPT_MAX):
            part = self._run(
                "adopt",
                [self._alive, self._leases, self._taken, self.keys.messages, self.keys.lanes],
                [self.keys.lane_prefix, *(part for job in jobs[at : at + ADOPT_MAX] for part in job)],
            )
            if part < 0:
                raise EpochEnded(f"worker life {self.epoch} was declared dead")
            adopted += part
        return adopted

    def heartbeat(self, facts: dict[str, Any], totals: bytes = b"") -> Beat:
        """Beat once, with numbers to show and to plan by: ``done, failed, busy_ms, running, consume_age_ms, loop_lag_ms``.

        ``totals``: JSON of :class:`~dispatcher.core.facts.evidence.WorkerTotals`; empty while it is what Redis has.
        """
        status, draining, leases, queued, now_ms = self._run(
            "heartbeat",
            [self._alive, self._dead, self._worker, self._leases, self._queue, self.keys.totals],
            [ALIVE_TTL_MS, self.epoch, totals, *(part for pair in facts.items() for part in pair)],
        )
        return Beat(BeatStatus(status), draining, frozenset(leases), frozenset(queued), now_ms)

    def take(self, lease_id: str, *, at_ms: int = 1) -> Taken | None:
        """Start a job, at about ``at_ms`` of Redis' time. ``None``: it is not this worker's (any more); drop the id silently.

        Raises :class:`DeadlinePassed` where it must be buried instead (:meth:`GiveBack.late`).
        """
        names = [self._alive, self._leases, self._taken, self.keys.messages, self.keys.revoked_at, self._queue]
        reply = self._run("take", names, [at_ms, 0, lease_id])
        if reply and reply[2] == 0:
            raise DeadlinePassed(lease_id)
        if not reply or not reply[2]:
            return None
        return Taken(lease_id, reply[3], parse_entry(reply[2]))

    def turn(self, task_id: str) -> tuple[int, int]:
        """The last turn of that task id that was admitted, and when, in ms of Redis' time; see ``header.turn_of``.
        (0, 0) where none but the first is known.
        """
        try:
            turn, at_ms = (cast("str | None", self._client.get(self.keys.turn(task_id))) or "0 0").split()
            return int(turn), int(at_ms)
        except (redis.ResponseError, ValueError):  # no key of ours
            return 0, 0

    def ack(self, lease_ids: Iterable[str]) -> int:
        """End leases of jobs that have ended; how many there were. Raises :class:`EpochEnded` if they belong to others now."""
        removed = self._run(
            "ack",
            [self._alive, self._leases, self._taken, self.keys.messages, self.keys.lanes, self.keys.wake],
            list(lease_ids),
        )
        if removed < 0:
            raise EpochEnded(f"worker life {self.epoch} was declared dead")
        return int(removed)

    def giveback(self, leases: Sequence[GiveBack], *, delay_ms: int = 0) -> int:
        """End leases without an ack; how many there were. Newest first keeps the order of their lanes.

        Raises :class:`EpochEnded` if they belong to others now.
        """
        ended = giveback(self._run, self.keys, self.epoch, leases, guard=self._alive, guard_value="", delay_ms=delay_ms)
        if ended < 0:
            raise EpochEnded(f"worker life {self.epoch} was declared dead")
        return ended

    def drain(self, mode: str = "exit") -> bool:
        """Ask for nothing new, as ``dispatcher drain`` does from outside. False if this life has ended."""
        return int(self._run("drain_worker", [self._alive, self._worker, self.keys.wake], [mode])) > 0

    def goodbye(self) -> None:
        """The life ends in order: what is still leased goes back in line at once, and no death is counted."""
        self._run("end_epoch", [self._alive, self._alive, self._dead, self.keys.wake], ["", "goodbye", DEAD_TTL_MS, 0])


def giveback(
    run: Callable[[str, list[str], list[Any]], Any], keys: Keys, epoch: str, leases: Sequence[GiveBack], *, guard: str, guard_value: str,
    delay_ms: int = 0,
) -> int:
    """Calls the ``giveback`` transition; -1 when refused. Shared by the worker (guard: its life) and the reaping leader."""
    names = [
        guard, keys.leases(epoch), keys.taken(epoch), keys.worker_queue(epoch), keys.lanes, keys.scheduled,
        keys.dead_letters, keys.dead_reasons, keys.unsettled, keys.wake, keys.messages,
    ]
    args: list[Any] = [guard_value, keys.lane_prefix, delay_ms, keys.story_prefix, STORY_TTL_MS]
    return int(run("giveback", names, [*args, *(part for lease in leases for part in _args(lease))]))  # fmt: skip


def _args(lease: GiveBack) -> tuple[str, str, int, str, str, str]:
    """A lease as ``giveback.lua`` takes it."""
    reason = msgspec.json.encode({"reason": lease.reason, "detail": lease.detail}).decode()
    attempt = msgspec.json.encode(lease.attempt).decode() if lease.attempt is not None else ""
    return lease.lease_id, lease.counter, lease.bury_at, reason, attempt, "1" if lease.suspect else ""
