"""What no dispatcher can beat: lower bounds of the mean response time, upper bounds of cache hits. They may be out of reach, so a ratio
to them is no grade.
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
    """Of one trace on one fleet, whatever the strategy. Rates of block hits are ``None`` where there are no caches, or no blocks."""

    mean_ms: float
    lru_rate: float | None = None
    belady_rate: float | None = None
    belady_loads: int = 0


def bounds_of(jobs: Sequence[SimJob], fleet: Sequence[SimWorker], caches: CacheSizes) -> Bounds:
    """The bound of the mean takes it that every cache hits, where there are any."""
    speed, fastest = sum(one.weight * one.concurrency for one in fleet), max(one.weight for one in fleet)
    work = [(job.at_ms, job.left_ms(len(job.prefix) if caches.blocks else 0, session_kept=caches.sessions > 0)) for job in jobs]
    mean_ms = mean_response_bound_ms(work, fleet_speed=speed, fastest=fastest)
    loads = pooled_loads(jobs, fleet)
    if not caches.blocks:
        return Bounds(mean_ms, belady_loads=loads)
    prompts, room = [job.prefix for job in jobs], caches.blocks * len(fleet)
    return Bounds(mean_ms, pooled_lru_hits(prompts, room).rate, pooled_belady_hits(prompts, room).rate, loads)


def mean_response_bound_ms(jobs: Sequence[tuple[float, float]], *, fleet_speed: float, fastest: float) -> float:
    """The larger of two: preemptive shortest-remaining-time-first on one machine of the whole fleet's speed, and the mean work ÷ the
    speed of the fastest slot. ``jobs``: (arrives at, work), in order of arrival.
    """
    return max(pooled_srpt_mean_ms(jobs, fleet_speed), sum(cost_ms for _, cost_ms in jobs) / len(jobs) / fastest)


def pooled_srpt_mean_ms(jobs: Sequence[tuple[float, float]], speed: float) -> float:
    """Mean response of preemptive SRPT on one machine, which is optimal there (Schrage, 1968)."""
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
    """The fewest loads of models that one memory as large as all together can do with, knowing what comes, one copy of each.

    In order of arrival: where jobs wait for others of their model there may be fewer.
    """
    wanted = [(job.model,) for job in jobs if job.model]
    room = sum(one.models_max for one in fleet) if all(one.models_max for one in fleet) else len(wanted)
    count = pooled_belady_hits(wanted, room)
    return count.asked - count.hits


def pooled_lru_hits(uses: Iterable[Sequence[Hashable]], room: int) -> HitCount:
    """The hits of one cache of ``room`` keys that all jobs share, in order of arrival: what affinity over parts of it can hope for."""
    cache, count = LruCache(room), HitCount()
    for keys in uses:
        count.asked += len(keys)
        count.hits += cache.use(keys)
    return count


def pooled_belady_hits(uses: Iterable[Sequence[Hashable]], room: int) -> HitCount:
    """The most hits that any cache of ``room`` keys can have, knowing what comes: what is used again last goes first (Belady, 1966).

    A key may be passed by without being kept. Fleet caches of that size together have no more, except by keeping jobs waiting.
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
