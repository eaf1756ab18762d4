"""Why a job waits, and why it went where it went: the plan's own filters and scores, one worker at a time and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from dispatcher.core.choosing.place.loads import Loads
from dispatcher.core.choosing.place.roster import Roster
from dispatcher.core.choosing.policy import Policy
from dispatcher.core.choosing.protocols import Filter
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.core.learning.residency import load_penalty_ms

REASONS: Final = {
    "paused": "its queue is paused",
    "unroutable": "no worker may have it",
    "full": "every worker that may have it is full",
    "sooner_elsewhere": "a full worker will be done with it sooner than any that has room",
    "sticky": "the worker of its session or prefix is full",
    "tenant_cap": "as much of its tenant's work is leased as may be",
    "alone": "it died with its workers before, and waits for one that runs nothing else",
    "model_cap": "as much of its model's work is leased as may be",
}
"""The reasons of holds in words. A reason that is not here is shown as it is."""

IN_WAY: Final = {"alive": "gone or stuck", "not_draining": "draining"}
"""What is in the way, for filters whose name says what a worker must be."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker, as a place for a job."""

    worker: str
    epoch: str
    refused: str = ""
    """Why the worker gets no such job now; empty if it may get one."""
    score: float | None = None
    """Lower is better; ``None`` if a filter refuses the worker. A worker that is merely full has a score."""
    speed: float | None = None
    """Speed of one slot, for the job's model."""
    terms: dict[str, float] = field(default_factory=dict)
    """Times that add up to the score; but ``home_ms`` is by how much the worker of the job's session or prefix may be
    worse than the best and still be chosen.
    """


def refusal(lane: LaneView, worker: WorkerView, filters: Sequence[Filter]) -> str:
    """Why jobs of the lane must not go to the worker, the filter's name first; ``""`` if they may."""
    for rule in filters:
        if (why := rule.refuses(lane.lane, worker)) is not None:
            return f"{rule.name}: {why}"
    return ""


def candidates(lane: LaneView, snapshot: Snapshot, policy: Policy) -> list[Candidate]:
    """Every worker: first the worker that would get the lane's next job, then by score, then the refused ones.

    By the plan's own filters and scores, for what each worker owes now. What a strategy draws by chance, whose turn it
    is, and what other lanes are given first are left out.
    """
    loads = Loads(snapshot.workers, policy, Roster(), snapshot.load_ms, Random(0))
    may = loads.candidates(lane.lane)
    strategy = policy.strategy_of(lane.lane.model)
    home = loads.home(may, lane.lane.slot) if policy.sticky is not None and lane.lane.slot >= 0 and may.indices else -1
    ranked = []
    for place, index in enumerate(may.indices):
        worker = snapshot.workers[index]
        cost_ms, speed = max(1, lane.cost_ms), may.speeds[place]
        terms: dict[str, float] = {}
        if strategy.timed:
            terms["run_ms"] = cost_ms / speed
            terms["wait_ms"] = strategy.score(cost_ms, loads.load(index), speed) - terms["run_ms"]
            terms["load_ms"] = load_penalty_ms(lane.lane.model, worker, may.cold_ms)
            terms["second_load_ms"] = float(may.cold_ms) if may.on_its_way and terms["load_ms"] else 0.0
            terms["away_ms"] = policy.penalty_ms(lane.lane, worker) if policy.penalty_ms is not None else 0.0
            terms = {name: round(term, 3) for name, term in terms.items() if term or name == "run_ms"}
        if place == home and policy.sticky is not None:
            terms["home_ms"] = -float(policy.sticky.wait_ms)
        score = round(float(loads.score(may, place, strategy, cost_ms)), 3)
        ranked.append(Candidate(worker.name, worker.epoch, _full(worker), score, round(speed, 4), terms))
    passed = {candidate.epoch for candidate in ranked}
    ranked += [
        Candidate(worker.name, worker.epoch, refusal(lane, worker, policy.filters))
        for worker in snapshot.workers
        if worker.epoch not in passed
    ]
    return sorted(ranked, key=_rank)


def _rank(candidate: Candidate) -> tuple[bool, bool, float, str]:
    score = (candidate.score or 0.0) + candidate.terms.get("home_ms", 0.0)
    return candidate.score is None, bool(candidate.refused), score, candidate.worker


def refusals(lane: LaneView, workers: Iterable[WorkerView], filters: Sequence[Filter]) -> dict[str, tuple[int, str]]:
    """Filter (or ``full``) → how many workers it keeps from the lane's jobs, and an example: ``worker: why``."""
    refused: dict[str, tuple[int, str]] = {}
    for worker in workers:
        why = refusal(lane, worker, filters) or _full(worker)
        if why:
            kind, _, detail = why.partition(": ")
            count, example = refused.get(kind, (0, f"{worker.name}: {detail}"))
            refused[kind] = (count + 1, example)
    return refused


def _full(worker: WorkerView) -> str:
    return "" if worker.room else f"full: {worker.leases} of {worker.window} leases"


def in_words(reason: str, refused: Mapping[str, tuple[int, str]]) -> str:
    """``no worker may have it (2 × model, 1 × draining)``: a hold's reason, and how many workers are refused by which
    filter.
    """
    text = REASONS.get(reason, reason)
    if reason == "unroutable" and not refused:
        return f"{text} (there is none)"
    kinds = sorted(((count, IN_WAY.get(kind, kind)) for kind, (count, _) in refused.items()), key=lambda entry: (-entry[0], entry[1]))
    return text + (f" ({', '.join(f'{count} × {kind}' for count, kind in kinds)})" if kinds else "")
