"""What core goes by, made from settings: for the live dispatcher, ``explain``, the autoscaler and the simulator alike.

Workers do not import this module: with the policies comes numpy.
"""

from __future__ import annotations

from dispatcher.core.admission.rules import Admission
from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.choosing.order.caps import Caps
from dispatcher.core.choosing.order.ordering import order
from dispatcher.core.choosing.place.wishes import penalty_ms, read_distances
from dispatcher.core.choosing.policy import HoldRule, Policy, Stickiness
from dispatcher.core.choosing.strategies import strategy
from dispatcher.core.choosing.window import Windows
from dispatcher.core.facts.message import JSON_CONTENT
from dispatcher.core.health.ejection import HealthRule
from dispatcher.core.health.probing import Probing
from dispatcher.core.learning.residency import Residency
from dispatcher.core.learning.speeds import Speeds
from dispatcher.core.returns.recall import RecallRule
from dispatcher.core.scaling import ScalingLimits
from dispatcher.settings.knobs import Settings


def admission_of(
    settings: Settings, accept_content: frozenset[str], own_compressions: frozenset[str] = frozenset()
) -> Admission:
    """How messages of these content types are admitted. ``own_compressions``: as :class:`Admission` has them."""
    return Admission(
        routes=dict(route.split("=", 1) for route in settings.model_routes),
        default_cost_s=settings.default_cost_s,
        accept_content=accept_content,
        own_compressions=own_compressions,
        sticky=settings.sticky != "off",
    )


def policy_of(settings: Settings) -> Policy:
    """What a plan goes by. Raises :class:`Invalid` for names that there are not."""
    hold_max_ms = ms(settings.hold_max_s)
    distances = read_distances(settings.region_rtt_ms, prefer_cost_s=settings.prefer_cost_s)
    return Policy(
        strategy(settings.strategy),
        standard_filters(stall_ms=ms(settings.stall_s)),
        order(settings.order),
        hold=HoldRule(settings.hold_ratio, hold_max_ms) if settings.hold_ratio else None,
        sticky=None
        if settings.sticky == "off"
        else Stickiness(ms(settings.sticky_wait_s), hold_max_ms, required=settings.sticky == "require"),
        of_model={model: strategy(name) for model, name in _pairs(settings.model_strategies)},
        tenant_weights={tenant: float(weight) for tenant, weight in _pairs(settings.tenant_weights)},
        ageing_ms=ms(settings.priority_ageing_s),
        caps=Caps(_costs_ms(settings.tenant_caps), _costs_ms(settings.model_caps)),
        penalty_ms=lambda lane, worker: penalty_ms(lane, worker, distances),
    )


def windows_of(settings: Settings) -> Windows:
    """How many leases workers may hold."""
    return Windows(settings.window_extra, settings.window_hide_ms, idle=settings.window_idle)


def speeds_of(settings: Settings) -> Speeds:
    """How workers' speeds are estimated."""
    return Speeds(prior_jobs=settings.speed_prior_jobs, measured=settings.measure_speed)


def residency_of(settings: Settings) -> Residency:
    """Which models workers have in memory, with the times to load them that are expected before any was measured."""
    pairs = (pair.rpartition("=") for pair in settings.model_load_s)
    return Residency({model: ms(float(text)) for model, _, text in pairs})


def health_rule_of(settings: Settings) -> HealthRule:
    """When workers are ejected, and return."""
    return HealthRule(
        failures_in_row=settings.eject_failures,
        slow_ratio=settings.eject_slow_ratio,
        base_ms=ms(settings.eject_base_s),
        share_max=settings.eject_max_share,
        panic_share=settings.panic_share,
        slow_start_ms=ms(settings.slow_start_s),
        new_start_ms=ms(settings.slow_start_new_s),
        stall_ms=ms(settings.stall_s),
    )


def probing_of(settings: Settings, accept_content: frozenset[str]) -> Probing:
    """Whom to probe, and how often: nobody where workers do not accept JSON, which a probe is."""
    probes = JSON_CONTENT in accept_content
    return Probing(ms(settings.probe_interval_s) if probes else 0, ms(settings.probe_timeout_s))


def recall_rule_of(settings: Settings) -> RecallRule:
    """Which unbegun jobs go back in line for a free worker."""
    return RecallRule(ms(settings.recall_after_s), settings.recalls_max)


def scaling_limits_of(settings: Settings) -> ScalingLimits:
    """What the autoscaler keeps to."""
    return ScalingLimits(
        settings.autoscaler_target_wait_s,
        settings.autoscaler_stabilization_s,
        settings.autoscaler_workers_min,
        settings.autoscaler_workers_max,
    )


def ms(seconds: float) -> int:
    """A span of the settings as core and the stores take it."""
    return round(seconds * 1000)


def _costs_ms(texts: tuple[str, ...]) -> dict[str, int]:
    return {name: ms(float(seconds)) for name, seconds in _pairs(texts)}


def _pairs(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (text.partition("=") for text in texts)]
