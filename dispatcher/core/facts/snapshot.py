"""What a plan is made from: the waiting lanes and the workers at one instant. Frozen; costs in ms of work at speed 1.

The views are structs, not dataclasses: every step makes one of each lane and worker, and a frozen dataclass takes six times as long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec import structs

from dispatcher.core.facts.lane import Lane


class LaneView(msgspec.Struct, frozen=True, gc=False):
    """A lane that is not empty. ``cost_ms``, ``admitted_ms`` and ``deadline_ms`` (0: none) are those of the job that is next.

    ``job`` is its number: of two jobs admitted in one ms, the one that came first has the lower.
    """

    name: str
    lane: Lane
    depth: int
    cost_ms: int
    admitted_ms: int
    deadline_ms: int = 0
    job: int = 0


_NOTHING: Mapping[str, Any] = {}
"""One for all: thousands of views have no labels and no measured speeds."""


class WorkerView(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A registered worker life. What a plan reads of every worker stands together and first: a scan of 10,000 waits for memory.

    ``leases`` and ``leased_cost_ms`` count what it owes, running or not; ``taken`` how many of those it has started. ``window`` is
    how many leases it may hold. ``draining`` is ``""``, ``"exit"`` or ``"keep"``. ``consume_age_ms`` is how long ago it last looked
    at its queue while it had room. ``ended`` says why the life is over, ``None`` while it is not.

    ``speeds``: model → measured speed of one slot, where there is enough evidence; else ``weight``. ``resident``: models in its memory;
    ``None`` where it does not say, and then loading is taken to cost nothing. ``loading``: those of them that are on their way.
    ``models_max``: how many fit in; 0: any number. ``ejected`` says why it gets no work for now, ``""`` while it does. ``warmth``, from
    above 0 to 1, is the share of its speed that it is trusted with after a start or a return (slow start).
    """

    ended: str | None = None
    consume_age_ms: int = 0
    loop_lag_ms: int = 0
    ejected: str = ""
    draining: str = ""
    epoch: str
    window: int
    leases: int
    leased_cost_ms: int
    weight: float
    speeds: Mapping[str, float] = msgspec.field(default_factory=lambda: _NOTHING)
    warmth: float = 1.0
    name: str
    concurrency: int
    models: frozenset[str]
    tasks: frozenset[str]
    ingress: frozenset[str]
    taken: int
    done: int = 0
    beat_age_ms: int = 0
    at_most_once: frozenset[str] = frozenset()
    labels: Mapping[str, str] = msgspec.field(default_factory=lambda: _NOTHING)
    resident: frozenset[str] | None = None
    loading: frozenset[str] = frozenset()
    models_max: int = 0

    def speed(self, model: str) -> float:
        """Seconds of work of that model that one slot does in a second, slow start included."""
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
    """One instant of a cell. ``paused`` holds ingress queues, or ``*`` for all. ``load_ms``: model → time to load it, where known.

    ``leased_ms``: lane → cost of its jobs that are leased; only where there are caps.
    """

    now_ms: int
    leads: bool
    paused: frozenset[str]
    lanes: tuple[LaneView, ...]
    workers: tuple[WorkerView, ...]
    next_due_ms: int | None = None
    load_ms: Mapping[str, int] = msgspec.field(default_factory=dict)
    leased_ms: Mapping[str, int] = msgspec.field(default_factory=dict)

    def is_paused(self, queue: str) -> bool:
        """True if no job of this ingress queue may be given out."""
        return is_paused(queue, self.paused)

    def with_arrivals(self, arrivals: dict[str, LaneView]) -> Snapshot:
        """This instant as it will be once the jobs in ``arrivals`` (lane name → how many, as a view) have been admitted."""
        if not arrivals:
            return self
        lanes = tuple(arrivals.values())
        if self.lanes:
            known = {lane.name for lane in self.lanes}
            more = {name: view.depth for name, view in arrivals.items()}
            grown = (structs.replace(one, depth=one.depth + more[one.name]) if one.name in more else one for one in self.lanes)
            lanes = (*grown, *(view for view in lanes if view.name not in known))
        return structs.replace(self, lanes=lanes)
