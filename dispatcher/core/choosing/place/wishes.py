"""What it costs a job to run elsewhere than it prefers: round trips between regions, and preferred labels that a worker
lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from dispatcher.core.facts.labels import Wanted
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.errors import Invalid

REGION: Final = "region"
"""The label that says where a worker is, and the wish that says where a job is at home."""


@dataclass(frozen=True, slots=True)
class Distances:
    """What preferences are worth."""

    rtt_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Two regions, their names sorted → the round trip between them."""
    prefer_cost_ms: float = 1000.0
    """What a job would give to have all its other wishes."""

    def between_ms(self, here: str, there: str) -> float | None:
        """The round trip, 0 inside a region; ``None`` if nobody set it."""
        return 0.0 if here == there else self.rtt_ms.get((here, there) if here < there else (there, here))


def read_distances(pairs: Iterable[str], *, prefer_cost_s: float) -> Distances:
    """From settings: ``eu:us=90`` is 90 ms. (Not ``eu-us``: names of regions have hyphens.) Raises :class:`Invalid`."""
    rtt_ms: dict[tuple[str, str], float] = {}
    for text in pairs:
        regions, _, span = text.partition("=")
        here, _, there = regions.partition(":")
        try:
            span_ms = float(span)
        except ValueError:
            span_ms = -1.0
        if not here or not there or here == there or ":" in there or not 0 <= span_ms < float("inf"):
            raise Invalid(f"{text!r} is not a round trip between two regions: write region:region=ms, such as eu:us=90")
        rtt_ms[(here, there) if here < there else (there, here)] = span_ms
    return Distances(rtt_ms, prefer_cost_s * 1000)


def penalty_ms(lane: Lane, worker: WorkerView, distances: Distances) -> float:
    """How much later than it ends a job of ``lane`` counts as done on ``worker``; 0 if the worker has all that the job
    prefers.
    """
    return away_ms(lane.prefers, worker.labels, distances) if lane.prefers else 0.0


def away_ms(prefers: Wanted, labels: Mapping[str, str], distances: Distances) -> float:
    """The round trip from the nearest preferred region, plus ``prefer_cost_ms`` times the unfulfilled share of the
    other wishes.

    A region whose round trip nobody set is a wish like the others.
    """
    trip_ms, missed, others = 0.0, 0, 0
    for name, values in prefers:
        have = labels.get(name)
        if name == REGION and have is not None:
            known = [rtt_ms for region in values if (rtt_ms := distances.between_ms(region, have)) is not None]
            if known:
                trip_ms = min(known)
                continue
        others += 1
        missed += have not in values
    return trip_ms + (distances.prefer_cost_ms * missed / others if missed else 0.0)
