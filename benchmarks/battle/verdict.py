"""What a battle came to: pure, from what was expected, what ran, and what was done to whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.battle.faults import REDIS_FAULTS, Done
from benchmarks.battle.jobs import Expected
from benchmarks.battle.ledger import Run

ACK_MS = 1500
"""A job that ended so shortly before its worker was hit may not have been acked yet."""
OUTAGE_MS = 4000
"""How long after an outage of Redis the last acks that waited for it arrive: with the next beat."""


@dataclass(slots=True)
class Verdict:
    """Jobs by what became of them."""

    expected: int
    lost: list[str] = field(default_factory=list)
    """Never ended, and nothing in Redis knows of them."""
    stuck: list[str] = field(default_factory=list)
    """Never ended, and Redis still has them."""
    inside: list[str] = field(default_factory=list)
    """Ran more than once; each run but the last was on a worker that was hit meanwhile, or was published by such a run."""
    outside: list[str] = field(default_factory=list)
    """Ran more than once for no such reason."""
    unknown: list[str] = field(default_factory=list)
    """Ran, and nobody sent them."""
    restarts_ms: list[int] = field(default_factory=list)
    """From the hit to the next start, of each run that a kill cut short."""

    @property
    def ok(self) -> bool:
        return not (self.lost or self.stuck or self.outside or self.unknown)


def judge(
    expected: Expected, runs: Iterable[Run], ended: Collection[str], faults: Sequence[Done], *, kept: Collection[str] = ()
) -> Verdict:
    """``kept``: task ids that Redis still has somewhere."""
    by_job: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_job[run.job].append(run)
    hits = _Hits(faults)
    verdict = Verdict(len(expected.after))
    for job in expected.after:
        if job not in ended and job not in expected.unsure:
            (verdict.stuck if job.partition(":")[0] in kept else verdict.lost).append(job)
    excused: dict[str, bool] = {}
    for job, tries in by_job.items():
        if job not in expected.after:
            verdict.unknown.append(job)
        elif len(tries) > 1:
            (verdict.inside if _is_excused(job, by_job, expected.after, hits, excused) else verdict.outside).append(job)
        for run, following in pairwise(tries):
            hit = hits.of(run) if run.ended_ms is None else None
            if hit is not None and hit.kind.is_kill and following.started_ms >= hit.at_ms:
                verdict.restarts_ms.append(following.started_ms - hit.at_ms)
    return verdict


def _is_excused(
    job: str, by_job: Mapping[str, list[Run]], after: Mapping[str, tuple[str, ...]], hits: _Hits, known: dict[str, bool]
) -> bool:
    """True if a job that ran more than once may have run more than once."""
    if job not in known:
        known[job] = all(hits.of(run) is not None for run in by_job[job][:-1]) or any(
            len(by_job[before]) > 1 and _is_excused(before, by_job, after, hits, known)
            for before in after.get(job, ())
            if before in by_job
        )
    return known[job]


class _Hits:
    """What was done to the processes that ran jobs."""

    def __init__(self, faults: Sequence[Done]) -> None:
        self._by_pid: dict[int, list[Done]] = defaultdict(list)
        for fault in faults:
            if fault.breaks_runs:
                for pid in fault.pids:
                    self._by_pid[pid].append(fault)
        self._outages = [fault for fault in faults if fault.kind in REDIS_FAULTS]

    def of(self, run: Run) -> Done | None:
        """What hit the worker while it ran this, or before Redis can have known that it had ended."""
        settled_ms = None if run.ended_ms is None else self._settled_ms(run.ended_ms)
        for pid in {run.pid, run.worker_pid}:
            for hit in self._by_pid.get(pid, ()):
                if run.started_ms <= hit.until_ms and (settled_ms is None or hit.at_ms <= settled_ms):
                    return hit
        return None

    def _settled_ms(self, ended_ms: int) -> int:
        settled_ms = ended_ms + ACK_MS
        for outage in self._outages:
            if outage.at_ms <= settled_ms and outage.until_ms + OUTAGE_MS >= ended_ms:
                settled_ms = max(settled_ms, outage.until_ms + OUTAGE_MS)
        return settled_ms


def percentile(values: Sequence[float], share: float) -> float:
    """A value that at least so much of them do not exceed; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
