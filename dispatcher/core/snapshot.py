"""What a plan is made from: the waiting lanes and the workers at one instant. Frozen; costs in ms of work at speed 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dispatcher.core.lane import Lane


@dataclass(frozen=True, slots=True)
class LaneView:
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


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A registered worker life.

    ``leases`` and ``leased_cost_ms`` count what it owes, running or not; ``taken`` how many of those it has started. ``window`` is
    how many leases it may hold. ``draining`` is ``""``, ``"exit"`` or ``"keep"``. ``consume_age_ms`` is how long ago it last looked
    at its queue while it had room. ``ended`` says why the life is over, ``None`` while it is not.

    ``speeds``: model → measured speed of one slot, where there is enough evidence; else ``weight``. ``resident``: models in its memory;
    ``None`` where it does not say, and then loading is taken to cost nothing. ``loading``: those of them that are on their way.
    ``models_max``: how many fit in; 0: any number. ``ejected`` says why it gets no work for now, ``""`` while it does. ``warmth``, from
    above 0 to 1, is the share of its speed that it is trusted with after a start or a return (slow start).
    """

    epoch: str
    name: str
    concurrency: int
    weight: float
    models: frozenset[str]
    tasks: frozenset[str]
    ingress: frozenset[str]
    leases: int
    leased_cost_ms: int
    taken: int
    window: int
    done: int = 0
    draining: str = ""
    beat_age_ms: int = 0
    consume_age_ms: int = 0
    loop_lag_ms: int = 0
    ended: str | None = None
    at_most_once: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    speeds: Mapping[str, float] = field(default_factory=dict)
    resident: frozenset[str] | None = None
    loading: frozenset[str] = frozenset()
    models_max: int = 0
    ejected: str = ""
    warmth: float = 1.0

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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One instant of a cell. ``paused`` holds ingress queues, or ``*`` for all. ``load_ms``: model → time to load it, where known.

    ``leased_ms``: lane → cost of its jobs that are leased; only where there are caps.
    """

    now_ms: int
    leads: bool
    paused: frozenset[str]
    lanes: tuple[LaneView, ...]
    workers: tuple[WorkerView, ...]
    next_due_ms: int | None = None
    load_ms: Mapping[str, int] = field(default_factory=dict)
    leased_ms: Mapping[str, int] = field(default_factory=dict)

    def with_arrivals(self, arrivals: dict[str, LaneView]) -> Snapshot:
        """This instant as it will be once the jobs in ``arrivals`` (lane name → how many, as a view) have been admitted."""
        if not arrivals:
            return self
        lanes = [
            replace(lane, depth=lane.depth + arrivals[lane.name].depth) if lane.name in arrivals else lane for lane in self.lanes
        ]
        known = {lane.name for lane in self.lanes}
        return replace(self, lanes=(*lanes, *(view for name, view in arrivals.items() if name not in known)))
