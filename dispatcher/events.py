"""What happens, as frozen facts. The code emits them; subscribers in ``observe/`` choose level, wording and labels.

An emitter is a ``Callable[[Event], None]`` that never raises and never waits: it is called inside the dispatch loop.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerRegistered:
    """Emitted when the leader reads a worker life for the first time."""

    name: str
    """Celery's node name, here and in all events of workers."""
    epoch: str
    """The id of this life of the worker."""
    concurrency: int
    """Number of slots."""
    weight: float
    """Configured speed of one slot."""


@dataclass(frozen=True, slots=True)
class WorkerSilent:
    """Emitted when a worker has not beaten for longer than its lease lives.

    Its epoch is dead; its leases go back next.
    """

    name: str
    epoch: str
    silent_ms: int


@dataclass(frozen=True, slots=True)
class WorkerReaped:
    """Emitted when all leases of an ended worker life are settled."""

    name: str
    epoch: str
    reason: str
    """``silent`` or ``goodbye``."""
    returned: int
    """Jobs that went back in line."""
    buried: int
    """Jobs that became dead letters."""


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """Emitted when a worker begins to drain: it gets no new jobs, finishes what it runs, and leaves."""

    name: str
    epoch: str


@dataclass(frozen=True, slots=True)
class WorkerEjected:
    """Emitted when a worker is judged faulty: it gets no new jobs for ``span_ms``, then a few."""

    name: str
    epoch: str
    reason: str
    span_ms: int


@dataclass(frozen=True, slots=True)
class WorkerReturned:
    """Emitted when an ejected worker gets jobs again, few at first."""

    name: str
    epoch: str
    reason: str
    """Why it had been ejected."""


@dataclass(frozen=True, slots=True)
class FleetPanic:
    """Emitted when so few workers are healthy that ejections are ignored, and when ejections count again."""

    on: bool
    """True: ejections are ignored from now on."""
    healthy: int
    total: int


@dataclass(frozen=True, slots=True)
class JobsRecalled:
    """Emitted when jobs that a worker had not begun went back in line, because other workers can begin them at once."""

    name: str
    epoch: str
    count: int


@dataclass(frozen=True, slots=True)
class SuspectIsolated:
    """Emitted when a job whose workers died before is leased to a worker that runs no other job beside it."""

    name: str
    epoch: str
    lane: str
    """The lane of the job."""


@dataclass(frozen=True, slots=True)
class JobsRefused:
    """Emitted when messages from the ingress became dead letters; once for each reason in a read of the ingress."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobsLate:
    """Emitted when jobs became dead letters because no worker had begun them by their deadline."""

    count: int


@dataclass(frozen=True, slots=True)
class JobSettled:
    """Emitted when the state of a dead letter is in the result backend.

    From now on its ``AsyncResult.get()`` raises instead of hanging.
    """

    job: str
    """The number that ``dispatcher dead list`` shows."""
    task_id: str
    """Celery's task id; empty if the message has none."""
    reason: str


@dataclass(frozen=True, slots=True)
class LeadGained:
    """Emitted when this process begins to lead the cell."""

    token: str
    """Its random id."""


@dataclass(frozen=True, slots=True)
class LeadLost:
    """Emitted when this process leads the cell no more; from here on it changes nothing."""

    token: str
    resigned: bool = False
    """True: it gave the lead up because it stops. False: its lead expired, and another may have taken over."""


@dataclass(frozen=True, slots=True)
class StandsBy:
    """Emitted once by a new process that finds another dispatcher leading, and waits for the lead."""


@dataclass(frozen=True, slots=True)
class RedisLost:
    """Emitted once an outage: Redis does not answer, or refuses a command (out of memory, a key of another type)."""

    error: str


@dataclass(frozen=True, slots=True)
class RedisBack:
    """Emitted when a step of the dispatcher succeeds again after :class:`RedisLost`."""

    gap_ms: int
    """How long the outage lasted."""


@dataclass(frozen=True, slots=True)
class FleetSilent:
    """Emitted when more than half the fleet falls silent at once.

    The network is more likely at fault than the workers, so no worker is reaped yet.
    """

    silent: int
    total: int


@dataclass(frozen=True, slots=True)
class LaneUnroutable:
    """Emitted when no worker may run the jobs of some lanes for ``unroutable_after_s``.

    Emitted once, until a worker may, for all lanes whose jobs ask for the same.
    """

    lane: str
    """One of these lanes."""
    depth: int
    """Jobs in all of them."""
    refusals: tuple[str, ...]
    """For each filter, how many workers it keeps out, and an example."""


@dataclass(frozen=True, slots=True)
class LaneRoutable:
    """Emitted when lanes that were unroutable are so no more: some worker may run their jobs, or the jobs are gone."""

    lane: str


@dataclass(frozen=True, slots=True)
class UnknownHeaderField:
    """Emitted when a job's ``dispatch`` header holds a field that has no effect; once for each field in a process."""

    field: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Emitted when Redis holds something that no dispatcher of this version wrote: it is ignored.

    Once for each, in a process.
    """

    what: str


@dataclass(frozen=True, slots=True)
class RolloutChanged:
    """Emitted when somebody changed an alias."""

    alias: str
    shares: tuple[str, ...]
    """``chat@1 95 %`` and so on, the largest first; empty if the alias was removed."""


@dataclass(frozen=True, slots=True)
class RolloutStepped:
    """Emitted when a guard gave its canary a larger share."""

    alias: str
    version: str
    """The canary."""
    share: str
    """Such as ``5 %``."""
    reason: str


@dataclass(frozen=True, slots=True)
class RolloutRolledBack:
    """Emitted when a guard withdrew its canary."""

    alias: str
    version: str
    """The canary."""
    to: str
    """The version that gets all jobs again."""
    reason: str


@dataclass(frozen=True, slots=True)
class JobsRerouted:
    """Emitted when jobs that waited for a withdrawn version were sent to wait for another."""

    version: str
    """The withdrawn version."""
    count: int


@dataclass(frozen=True, slots=True)
class FleetScaled:
    """Emitted when the autoscaler starts or drains workers."""

    start: tuple[str, ...]
    """The kinds of the workers to start, a name for each worker."""
    drain: tuple[str, ...]
    """The names of the workers to drain."""
    reason: str
    workers: int
    """Workers there are now."""


@dataclass(frozen=True, slots=True)
class ScalingAdvised:
    """Emitted when the autoscaler would start or drain workers if it were allowed to; once until its advice changes."""

    start: tuple[str, ...]
    drain: tuple[str, ...]
    reason: str
    workers: int


Event = (
    WorkerRegistered
    | WorkerSilent
    | WorkerReaped
    | WorkerDraining
    | WorkerEjected
    | WorkerReturned
    | FleetPanic
    | JobsRecalled
    | SuspectIsolated
    | JobsRefused
    | JobsLate
    | JobSettled
    | LeadGained
    | LeadLost
    | StandsBy
    | RedisLost
    | RedisBack
    | FleetSilent
    | LaneUnroutable
    | LaneRoutable
    | UnknownHeaderField
    | Unreadable
    | RolloutChanged
    | RolloutStepped
    | RolloutRolledBack
    | JobsRerouted
    | FleetScaled
    | ScalingAdvised
)
