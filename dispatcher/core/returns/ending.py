"""How a lease ends where its job did not: the job goes back in line, as it was or with a count against it, or it is
buried.

The worker asks where a run of its own went wrong, the leader where a worker is gone; :func:`verdict` answers both. A
:class:`GiveBack` is the answer as data: the store sends it, and the script ``giveback`` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal, Protocol

from dispatcher.core.facts import labels
from dispatcher.core.facts.lane import Lane, lane_name
from dispatcher.core.returns.poison import Attempt, Fate, fate

NEVER: Final = 0
AT_ONCE: Final = -1

DEADLINE_PASSED: Final = "deadline_passed"
LATE: Final = "no worker had begun it when its deadline passed"
AT_MOST_ONCE: Final = "at_most_once"

Counter = Literal["", "crashes", "rejects", "reaps", "recalls"]


@dataclass(frozen=True, slots=True)
class GiveBack:
    """One lease to end without an ack."""

    lease_id: str
    counter: Counter = ""
    """Which of the job's counters goes up by one.

    ``crashes``: its process died, or the worker could not deliver or end it. ``reaps``: its worker died. ``rejects``:
    its task asked to go back in line, or its worker left in order. ``recalls``: it was not begun; a lease whose job was
    begun is left as it is. Empty: none.
    """
    bury_at: int = NEVER
    """The job is buried when that counter reaches this number; :data:`NEVER`, or :data:`AT_ONCE`."""
    reason: str = ""
    """Why the job is buried, as a code."""
    detail: str = ""
    """The same in words."""
    attempt: Attempt | None = None
    """The run that went wrong: a line of the job's story."""
    suspect: bool = False
    """Back in line, the job waits to run with no other job in its worker."""
    lane: str = ""
    """Back in line, the job waits in the lane of this name; empty: in its own."""

    @classmethod
    def uncounted(cls, lease_id: str) -> GiveBack:
        """The job goes back as it was: no run of it began."""
        return cls(lease_id)

    @classmethod
    def recalled(cls, lease_id: str) -> GiveBack:
        """The job goes back if it was not begun."""
        return cls(lease_id, "recalls")

    @classmethod
    def rejected(cls, lease_id: str) -> GiveBack:
        """The job goes back, and whoever runs it next knows that it began before; nobody is to blame."""
        return cls(lease_id, "rejects")

    @classmethod
    def late(cls, lease_id: str) -> GiveBack:
        """The job's deadline has passed: it is buried, unless it was begun after all."""
        return cls(lease_id, "recalls", AT_ONCE, DEADLINE_PASSED, LATE)


class Cause(Enum):
    """Why a run ended badly. The value is the reason that a job is buried with."""

    WORKER_DIED = "worker_died"
    PROCESS_DIED = "process_died"
    """The pool's process that ran it died; another job of the same worker may have eaten the memory."""
    TIME_LIMIT = "time_limit"
    """The job passed its hard time limit."""
    DELIVERY_FAILED = "delivery_failed"
    """The worker could not hand the job to Celery, or to the pool."""
    UNREADABLE = "unreadable"
    """The worker could not read the message, or does not know its task: no run began."""
    ENDING_FAILED = "ending_failed"
    """The run was over, and the worker could not end the job."""
    WORKER_LEFT = "worker_left"
    """The worker said goodbye and cut the job short."""
    OUTAGE = "outage"
    """The run was over, and Redis was away when the job was to be ended."""


SHARED: Final = frozenset({Cause.WORKER_DIED, Cause.PROCESS_DIED})
"""Deaths of which any job that ran there may be the cause (``poison.py``)."""

BLAMELESS: Final = frozenset({Cause.WORKER_LEFT, Cause.OUTAGE})

AWAY: Final = frozenset({Cause.WORKER_DIED, Cause.WORKER_LEFT})
"""The worker itself is gone, and the leader ends its leases."""


@dataclass(frozen=True, slots=True)
class BadEnd:
    """A run that was begun and ended without an ack, or that could not begin."""

    lease_id: str
    cause: Cause
    how: str
    """What happened, in words."""
    worker: str
    """The node name of the worker that ran it."""
    epoch: str
    """The worker's life."""
    alone: bool
    """The worker was running nothing else."""
    deaths: int
    """How often a worker or a process died with this job before."""
    at_most_once: bool
    """The job's task says ``acks_late=False``: it must not be run again."""


class Peer(Protocol):
    """Another worker, as it has registered."""

    def may_have(self, lane: Lane) -> bool:
        """True if the worker has all that jobs of this lane ask for."""


def elsewhere(lease: GiveBack, lane: Lane, epoch: str, others: Mapping[str, Peer]) -> GiveBack:
    """What becomes of a job that the worker life ``epoch`` could not read: other workers may have it; where there is
    none, it is buried.

    In a rolling deploy, say, the old workers lack a class that is pickled in the body. ``lane``: the lane of the job;
    ``others``: epoch → worker, of those that live and take new jobs.
    """
    unread = labels.without(lane.requires, epoch)
    avoided = labels.avoided(unread)
    if any(other not in avoided and peer.may_have(lane) for other, peer in others.items()):
        return replace(lease, lane=lane_name(replace(lane, requires=unread)))
    return replace(lease, bury_at=AT_ONCE, detail=f"{lease.detail}; no other worker may have it")


def verdict(end: BadEnd, *, attempts_max: int) -> GiveBack:
    """What becomes of the job.

    A job that was begun and must not be run again is buried. Where nobody is to blame it goes back in line. A death
    that was shared is judged by ``poison.fate``. Any other end is the job's own fault: it is buried at the
    ``attempts_max``-th.
    """
    counter: Counter = "reaps" if end.cause in AWAY else "crashes"
    if end.at_most_once and end.cause is not Cause.UNREADABLE:
        ended = f"worker {end.worker} ended while it ran" if end.cause in AWAY else end.how
        detail = f"{ended}; its task says acks_late=False, so it is not run again"
        return GiveBack(end.lease_id, counter, AT_ONCE, AT_MOST_ONCE, detail)
    if end.cause in BLAMELESS:
        return GiveBack.rejected(end.lease_id)
    reason, attempt = end.cause.value, Attempt(end.worker, end.epoch, end.how, end.alone)
    if end.cause not in SHARED:
        return GiveBack(end.lease_id, counter, attempts_max, reason, f"{end.how}; last on {end.worker}", attempt)
    becomes = fate(end.deaths + 1, alone=end.alone, attempts_max=attempts_max)
    times = "once" if end.deaths == 0 else f"{end.deaths + 1} times"
    detail = f"its worker, or its process there, died {times} while it ran, the last time with nothing else running there"
    bury_at = AT_ONCE if becomes is Fate.BURIED else NEVER
    return GiveBack(end.lease_id, counter, bury_at, reason, detail, attempt, suspect=becomes is Fate.ALONE)
