"""What a plan goes by: everything that can be set, in one frozen object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dispatcher.core.choosing.order.caps import Caps
from dispatcher.core.choosing.order.ordering import OLDEST, Order
from dispatcher.core.choosing.protocols import Filter, Strategy
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView


@dataclass(frozen=True, slots=True)
class HoldRule:
    """A job waits for a full worker if it would be done there more than ``ratio`` times sooner than on any worker that
    has room.

    For strategies whose score is a time. Not when the next job of its lane was admitted over ``hold_max_ms`` ago: a
    hold ends. The ratio makes up for what a score cannot see: a slot left idle now delays the jobs to come.
    """

    ratio: float
    hold_max_ms: int


@dataclass(frozen=True, slots=True)
class Stickiness:
    """Jobs with a slot go to the slot's home (see :mod:`~dispatcher.core.choosing.place.affinity`) among the workers
    that may have them.

    Unless ``required``, another gets them where it would be done ``wait_ms`` sooner, or once they have waited
    ``hold_max_ms``. With a strategy that knows no times, ``wait_ms`` is how long they wait for a home that is full.
    """

    wait_ms: int
    hold_max_ms: int
    required: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that can be set about choosing."""

    strategy: Strategy
    """How to choose among the workers that may have a job."""
    filters: Sequence[Filter]
    """What a worker must be to have a job."""
    order: Order = OLDEST
    """Which lane of a tenant is served first."""
    hold: HoldRule | None = None
    """When a job waits for a full worker; ``None``: never."""
    sticky: Stickiness | None = None
    """How sessions and prefixes are kept together; ``None``: they are not."""
    of_model: Mapping[str, Strategy] = field(default_factory=dict)
    """Model, or ``name@version`` → its own strategy."""
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    """Tenant → its share when tenants compete; 1 for the others."""
    ageing_ms: int = 0
    """A job that has waited so long is served like a job of the next higher priority, and so on; 0: never."""
    caps: Caps = field(default_factory=Caps)
    """How much work of a tenant, or of a model, may be leased at once."""
    penalty_ms: Callable[[Lane, WorkerView], float] | None = None
    """Time to add to a worker's score for what the lane prefers and the worker does not have (region, data)."""

    def strategy_of(self, model: str) -> Strategy:
        """The strategy of ``name@version``, else of ``name``, else the common one."""
        if not self.of_model:
            return self.strategy
        return self.of_model.get(model) or self.of_model.get(model.partition("@")[0]) or self.strategy
