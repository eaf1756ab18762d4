"""Bounds that no dispatcher can beat: of the mean response time, and of cache hits.

Even the best dispatcher may not reach them, so a ratio to them is no grade.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from dispatcher.simulation.caches import CacheSizes, HitCount, LruCache
from dispatcher.simulation.traces import SimJob
from dispatcher.simulation.workers import SimWorker


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one trace on one fleet, for any strategy."""

    mean_ms: float
    """Lower bound of the mean response time."""
    lru_rate: float | None = None
    """Block hits of one LRU cache as large as all workers' together; ``None`` without caches or blocks."""
    belady_rate: float | None = None
    """As ``lru_rate``, of a cache that knows which blocks come: an upper bound."""
    belady_loads: int = 0
    """Loads of models in one memory as large as all together, which knows which jobs come."""


def bounds_of(jobs: Sequence[SimJob], fleet: Sequence[SimWorker], caches: CacheSizes) -> Bounds:
    """The bounds of these jobs on this fleet. For the mean, all that caches could hold counts as cached."""
    speed = sum(worker.weight * worker.concurrency for worker in fleet)
    fastest = max(worker.weight for worker in fleet)
    kept = caches.sessions > 0
    work = [(job.at_ms, job.left_ms(len(job.prefix) if caches.blocks else 0, session_kept=kept)) for job in jobs]
    mean_ms = mean_response_bound_ms(work, fleet_speed=speed, fastest=fastest)
    loads = pooled_loads(jobs, fleet)
    if not caches.blocks:
        return Bounds(mean_ms, belady_loads=loads)
    prompts, room = [job.prefix for job in jobs], caches.blocks * len(fleet)
    return Bounds(mean_ms, pooled_lru_hits(prompts, room).rate, pooled_belady_hits(prompts, room).rate, loads)


def mean_response_bound_ms(jobs: Sequence[tuple[float, float]], *, fleet_speed: float, fastest: float) -> float:
    """A lower bound of the mean response time. ``jobs``: (arrival, work), in order of arrival.

    It is the larger of two: the mean under preemptive shortest-remaining-time-first on one machine as fast as the whole
    fleet, and the mean work divided by the speed of the fastest slot.
    """
    return max(pooled_srpt_mean_ms(jobs, fleet_speed), sum(cost_ms for _, cost_ms in jobs) / len(jobs) / fastest)


def pooled_srpt_mean_ms(jobs: Sequence[tuple[float, float]], speed: float) -> float:
    """Mean response time of preemptive SRPT on one machine, where SRPT is optimal (Schrage, 1968)."""
    left: list[tuple[float, float]] = []  # (remaining ms on this machine, arrived at)
    now_ms = total_ms = 0.0
    arrivals = iter(jobs)
    coming = next(arrivals, None)
    while left or coming is not None:
        if not left and coming is not None:
            now_ms = max(now_ms, coming[0])
        while coming is not None and coming[0] <= now_ms:
            heapq.heappush(left, (coming[1] / speed, coming[0]))
            coming = next(arrivals, None)
        remaining_ms, arrived_ms = left[0]
        if coming is not None and coming[0] < now_ms + remaining_ms:
            heapq.heapreplace(left, (remaining_ms - (coming[0] - now_ms), arrived_ms))
            now_ms = coming[0]
        else:
            heapq.heappop(left)
            now_ms += remaining_ms
            total_ms += now_ms - arrived_ms
    return total_ms / len(jobs)


def pooled_loads(jobs: Sequence[SimJob], fleet: Sequence[SimWorker]) -> int:
    """Loads of models in one memory as large as all together, which holds one copy of each and knows which jobs come.

    The fewest possible if jobs run in order of arrival; a dispatcher that makes jobs wait for others of their model
    may need fewer.
    """
    wanted = [(job.model,) for job in jobs if job.model]
    limited = all(worker.models_max for worker in fleet)
    room = sum(worker.models_max for worker in fleet) if limited else len(wanted)
    count = pooled_belady_hits(wanted, room)
    return count.asked - count.hits


def pooled_lru_hits(uses: Iterable[Sequence[Hashable]], room: int) -> HitCount:
    """Hits of one LRU cache of ``room`` keys that all jobs share, in order of arrival.

    Affinity over parts of that cache can hope for as many.
    """
    cache, count = LruCache(room), HitCount()
    for keys in uses:
        count.asked += len(keys)
        count.hits += cache.use(keys)
    return count


def pooled_belady_hits(uses: Iterable[Sequence[Hashable]], room: int) -> HitCount:
    """The most hits that any cache of ``room`` keys can have: it drops the key that is used again last (Belady, 1966).

    It need not keep a key at all. Workers' caches of that size together have no more hits, unless jobs must wait.
    """
    stream = [key for keys in uses for key in keys]
    never = len(stream)
    next_use = [never] * len(stream)
    seen: dict[Hashable, int] = {}
    for at in range(len(stream) - 1, -1, -1):
        next_use[at] = seen.get(stream[at], never)
        seen[stream[at]] = at
    count = HitCount(asked=len(stream))
    kept: dict[Hashable, int] = {}  # key → its next use
    farthest: list[tuple[int, int]] = []  # (-next use, where it was used); stale where the key has been used since
    for at, key in enumerate(stream):
        count.hits += key in kept
        kept[key] = next_use[at]
        heapq.heappush(farthest, (-next_use[at], at))
        while len(kept) > room:
            uses_next, used_at = heapq.heappop(farthest)
            if kept.get(stream[used_at]) == -uses_next:
                del kept[stream[used_at]]
    return count
