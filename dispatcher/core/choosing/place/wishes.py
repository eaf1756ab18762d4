"""What it costs a job to run away from where it would like to: round trips between regions, and wishes that go unfulfilled."""

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
    """``rtt_ms``: round trip between two regions, both names in order; ``prefer_cost_ms``: what a job would give for its other wishes."""

    rtt_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)
    prefer_cost_ms: float = 1000.0

    def between_ms(self, one: str, other: str) -> float | None:
        """The round trip, 0 inside a region; ``None`` where nobody said."""
        return 0.0 if one == other else self.rtt_ms.get((one, other) if one < other else (other, one))


def read_distances(pairs: Iterable[str], *, prefer_cost_s: float) -> Distances:
    """From settings: ``eu:us=90`` is 90 ms. (Not ``eu-us``: names of regions have hyphens.) Raises :class:`Invalid`."""
    rtt_ms: dict[tuple[str, str], float] = {}
    for text in pairs:
        regions, _, span = text.partition("=")
        one, _, other = regions.partition(":")
        try:
            span_ms = float(span)
        except ValueError:
            span_ms = -1.0
        if not one or not other or one == other or ":" in other or not 0 <= span_ms < float("inf"):
            raise Invalid(f"{text!r} is not a round trip between two regions: write region:region=ms, such as eu:us=90")
        rtt_ms[(one, other) if one < other else (other, one)] = span_ms
    return Distances(rtt_ms, prefer_cost_s * 1000)


def penalty_ms(lane: Lane, worker: WorkerView, distances: Distances) -> float:
    """How much later than it ends a job of ``lane`` counts as done on ``worker``; 0 where all it prefers is there."""
    return away_ms(lane.prefers, worker.labels, distances) if lane.prefers else 0.0


def away_ms(prefers: Wanted, labels: Mapping[str, str], distances: Distances) -> float:
    """The round trip from the nearest preferred region, plus ``prefer_cost_ms`` times the unfulfilled share of the other wishes.

    A region whose round trip nobody set is a wish like the others.
    """
    trip_ms, missed, others = 0.0, 0, 0
    for name, values in prefers:
        have = labels.get(name)
        if name == REGION and have is not None:
            known = [rtt for one in values if (rtt := distances.between_ms(one, have)) is not None]
            if known:
                trip_ms = min(known)
                continue
        others += 1
        missed += have not in values
    return trip_ms + (distances.prefer_cost_ms * missed / others if missed else 0.0)
