"""What a simulated worker keeps of its jobs: prefix blocks, sessions, models; so many of each, the least recently used go."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from dispatcher.core.facts.evidence import Memory


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


@dataclass(slots=True)
class _Place:
    """A model in memory, or on its way there until ``ready_ms``; ``users``: jobs that run on it or wait for it."""

    ready_ms: float
    users: int = 0


@dataclass(slots=True)
class ModelPlaces:
    """The models in a worker's memory, at most ``room`` of them, 0 for any number: as a worker's own, but in virtual time.

    A model in use stays. ``loads``: model → how often it was loaded, and for how many ms in all.
    """

    room: int = 0
    loads: dict[str, tuple[int, int]] = field(default_factory=dict)
    _places: dict[str, _Place] = field(default_factory=dict)  # the one used longest ago is first

    def enter(self, model: str, now_ms: float, load_ms: float) -> float | None:
        """A job begins to use the model: when it may run. ``None`` where every place is in use: it must ask again after a :meth:`leave`."""
        place = self._places.pop(model, None)
        if place is None:
            if self.room and len(self._places) >= self.room:
                unused = next((one for one, its in self._places.items() if not its.users), None)
                if unused is None:
                    return None
                del self._places[unused]
            place = _Place(now_ms + load_ms)
            count, total_ms = self.loads.get(model, (0, 0))
            self.loads[model] = count + 1, total_ms + round(load_ms)
        self._places[model] = place
        place.users += 1
        return max(now_ms, place.ready_ms)

    def leave(self, model: str) -> None:
        """A job of the model has ended."""
        self._places[model].users -= 1

    def told(self, now_ms: float) -> Memory:
        """As a beat tells it."""
        ready = sorted(model for model, place in self._places.items() if place.ready_ms <= now_ms)
        return Memory(ready, dict(self.loads))
