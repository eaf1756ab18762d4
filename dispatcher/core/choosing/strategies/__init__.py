"""The registry of strategies: a new one is one file here and one line below; the conformance suite picks it up."""

from __future__ import annotations

from typing import Final

from dispatcher.core.choosing.protocols import Strategy
from dispatcher.core.choosing.strategies.earliest_completion import EarliestCompletion
from dispatcher.core.choosing.strategies.least_connections import LeastConnections
from dispatcher.core.choosing.strategies.least_work import LeastWork
from dispatcher.core.choosing.strategies.power_of_two import PowerOfTwo
from dispatcher.core.choosing.strategies.random_choice import RandomChoice
from dispatcher.core.choosing.strategies.round_robin import RoundRobin
from dispatcher.core.choosing.strategies.weighted_least_connections import WeightedLeastConnections
from dispatcher.core.choosing.strategies.weighted_round_robin import WeightedRoundRobin
from dispatcher.errors import Invalid

_ALL: Final[tuple[Strategy, ...]] = (
    EarliestCompletion(),
    LeastWork(),
    LeastConnections(),
    WeightedLeastConnections(),
    PowerOfTwo(),
    RandomChoice(),
    RoundRobin(),
    WeightedRoundRobin(),
)
STRATEGIES: Final[dict[str, Strategy]] = {strategy.name: strategy for strategy in _ALL}


def strategy(name: str) -> Strategy:
    """The strategy with this name. Raises :class:`Invalid` with the names there are."""
    try:
        return STRATEGIES[name]
    except KeyError:
        raise Invalid(f"there is no strategy {name!r}; there are {', '.join(STRATEGIES)}") from None
