"""Why a job waits, and why it went where it went: the plan's own filters and scores, one worker at a time and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dispatcher.core.balancing.base import Filter, Load, Strategy
from dispatcher.core.snapshot import LaneView, WorkerView

REASONS: Final = {
    "paused": "its queue is paused",
    "unroutable": "no worker may have it",
    "full": "every worker that may have it is full",
    "sooner_elsewhere": "a full worker will be done with it sooner than any that has room",
    "sticky": "the worker of its session or prefix is full",
}
"""The reasons of holds, as a sentence tells them. A reason that is not here is told as it is."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a worker is to a job. ``refused``: why it gets none now, ``""`` if it may. ``score``: lower is better, ``None`` where a filter
    refuses; a worker that is merely full has one. ``terms``: what the score is made of.
    """

    worker: str
    epoch: str
    refused: str = ""
    score: float | None = None
    terms: dict[str, float] = field(default_factory=dict)


def refusal(lane: LaneView, worker: WorkerView, filters: Sequence[Filter]) -> str:
    """Why jobs of the lane must not go to the worker, the filter's name first; ``""`` if they may."""
    for one in filters:
        if (why := one.refuses(lane.lane, worker)) is not None:
            return f"{one.name}: {why}"
    return ""


def candidates(
    lane: LaneView, workers: Iterable[WorkerView], *, strategy: Strategy, filters: Sequence[Filter]
) -> list[Candidate]:
    """Every worker, the one that would get the lane's next job first, then by score, then those refused."""
    found = []
    for worker in workers:
        if refused := refusal(lane, worker, filters):
            found.append(Candidate(worker.name, worker.epoch, refused))
            continue
        terms = score_terms(lane, worker, strategy)
        found.append(Candidate(worker.name, worker.epoch, _full(worker), terms.pop("score"), terms))
    return sorted(found, key=_rank)


def _rank(one: Candidate) -> tuple[bool, bool, float, str]:
    return one.score is None, bool(one.refused), one.score or 0.0, one.worker


def score_terms(lane: LaneView, worker: WorkerView, strategy: Strategy) -> dict[str, float]:
    """``score``, and what it is made of, for the lane's next job on that worker as it is now."""
    load = Load(worker.leases, worker.leased_cost_ms, worker.concurrency)
    return {
        "score": strategy.score(max(1, lane.cost_ms), load, worker.speed(lane.lane.model)),
        "cost_ms": lane.cost_ms,
        "leased_cost_ms": worker.leased_cost_ms,
        "speed": worker.speed(lane.lane.model),
    }


def refusals(lane: LaneView, workers: Iterable[WorkerView], filters: Sequence[Filter]) -> dict[str, tuple[int, str]]:
    """Filter (or ``full``) → how many workers it keeps from the lane's jobs, and an example: ``worker: why``."""
    found: dict[str, tuple[int, str]] = {}
    for worker in workers:
        why = refusal(lane, worker, filters) or _full(worker)
        if why:
            kind, _, detail = why.partition(": ")
            count, example = found.get(kind, (0, f"{worker.name}: {detail}"))
            found[kind] = (count + 1, example)
    return found


def _full(worker: WorkerView) -> str:
    return "" if worker.room else f"full: {worker.leases} of {worker.window} leases"


def in_words(reason: str, refused: Mapping[str, tuple[int, str]]) -> str:
    """``no worker may have it (2 × model, 1 × draining)``: a hold's reason, and how many workers are refused by which filter."""
    text = REASONS.get(reason, reason)
    if reason == "unroutable" and not refused:
        return f"{text} (there is none)"
    kinds = sorted(((count, kind) for kind, (count, _) in refused.items()), key=lambda one: (-one[0], one[1]))
    return text + (f" ({', '.join(f'{count} × {kind}' for count, kind in kinds)})" if kinds else "")
