"""Which lane is served next, among those of one priority and one tenant. A new order is one dataclass and one line in
the registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from dispatcher.core.facts.snapshot import LaneView
from dispatcher.errors import Invalid


class Order(Protocol):
    """Ranks lanes. Only the first job of each is known: the jobs behind it are taken to have come evenly since."""

    name: ClassVar[str]

    def rank(self, lane: LaneView, now_ms: int, placed: int) -> float:
        """Lower is served first. ``placed``: how many of the lane's jobs this plan has placed or held already."""
        ...


def waited_ms(lane: LaneView, now_ms: int, placed: int) -> float:
    """How long the next job has waited, once ``placed`` jobs are gone."""
    return (now_ms - lane.admitted_ms) * (1 - placed / max(1, lane.depth))


@dataclass(frozen=True, slots=True)
class Oldest:
    """First come, first served, over all lanes."""

    name: ClassVar[str] = "oldest"

    def rank(self, lane: LaneView, now_ms: int, placed: int) -> float:
        return -waited_ms(lane, now_ms, placed)


@dataclass(frozen=True, slots=True)
class Shortest:
    """Shortest first, with ageing: the job that has waited longest for its size; rank = -(waited + cost) / cost.

    Highest response ratio next (Brinch Hansen, 1971): it has no parameter, and no job starves, since a ratio grows for
    as long as it waits.
    """

    name: ClassVar[str] = "shortest"

    def rank(self, lane: LaneView, now_ms: int, placed: int) -> float:
        cost_ms = max(1, lane.cost_ms)
        return -(waited_ms(lane, now_ms, placed) + cost_ms) / cost_ms


def is_urgent(lane: LaneView, now_ms: int) -> bool:
    """True if the next job has a deadline, and less than half of its time is left to begin it. Urgent jobs go first,
    the earliest deadline first. Until then a deadline far off does not hold up jobs without one.
    """
    if not lane.deadline_ms:
        return False
    return 2 * (lane.deadline_ms - lane.cost_ms - now_ms) < lane.deadline_ms - lane.admitted_ms


OLDEST: Final = Oldest()
ORDERS: Final[dict[str, Order]] = {rule.name: rule for rule in (OLDEST, Shortest())}


def order(name: str) -> Order:
    """The order with this name. Raises :class:`Invalid` with the names there are."""
    try:
        return ORDERS[name]
    except KeyError:
        raise Invalid(f"there is no order {name!r}; there are {', '.join(ORDERS)}") from None
