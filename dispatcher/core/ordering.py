"""Which lane of a priority is served next. A new order is one dataclass and one line in the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from dispatcher.core.snapshot import LaneView
from dispatcher.errors import Invalid


class Order(Protocol):
    """A rank of lanes inside one priority. ``by_job``: lanes are ranked anew after each job; else each has its turn of a few jobs."""

    name: ClassVar[str]
    by_job: ClassVar[bool]

    def rank(self, lane: LaneView, now_ms: int, placed: int) -> float:
        """Lower is served first. ``placed``: how many of the lane's jobs this plan has placed or held already."""
        ...


@dataclass(frozen=True, slots=True)
class Oldest:
    """The lane whose next job was admitted first; then in turns."""

    name: ClassVar[str] = "oldest"
    by_job: ClassVar[bool] = False

    def rank(self, lane: LaneView, now_ms: int, placed: int) -> float:
        return lane.admitted_ms


@dataclass(frozen=True, slots=True)
class Shortest:
    """Shortest first, with ageing: the job that has waited longest for its size; rank = -(waited + cost) / cost.

    Highest response ratio next (Brinch Hansen, 1971): it has no parameter, and no job starves, since a ratio grows for as long as it
    waits. Lanes hold jobs of one size class, and only the first of each is known: those behind it are taken to have come evenly since.
    """

    name: ClassVar[str] = "shortest"
    by_job: ClassVar[bool] = True

    def rank(self, lane: LaneView, now_ms: int, placed: int) -> float:
        cost_ms = max(1, lane.cost_ms)
        waited_ms = (now_ms - lane.admitted_ms) * (1 - placed / max(1, lane.depth))
        return -(waited_ms + cost_ms) / cost_ms


OLDEST: Final = Oldest()
ORDERS: Final[dict[str, Order]] = {one.name: one for one in (OLDEST, Shortest())}


def order(name: str) -> Order:
    """The order of that name. Raises :class:`Invalid` with the names there are."""
    try:
        return ORDERS[name]
    except KeyError:
        raise Invalid(f"there is no order {name!r}; there are {', '.join(ORDERS)}") from None
