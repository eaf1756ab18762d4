"""How long one worker takes for one kind of job: a moving mean that one odd job cannot carry away, and that a real
change can.
"""

from __future__ import annotations

import math

import msgspec

MEMORY_JOBS = 100
"""Jobs over which the mean moves: half of what it says comes from the last 70."""

HIGH, HIGH_IN_ROW = 4.0, 3
"""An observation this many times the mean counts as no more than that, unless it is the third in a row: then it is the
new mean.
"""

LOW, LOW_JOBS = 1 / 8, 8
"""An observation this far below the mean is the new mean after so many jobs in a row. It needs no limit, for it cannot
pull the mean below nothing; and jobs of unlike size are often quick.
"""


class Rate(msgspec.Struct, array_like=True):
    """The moving mean."""

    mean: float = 0.0
    """Ms of busy time for a unit of work."""
    jobs: float = 0.0
    """How many jobs were counted."""
    job_ms: float = 0.0
    """Mean time of a job."""
    odd: int = 0
    """How many of the last observations were far off, all on one side."""
    odd_jobs: float = 0.0
    """Jobs in these observations."""
    odd_ms: float = 0.0
    """Sum of their times for a unit of work, over these jobs."""
    side: int = 0
    """1: they were high; -1: low; 0: the last observation was not far off."""

    def observe(self, each_ms: float, jobs: int, *, job_ms: float | None = None, expected_ms: float = 0.0) -> None:
        """Count ``jobs`` jobs that took ``each_ms`` for a unit of work on average, and ``job_ms`` each, if that is
        another. If ``expected_ms`` is not 0, it stands for the mean before the first observation.
        """
        share = min(1.0, jobs / min(self.jobs + jobs, MEMORY_JOBS))
        job_ms = each_ms if job_ms is None else job_ms
        self.job_ms += (min(job_ms, HIGH * self.job_ms or job_ms) - self.job_ms) * share
        mean = self.mean or expected_ms
        if mean:
            side = 1 if each_ms > HIGH * mean else -1 if each_ms < LOW * mean else 0
            if side == 0 or side != self.side:
                self.odd, self.odd_jobs, self.odd_ms, self.side = 0, 0.0, 0.0, side
            if side:
                self.odd += 1
                self.odd_jobs += jobs
                self.odd_ms += each_ms * jobs
                if self.odd >= HIGH_IN_ROW if side > 0 else self.odd_jobs >= LOW_JOBS:
                    # What was counted before keeps its weight against the prior: it is this worker that was measured,
                    # then as now.
                    self.mean = self.odd_ms / self.odd_jobs
                    self.jobs += jobs
                    self.odd, self.odd_jobs, self.odd_ms, self.side = 0, 0.0, 0.0, 0
                    return
            each_ms = min(each_ms, HIGH * mean)
        self.jobs += jobs
        self.mean += (each_ms - self.mean) * share

    @property
    def log_mean(self) -> float:
        return math.log(self.mean)
