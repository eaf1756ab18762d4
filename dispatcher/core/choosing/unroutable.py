"""Finds lanes that no worker may serve for long: a deploy that passes must not page anybody."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class UnroutableLanes:
    """Since when each lane has been unroutable. Times are of any one clock."""

    after_ms: int
    _since_ms: dict[str, int] = field(default_factory=dict)
    _lasting: frozenset[str] = frozenset()

    @property
    def lasting(self) -> frozenset[str]:
        """Lanes that have been unroutable for longer than ``after_ms``."""
        return self._lasting

    @property
    def known(self) -> frozenset[str]:
        """Lanes that are unroutable now, for however short a time."""
        return frozenset(self._since_ms)

    def waited_ms(self, lane: str, monotonic_ms: int) -> int:
        """How long the lane has been unroutable; 0 if it is not."""
        return monotonic_ms - self._since_ms.get(lane, monotonic_ms)

    def look(self, unroutable: Collection[str], routable: Collection[str], monotonic_ms: int) -> None:
        """Take in one plan. A lane in neither collection is as it was: a plan that ends at its limit has not looked at
        every lane.
        """
        for lane in unroutable:
            self._since_ms.setdefault(lane, monotonic_ms)
        for lane in self._since_ms.keys() & set(routable):
            del self._since_ms[lane]
        self._lasting = frozenset(lane for lane, since_ms in self._since_ms.items() if monotonic_ms - since_ms > self.after_ms)
