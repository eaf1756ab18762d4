"""Fair shares between tenants, in cost, not in jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final

import msgspec

from dispatcher.core.facts.evidence import Delta, Told

KEPT: Final = 1_000
"""Accounts that outlive their leader, those furthest on: who is further behind is lifted to the others anyway."""


class KeptAccounts(msgspec.Struct, frozen=True):
    """What a successor needs of the accounts: whole ms, and who had jobs waiting."""

    given: dict[str, int]
    waited: list[str]


@dataclass(slots=True)
class Accounts:
    """What each tenant has been given, in ms of cost divided by its weight; the one that has been given least is next.

    Deficit round robin in its smooth form, the virtual counters of VTC (Sheng et al., OSDI 2024): two tenants that both have jobs
    waiting are given, to within the largest job, what their weights say. A tenant that had nothing waiting does not save up: when it
    comes back it is lifted to the least of those that waited.
    """

    given: dict[str, float] = field(default_factory=dict)
    waited: frozenset[str] = frozenset()
    """Tenants that had jobs waiting at the plan before."""

    def begin(self, tenants: Iterable[str]) -> None:
        """A plan begins; ``tenants`` have jobs waiting."""
        now = frozenset(tenants)
        stayed = [self.given[one] for one in now & self.waited if one in self.given]
        level = min(stayed, default=None)
        if level is None:
            # Nobody has waited through: the one that is furthest on has what it got while the others had nothing to ask for.
            level = max((self.given[one] for one in now if one in self.given), default=0.0)
        for one in now - self.waited:
            self.given[one] = max(self.given.get(one, 0.0), level)
        for one in now & self.waited:
            self.given.setdefault(one, level)
        self.waited = now

    def charge(self, tenant: str, cost_ms: float, weights: Mapping[str, float]) -> None:
        """A job of that cost was given to the tenant. One of no cost counts as 1 ms, so that turns pass."""
        self.given[tenant] = self.given.get(tenant, 0.0) + max(1.0, cost_ms) / weights.get(tenant, 1.0)

    def observe(self, deltas: Sequence[Delta], told: Sequence[Told], now_ms: int) -> None:
        """Nothing: what counts is what was given, not what became of it."""

    def dump(self) -> bytes:
        """What must survive a takeover, or whoever was given most would begin with the others again. Nothing where there are no others."""
        kept = KEPT if len(self.given) > 1 else 0
        furthest = nlargest(kept, self.given, key=lambda tenant: (self.given[tenant], tenant))
        given = {tenant: round(self.given[tenant]) for tenant in furthest}
        return msgspec.json.encode(KeptAccounts(given, sorted(self.waited & given.keys())))

    def load(self, state: bytes) -> None:
        """Go on where another leader was."""
        kept = msgspec.json.decode(state, type=KeptAccounts)
        self.given = dict(kept.given)
        self.waited = frozenset(kept.waited)

    def forget(self, keep: int = 10_000) -> None:
        """Drop accounts beyond ``keep``, those that are furthest behind first: they would be lifted anyway. The rest begin near 0."""
        if len(self.given) > keep:
            idle = sorted(self.given.keys() - self.waited, key=self.given.__getitem__)
            for one in idle[: len(self.given) - keep]:
                del self.given[one]
        floor = min((self.given[one] for one in self.waited if one in self.given), default=0.0)
        if floor > 1e12:
            self.given = {one: max(0.0, value - floor) for one, value in self.given.items()}
