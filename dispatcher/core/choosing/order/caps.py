"""Caps: how much work of one tenant, or of one model, may be out with workers at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dispatcher.core.facts.lane import Lane, parse_lane


@dataclass(frozen=True, slots=True)
class Caps:
    """How much may be leased at once, as cost in ms. Whoever is not named here has no cap."""

    tenants: Mapping[str, int] = field(default_factory=dict)
    """By tenant."""
    models: Mapping[str, int] = field(default_factory=dict)
    """By model: ``name`` or ``name@version``."""

    def __bool__(self) -> bool:
        return bool(self.tenants or self.models)


class Allowance:
    """What the caps leave, while a plan grows. ``leased_ms``: lane → cost of its jobs that are leased."""

    def __init__(self, caps: Caps, leased_ms: Mapping[str, int]) -> None:
        self._caps = caps
        self._tenants: dict[str, int] = {}
        self._models: dict[str, int] = {}
        for name, cost_ms in leased_ms.items():
            self.take(parse_lane(name), cost_ms)

    def refuses(self, lane: Lane, cost_ms: int) -> str | None:
        """``tenant_cap`` or ``model_cap`` if one more job would pass it. A job larger than its cap goes when nothing
        else is leased.
        """
        for reason, caps, out, name in (
            ("tenant_cap", self._caps.tenants, self._tenants, lane.tenant),
            ("model_cap", self._caps.models, self._models, self._model(lane)),
        ):
            cap = caps.get(name)
            leased = out.get(name, 0)
            if cap is not None and leased and leased + cost_ms > cap:
                return reason
        return None

    def take(self, lane: Lane, cost_ms: int) -> None:
        """A job of this cost is given out."""
        model = self._model(lane)
        self._tenants[lane.tenant] = self._tenants.get(lane.tenant, 0) + cost_ms
        self._models[model] = self._models.get(model, 0) + cost_ms

    def _model(self, lane: Lane) -> str:
        """The name that a cap is for: the version if it has a cap, else the model."""
        return lane.model if lane.model in self._caps.models else lane.model.partition("@")[0]
