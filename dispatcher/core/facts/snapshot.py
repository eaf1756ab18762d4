"""What a plan is made from: the waiting lanes and the workers at one instant. Frozen; costs in ms of work at speed 1.

The views are structs, not dataclasses: every step makes one of each lane and worker, and a frozen dataclass takes six
times as long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec import structs

from dispatcher.core.facts.lane import Lane


class LaneView(msgspec.Struct, frozen=True, gc=False):
    """A lane that is not empty."""

    name: str
    lane: Lane
    depth: int
    """How many jobs wait in it."""
    cost_ms: int
    """Cost of the next job."""
    admitted_ms: int
    """When the next job was admitted, by Redis' clock."""
    deadline_ms: int = 0
    """When the next job may not begin any more, by Redis' clock; 0: never."""
    job: int = 0
    """Number of the next job: of two jobs admitted in one ms, the one that came first has the lower."""


_NOTHING: Mapping[str, Any] = {}
"""Shared by thousands of views that have no labels and no measured speeds."""


class WorkerView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A registered worker life. What a plan reads of every worker stands together and first: a scan of 10,000 waits for
    memory.
    """

    ended: str | None = None
    """Why the life is over; ``None`` while it is not."""
    consume_age_ms: int = 0
    """How long ago it last looked at its queue while it had room."""
    loop_lag_ms: int = 0
    """How late its event loop is."""
    ejected: str = ""
    """Why it gets no work for now, as it was found faulty; empty while it gets work."""
    draining: str = ""
    """``exit`` or ``keep`` (the process, once it has ended its jobs); empty while it takes new work."""
    epoch: str
    """Names the life."""
    window: int
    """How many leases it may hold."""
    leases: int
    """Jobs that it owes, running or not."""
    leased_cost_ms: int
    """Their cost."""
    weight: float
    """Speed of one slot, as the worker was configured."""
    speeds: Mapping[str, float] = msgspec.field(default_factory=lambda: _NOTHING)
    """Model → measured speed of one slot, where there is enough evidence; ``weight`` for the other models."""
    warmth: float = 1.0
    """The share of its speed, above 0 and up to 1, that it is trusted with after a start or a return (slow start)."""
    name: str
    """Its node name, which a restart keeps."""
    concurrency: int
    """Slots: jobs that it runs at once."""
    models: frozenset[str]
    """Models that it serves, beside the default one."""
    tasks: frozenset[str]
    ingress: frozenset[str]
    """Queues whose jobs it takes."""
    taken: int
    """Leases whose job it has started."""
    done: int = 0
    """Jobs that it has ended in its life."""
    beat_age_ms: int = 0
    """How long ago its last beat came."""
    at_most_once: frozenset[str] = frozenset()
    """Tasks of which a job is not run again if the worker dies with it."""
    labels: Mapping[str, str] = msgspec.field(default_factory=lambda: _NOTHING)
    resident: frozenset[str] | None = None
    """Models in its memory, or about to be; ``None`` if it does not say: then loading is taken to cost nothing."""
    loading: frozenset[str] = frozenset()
    """Those of ``resident`` that are still on their way."""
    models_max: int = 0
    """How many models its memory holds; 0: any number."""

    def speed(self, model: str) -> float:
        """Seconds of work of ``model`` that one slot does in a second, slow start included."""
        return self.speeds.get(model, self.weight) * self.warmth

    @property
    def capacity(self) -> float:
        """Seconds of work it does in a second: weight (speed of one slot) times concurrency."""
        return self.weight * self.concurrency

    @property
    def room(self) -> int:
        """Leases it may still be given."""
        return max(0, self.window - self.leases)


ALL_QUEUES: Final = "*"
"""In the set of paused queues: every queue."""


def is_paused(queue: str, paused: Collection[str]) -> bool:
    """True if the ingress queue is in the set of paused queues, by its name or with all others."""
    return queue in paused or ALL_QUEUES in paused


class Snapshot(msgspec.Struct, frozen=True):
    """One instant of a cell."""

    now_ms: int
    """Redis' clock."""
    leads: bool
    """True if the process that read it was the leader."""
    paused: frozenset[str]
    """Paused ingress queues, or :data:`ALL_QUEUES`; see :meth:`is_paused`."""
    lanes: tuple[LaneView, ...]
    workers: tuple[WorkerView, ...]
    next_due_ms: int | None = None
    """When the next scheduled job is due; ``None`` if there is none."""
    load_ms: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Model → time to load it, where known."""
    leased_ms: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Lane → cost of its jobs that are leased. Filled only if there are caps."""

    def is_paused(self, queue: str) -> bool:
        """True if no job of this ingress queue may be given out."""
        return is_paused(queue, self.paused)

    def with_arrivals(self, arrivals: dict[str, LaneView]) -> Snapshot:
        """This instant as it will be once the jobs of ``arrivals`` (lane name → a view of its new jobs) have been
        admitted.
        """
        if not arrivals:
            return self
        lanes = tuple(arrivals.values())
        if self.lanes:
            known = {lane.name for lane in self.lanes}
            more = {name: view.depth for name, view in arrivals.items()}
            grown = (structs.replace(view, depth=view.depth + more[view.name]) if view.name in more else view for view in self.lanes)
            lanes = (*grown, *(view for view in lanes if view.name not in known))
        return structs.replace(self, lanes=lanes)
