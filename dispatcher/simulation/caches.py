"""What a simulated worker keeps of its jobs: prefix blocks, sessions, models. The least recently used go first."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from dispatcher.core.facts.evidence import Memory


@dataclass(slots=True)
class LruCache:
    """Keeps at most ``room`` keys. Of a sequence of keys the last goes first: no key stays without those before it."""

    room: int
    _kept: dict[Hashable, None] = field(default_factory=dict)

    def use(self, keys: Sequence[Hashable]) -> int:
        """Count the leading ``keys`` that were kept; from now on all are, as far as there is room."""
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
    """Keys that caches were asked for, and hits among them."""

    asked: int = 0
    hits: int = 0

    @property
    def rate(self) -> float | None:
        """The share of hits; ``None`` if no key was asked for."""
        return self.hits / self.asked if self.asked else None


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """How many prefix blocks and sessions each worker can keep; 0: it keeps none, and none are counted."""

    blocks: int = 0
    sessions: int = 0


@dataclass(slots=True)
class _Place:
    """A model in memory, or on its way there."""

    ready_ms: float
    """When its load is done."""
    users: int = 0
    """Jobs that run on the model or wait for it."""


@dataclass(slots=True)
class ModelPlaces:
    """The models in a worker's memory, in virtual time; a real worker keeps its own in the same way.

    A model in use stays.
    """

    room: int = 0
    """How many models fit; 0 for any number."""
    loads: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Model → how often it was loaded, and for how many ms in all."""
    _places: dict[str, _Place] = field(default_factory=dict)  # the least recently used model is first

    def enter(self, model: str, now_ms: float, load_ms: float) -> float | None:
        """Let a job begin to use the model; returns when it may run.

        ``None`` if every place is in use: the job must try again after a :meth:`leave`.
        """
        place = self._places.pop(model, None)
        if place is None:
            if self.room and len(self._places) >= self.room:
                unused = next((name for name, kept in self._places.items() if not kept.users), None)
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
        """Note that a job of the model has ended."""
        self._places[model].users -= 1

    def report(self, now_ms: float) -> Memory:
        """The memory as a beat reports it."""
        ready = sorted(model for model, place in self._places.items() if place.ready_ms <= now_ms)
        return Memory(ready, dict(self.loads))
