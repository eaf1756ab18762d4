"""What no dispatcher can beat: lower bounds of the mean response time. They may be out of reach, so a ratio to them is no grade."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from dispatcher.simulation.traces import SimJob


def mean_response_bound_ms(jobs: Sequence[SimJob], *, fleet_speed: float, fastest: float) -> float:
    """The larger of two: preemptive shortest-remaining-time-first on one machine of the whole fleet's speed, and the mean work ÷ the
    speed of the fastest slot. ``jobs`` in order of arrival.
    """
    return max(pooled_srpt_mean_ms(jobs, fleet_speed), sum(job.cost_ms for job in jobs) / len(jobs) / fastest)


def pooled_srpt_mean_ms(jobs: Sequence[SimJob], speed: float) -> float:
    """Mean response of preemptive SRPT on one machine, which is optimal there (Schrage, 1968)."""
    left: list[tuple[float, float]] = []  # (remaining ms on this machine, arrived at)
    now_ms = total_ms = 0.0
    arrivals = iter(jobs)
    coming = next(arrivals, None)
    while left or coming is not None:
        if not left and coming is not None:
            now_ms = max(now_ms, coming.at_ms)
        while coming is not None and coming.at_ms <= now_ms:
            heapq.heappush(left, (coming.cost_ms / speed, coming.at_ms))
            coming = next(arrivals, None)
        remaining_ms, arrived_ms = left[0]
        if coming is not None and coming.at_ms < now_ms + remaining_ms:
            heapq.heapreplace(left, (remaining_ms - (coming.at_ms - now_ms), arrived_ms))
            now_ms = coming.at_ms
        else:
            heapq.heappop(left)
            now_ms += remaining_ms
            total_ms += now_ms - arrived_ms
    return total_ms / len(jobs)
