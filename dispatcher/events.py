"""What happens, as frozen facts. Code emits these; subscribers choose level, wording and labels (``observe/``).

An emitter is a ``Callable[[Event], None]`` that never raises and never waits: it is called inside the dispatch loop.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerRegistered:
    """A worker life was seen for the first time. ``name`` is the Celery node name."""

    name: str
    epoch: str
    concurrency: int
    weight: float


@dataclass(frozen=True, slots=True)
class WorkerSilent:
    """No beat for longer than the lease lives: the epoch is dead, and its leases are about to go back."""

    name: str
    epoch: str
    silent_ms: int


@dataclass(frozen=True, slots=True)
class WorkerReaped:
    """All leases of an ended life are settled. ``reason``: ``silent`` or ``goodbye``; ``returned`` of them went back in
    line, ``buried`` became dead letters.
    """

    name: str
    epoch: str
    reason: str
    returned: int
    buried: int


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """The worker gets nothing new; it finishes what it runs and leaves."""

    name: str
    epoch: str


@dataclass(frozen=True, slots=True)
class WorkerEjected:
    """The worker is faulty: it gets nothing new for ``span_ms``, then a little."""

    name: str
    epoch: str
    reason: str
    span_ms: int


@dataclass(frozen=True, slots=True)
class WorkerReturned:
    """An ejected worker gets jobs again, few at first. ``reason``: why it had been ejected."""

    name: str
    epoch: str
    reason: str


@dataclass(frozen=True, slots=True)
class FleetPanic:
    """So few workers are healthy that ejections are ignored (``on``); or they are heeded again."""

    on: bool
    healthy: int
    total: int


@dataclass(frozen=True, slots=True)
class JobsRecalled:
    """``count`` jobs that ``name`` had not begun went back in line, because others could begin them at once."""

    name: str
    epoch: str
    count: int


@dataclass(frozen=True, slots=True)
class SuspectIsolated:
    """A job that died with its workers before went to ``name``, which gets nothing else until it has ended. ``lane`` is its lane."""

    name: str
    epoch: str
    lane: str


@dataclass(frozen=True, slots=True)
class JobsRefused:
    """``count`` messages of one look at the ingress became dead letters for the same ``reason``."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobsLate:
    """``count`` jobs became dead letters because no worker had begun them by their deadline."""

    count: int


@dataclass(frozen=True, slots=True)
class JobSettled:
    """The state of a dead letter is in the result backend: ``AsyncResult.get()`` raises instead of hanging."""

    job: str
    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeadGained:
    """This process leads the cell now. ``token`` is its random id."""

    token: str


@dataclass(frozen=True, slots=True)
class LeadLost:
    """This process does not lead the cell any more, and changes nothing from here on: it ``resigned`` because it stops, or its lead
    expired and another may have taken over.
    """

    token: str
    resigned: bool = False


@dataclass(frozen=True, slots=True)
class StandsBy:
    """Another dispatcher leads the cell; this process, new, waits for the lead."""


@dataclass(frozen=True, slots=True)
class RedisLost:
    """Redis does not answer, or refuses a command (out of memory, a key of another type). Said once an outage."""

    error: str


@dataclass(frozen=True, slots=True)
class RedisBack:
    """A step went through again, ``gap_ms`` after :class:`RedisLost`."""

    gap_ms: int


@dataclass(frozen=True, slots=True)
class FleetSilent:
    """More than half the fleet is silent at once. That is more likely the network than the workers: nobody is reaped yet."""

    silent: int
    total: int


@dataclass(frozen=True, slots=True)
class LaneUnroutable:
    """No worker may have the jobs of ``lane``, for ``unroutable_after_s`` now. Said once until one may, for all lanes that ask the same;
    ``depth`` is of all of them. ``refusals``: per filter how many workers it keeps out, and an example.
    """

    lane: str
    depth: int
    refusals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LaneRoutable:
    """A lane that was told of as unroutable is so no more: some worker may have its jobs, or they are gone."""

    lane: str


@dataclass(frozen=True, slots=True)
class UnknownHeaderField:
    """A job's ``dispatch`` header holds a field that nothing here acts on. Said once a field and process."""

    field: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Redis holds what nothing of ours has written, or another version: it is passed over. Said once for each, and process."""

    what: str


@dataclass(frozen=True, slots=True)
class RolloutChanged:
    """Somebody changed an alias. ``shares``: ``chat@1 95 %`` and so on, the largest first; empty where the alias was removed."""

    alias: str
    shares: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RolloutStepped:
    """A guard gave its canary, ``version``, a larger share (``5 %``), and why."""

    alias: str
    version: str
    share: str
    reason: str


@dataclass(frozen=True, slots=True)
class RolloutRolledBack:
    """A guard withdrew its canary, ``version``: all goes to ``to`` again, and why."""

    alias: str
    version: str
    to: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobsRerouted:
    """``count`` jobs that waited for a withdrawn ``version`` wait for another now."""

    version: str
    count: int


@dataclass(frozen=True, slots=True)
class FleetScaled:
    """The autoscaler starts workers (``start``: their kinds) or drains some (``drain``: their names) of ``workers``, and why."""

    start: tuple[str, ...]
    drain: tuple[str, ...]
    reason: str
    workers: int


@dataclass(frozen=True, slots=True)
class ScalingAdvised:
    """What the autoscaler would do if it were allowed to. Said once until the advice changes."""

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
