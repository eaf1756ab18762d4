"""The policy that settings ask for: for the live dispatcher, ``explain`` and the simulator alike."""

from __future__ import annotations

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.order.caps import Caps
from dispatcher.core.choosing.order.ordering import order
from dispatcher.core.choosing.place.wishes import penalty_ms, read_distances
from dispatcher.core.choosing.policy import HoldRule, Policy, Stickiness
from dispatcher.core.choosing.strategies import strategy
from dispatcher.settings import Settings


def policy_of(settings: Settings) -> Policy:
    """Raises :class:`Invalid` for names that there are not."""
    hold_max_ms = round(settings.hold_max_s * 1000)
    distances = read_distances(settings.region_rtt_ms, prefer_cost_s=settings.prefer_cost_s)
    return Policy(
        strategy(settings.strategy),
        standard_filters(stall_ms=round(settings.stall_s * 1000)),
        order(settings.order),
        hold=HoldRule(settings.hold_ratio, hold_max_ms) if settings.hold_ratio else None,
        sticky=None
        if settings.sticky == "off"
        else Stickiness(round(settings.sticky_wait_s * 1000), hold_max_ms, required=settings.sticky == "require"),
        of_model={model: strategy(name) for model, name in _pairs(settings.model_strategies)},
        tenant_weights={tenant: float(weight) for tenant, weight in _pairs(settings.tenant_weights)},
        ageing_ms=round(settings.priority_ageing_s * 1000),
        caps=Caps(_costs_ms(settings.tenant_caps), _costs_ms(settings.model_caps)),
        penalty_ms=lambda lane, worker: penalty_ms(lane, worker, distances),
    )


def _costs_ms(texts: tuple[str, ...]) -> dict[str, int]:
    return {name: round(float(seconds) * 1000) for name, seconds in _pairs(texts)}


def _pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (text.partition("=") for text in texts)]
