"""Fair shares between tenants, in cost, not in jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Final

import msgspec

KEPT: Final = 1_000
"""Accounts that outlive their leader: the highest, for a tenant with a lower account is lifted to the others anyway."""


class KeptAccounts(msgspec.Struct, frozen=True):
    """What a successor needs of the accounts."""

    given: dict[str, int]
    """Tenant → what it has been given, in whole ms."""
    waited: list[str]
    """Tenants that had jobs waiting."""


@dataclass(slots=True)
class Accounts:
    """What each tenant has been given. The tenant that has been given least is next.

    Deficit round robin in its smooth form, the virtual counters of VTC (Sheng et al., OSDI 2024): two tenants that both
    have jobs waiting are given, to within the largest job, what their weights say. A tenant that had nothing waiting
    does not save up: when it comes back it is lifted to the least of those that waited.
    """

    given: dict[str, float] = field(default_factory=dict)
    """Tenant → its account: ms of cost divided by the tenant's weight."""

    waited: frozenset[str] = frozenset()
    """Tenants that had jobs waiting at the plan before."""

    def begin(self, tenants: Iterable[str]) -> None:
        """A plan begins; ``tenants`` have jobs waiting."""
        now = frozenset(tenants)
        stayed = [self.given[tenant] for tenant in now & self.waited if tenant in self.given]
        level = min(stayed, default=None)
        if level is None:
            # No tenant was waiting in both plans. Start all at the highest account: that tenant got its share while the
            # others asked for nothing.
            level = max((self.given[tenant] for tenant in now if tenant in self.given), default=0.0)
        for tenant in now - self.waited:
            self.given[tenant] = max(self.given.get(tenant, 0.0), level)
        for tenant in now & self.waited:
            self.given.setdefault(tenant, level)
        self.waited = now

    def charge(self, tenant: str, cost_ms: float, weights: Mapping[str, float]) -> None:
        """The tenant was given jobs of this cost. A cost of 0 counts as 1 ms, so that turns pass."""
        self.given[tenant] = self.given.get(tenant, 0.0) + max(1.0, cost_ms) / weights.get(tenant, 1.0)

    def dump(self) -> bytes:
        """What must survive a takeover, or the tenant with the highest account would begin level with the others again."""
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
        """Drop accounts beyond ``keep``, the lowest first: they would be lifted anyway. The others begin near 0 again."""
        if len(self.given) > keep:
            idle = sorted(self.given.keys() - self.waited, key=self.given.__getitem__)
            for tenant in idle[: len(self.given) - keep]:
                del self.given[tenant]
        floor = min((self.given[tenant] for tenant in self.waited if tenant in self.given), default=0.0)
        if floor > 1e12:
            self.given = {tenant: max(0.0, account - floor) for tenant, account in self.given.items()}
