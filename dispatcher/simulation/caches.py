"""What a simulated worker keeps of the jobs it has run: prefix blocks and sessions, so many of each, the least recently used go."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class LruCache:
    """At most ``room`` keys. A key stays while the keys before it in its sequence do: the last of a sequence goes first."""

    room: int
    _kept: dict[Hashable, None] = field(default_factory=dict)

    def use(self, keys: Sequence[Hashable]) -> int:
        """How many of ``keys``, from the first on, were here; all are now, as far as there is room."""
        kept, hits = self._kept, 0
        for key in keys:
            if key not in kept:
                break
            hits += 1
        for key in reversed(keys):
            if key in kept:
                del kept[key]
            kept[key] = None
        while len(kept) > self.room:
            del kept[next(iter(kept))]
        return hits

    def __len__(self) -> int:
        return len(self._kept)


@dataclass(slots=True)
class HitCount:
    """Keys that were asked of caches, and those that were there."""

    asked: int = 0
    hits: int = 0

    @property
    def rate(self) -> float | None:
        """The share that was there; ``None`` where none was asked for."""
        return self.hits / self.asked if self.asked else None


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """What each worker has room for; 0: it keeps nothing, and nothing is counted."""

    blocks: int = 0
    sessions: int = 0
