"""What a plan goes by: everything that can be set, in one frozen object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dispatcher.core.choosing.order.caps import Caps
from dispatcher.core.choosing.order.ordering import OLDEST, Order
from dispatcher.core.choosing.strategies.base import Filter, Strategy
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView


@dataclass(frozen=True, slots=True)
class HoldRule:
    """A job waits for a full worker where it would be done more than ``ratio`` times sooner than on any that has room.

    For strategies whose score is a time. Not when the next job of its lane was admitted over ``hold_max_ms`` ago: a hold ends.
    The ratio makes up for what a score cannot see: a slot left idle now delays the jobs to come.
    """

    ratio: float
    hold_max_ms: int


@dataclass(frozen=True, slots=True)
class Stickiness:
    """Jobs with a slot go to the slot's home (see :mod:`~dispatcher.core.choosing.place.affinity`) among the workers that may have them.

    Unless ``required``, another gets them where it would be done ``wait_ms`` sooner, or once they have waited ``hold_max_ms``. With a
    strategy that knows no times, ``wait_ms`` is how long they wait for a home that is full.
    """

    wait_ms: int
    hold_max_ms: int
    required: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """``of_model``: strategies of single models, by name or ``name@version``; all others have ``strategy``.

    ``tenant_weights``: shares of tenants that compete, 1 for those not named. ``ageing_ms``: a job that has waited so long is served
    like one of the next higher priority, and so on; 0 for never. ``caps``: what may be leased at once of a tenant or a model.
    ``penalty_ms``: time to add to a worker's score for what is wished and not had (region, data), a function of what the lane asks and
    of the worker.
    """

    strategy: Strategy
    filters: Sequence[Filter]
    order: Order = OLDEST
    hold: HoldRule | None = None
    sticky: Stickiness | None = None
    of_model: Mapping[str, Strategy] = field(default_factory=dict)
    tenant_weights: Mapping[str, float] = field(default_factory=dict)
    ageing_ms: int = 0
    caps: Caps = field(default_factory=Caps)
    penalty_ms: Callable[[Lane, WorkerView], float] | None = None

    def strategy_of(self, model: str) -> Strategy:
        """That of ``name@version``, else of ``name``, else of all."""
        if not self.of_model:
            return self.strategy
        return self.of_model.get(model) or self.of_model.get(model.partition("@")[0]) or self.strategy
