"""Is the new version worse than the old? Asked again after every heartbeat, so each answer must allow for all the looks
before it.

Both tests are *e-processes*: a number that begins at 1 and, while the new version is no worse, is expected never to
grow, whatever came before. By Ville's inequality such a number ever reaches 1/α with probability α at most, however
often one looks (Grünwald, de Heide, Koolen: Safe testing, 2024). ``LIMIT`` is where a canary is rolled back.

*Errors.* The jobs between two looks are a block: n of the old version, of which some failed, m of the new. With θ and θ + δ the
guessed rates, guessed from earlier blocks alone, and θ₀ their mean over the n + m jobs, the number is multiplied by the likelihood of
the block under (θ, θ + δ) over that under (θ₀, θ₀). This is expected to be 1 at most where the true rate p is the same for both:
with A, B the expected factors of one old and one new job, n log A + m log B ≤ n (A - 1) + m (B - 1) = (p - θ₀) (n (θ - θ₀) + m (θ + δ
- θ₀)) / (θ₀ (1 - θ₀)) = 0; and less where the new version fails less (Turner, Ly, Grünwald: Generic E-variables, 2024). No
approximation is made, and p may change from block to block: an outage that hits both versions says nothing about either. δ is a
mixture, so a version that is worse by less than about half a point is left alone.

*Latency.* On each worker that runs both versions, once it has ended ten jobs of the new one and as many of the old, the
two means are compared: does the new one exceed ``latency_ratio`` times the old? A version that is no slower does so at
most every other time, even where its jobs are of two kinds, one of which takes no time; the number bets on more. Both
means are of the same minutes, so that a neighbour who slows the worker down slows both; and only whether it exceeds
counts, so that one job which took an hour, or loaded the model, is one vote. A worker that runs the new version alone
is held against the old one on all workers, each worker's time counted by its weight. Costs play no part: those learned
for a new version are its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import msgspec

from dispatcher.core.rollout.aliases import Guard, percent

ALPHA: Final = 0.001
"""The chance that a version which is no worse is rolled back, at most, over its whole rollout."""

LIMIT: Final = 2 / ALPHA
"""A test that reaches this rolls the candidate back. Two tests share the chance."""

DOUBT: Final = 2.0
"""While a test of the present share stands above this, the share does not grow: more jobs will tell."""

DIFFERENCES: Final = (0.01, 0.03, 0.1, 0.3, 0.9)
EXCESSES: Final = (0.6, 0.75, 0.9)
RATE_MAX: Final = 0.999

BASELINE_JOBS_MIN: Final = 20
"""Jobs of the old version that must have ended before anything is guessed from them."""

VOTE_JOBS: Final = 10
"""Jobs of each version whose means are compared. For fewer, a mean may exceed 1.5 times what is expected more often
than not.
"""

POOL_JOBS_MIN: Final = 50
POOL_JOBS: Final = 200.0
"""The old version's mean over all workers is of about so many of its last jobs."""


class Ended(msgspec.Struct, frozen=True):
    """Runs of one version that one worker ended between two reads."""

    version: str
    worker: str
    done: int
    """Runs that ended well."""
    failed: int
    """The other runs, retries included."""
    busy_ms: float
    """Time that the runs that ended well took."""
    weight: float = 1.0
    """The worker's weight."""


class Tally(msgspec.Struct):
    """What a version has done since the guard began; fields as in :class:`Ended`."""

    done: int = 0
    failed: int = 0
    busy_ms: float = 0.0

    @property
    def runs(self) -> int:
        return self.done + self.failed

    @property
    def mean_ms(self) -> float:
        return self.busy_ms / max(1, self.done)

    def add(self, ended: Ended | Tally) -> None:
        self.done += ended.done
        self.failed += ended.failed
        self.busy_ms += ended.busy_ms


class Pace(msgspec.Struct):
    """A fading mean of busy ms a job."""

    jobs: float = 0.0
    busy_ms: float = 0.0

    def add(self, jobs: int, busy_ms: float) -> None:
        keep = max(0.0, 1 - jobs / POOL_JOBS)
        self.jobs = self.jobs * keep + jobs
        self.busy_ms = self.busy_ms * keep + busy_ms


class Pair(msgspec.Struct):
    """What one worker has done of both versions since their means were last compared."""

    weight: float = 1.0
    old_jobs: int = 0
    old_ms: float = 0.0
    new_jobs: int = 0
    new_ms: float = 0.0


class Bet(msgspec.Struct):
    """One e-process, in stages: each begins afresh with an equal part of the stake, so that what was well at one share
    does not hide what goes wrong at the next. ``logs``: of the present stage, one for each alternative; ``won``: of
    stages that are over.
    """

    logs: list[float]
    won: float = 0.0
    over: int = 0

    def present(self) -> float:
        """How much the present stage has multiplied its stake."""
        return sum(math.exp(min(100.0, log)) for log in self.logs) / len(self.logs)

    def value(self, stages: int) -> float:
        """The number to hold against ``LIMIT``."""
        to_come = max(0, stages - self.over - 1)
        return (self.won + self.present() + to_come) / stages

    def next_stage(self) -> None:
        self.won += self.present()
        self.over += 1
        self.logs = [0.0] * len(self.logs)


class Watch(msgspec.Struct):
    """What a guard has seen so far. Goes through Redis, so that a new leader goes on where the last one was."""

    began_ms: int
    baseline: Tally = msgspec.field(default_factory=Tally)
    candidate: Tally = msgspec.field(default_factory=Tally)
    stage_jobs: int = 0
    errors: Bet = msgspec.field(default_factory=lambda: Bet([0.0] * len(DIFFERENCES)))
    latency: Bet = msgspec.field(default_factory=lambda: Bet([0.0] * len(EXCESSES)))
    pairs: dict[str, Pair] = msgspec.field(default_factory=dict)
    pool: Pace = msgspec.field(default_factory=Pace)


@dataclass(frozen=True, slots=True)
class RollBack:
    """The candidate is worse."""

    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """The candidate has earned its next share."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stay:
    """Not yet."""

    reason: str


def observe(watch: Watch, guard: Guard, block: list[Ended]) -> None:
    """Take in what has ended since the last read."""
    old, new = Tally(), Tally()
    for ended in block:
        if ended.version == guard.baseline:
            old.add(ended)
        elif ended.version == guard.candidate:
            new.add(ended)
    if watch.baseline.runs >= BASELINE_JOBS_MIN:
        _bet_on_errors(watch, old, new)
    if guard.latency_ratio:
        _bet_on_latency(watch, guard, block)
    watch.baseline.add(old)
    watch.candidate.add(new)
    watch.stage_jobs += new.runs


def next_stage(watch: Watch) -> None:
    """The candidate's share has grown."""
    watch.errors.next_stage()
    watch.latency.next_stage()
    watch.stage_jobs = 0


def verdict(watch: Watch, guard: Guard, now_ms: int) -> RollBack | Step | Stay:
    """What to do with the candidate now."""
    old, new = watch.baseline, watch.candidate
    seen = f"{new.failed} of {new.runs} runs failed, of {guard.baseline} {old.failed} of {old.runs}"
    odds = watch.errors.value(guard.stages)
    if odds >= LIMIT:
        return RollBack(f"{seen} ({_times(odds)} as likely if it is worse)")
    odds = watch.latency.value(guard.stages)
    if odds >= LIMIT:
        return RollBack(
            f"its jobs take {new.mean_ms:.0f} ms, those of {guard.baseline} {old.mean_ms:.0f} ms ({_times(odds)} as likely if it is more "
            f"than {guard.latency_ratio:g} times slower)"
        )
    if not guard.steps:
        return Stay("it has its last share")
    if watch.stage_jobs < guard.jobs_min:
        return Stay(f"{watch.stage_jobs} of {guard.jobs_min} runs seen at this share")
    left_s = guard.step_s - (now_ms - guard.step_began_ms) / 1000
    if left_s > 0:
        return Stay(f"{math.ceil(left_s)} s left at this share")
    if max(watch.errors.present(), watch.latency.present()) >= DOUBT:
        return Stay(f"in doubt: {seen}")
    return Step(f"{seen}; up to {percent(guard.steps[0])}")


def _bet_on_errors(watch: Watch, old: Tally, new: Tally) -> None:
    n, m = old.runs, new.runs
    if not m:
        return  # the factor would be 1
    rate = (watch.baseline.failed + 0.5) / (watch.baseline.runs + BASELINE_JOBS_MIN)
    for index, difference in enumerate(DIFFERENCES):
        worse = min(RATE_MAX, rate + difference)
        mean = (n * rate + m * worse) / (n + m)
        watch.errors.logs[index] += (
            _log_likelihood(old, rate) + _log_likelihood(new, worse) - _log_likelihood(old, mean) - _log_likelihood(new, mean)
        )


def _log_likelihood(tally: Tally, rate: float) -> float:
    return tally.failed * math.log(rate) + tally.done * math.log1p(-rate)


def _bet_on_latency(watch: Watch, guard: Guard, block: list[Ended]) -> None:
    pool = watch.pool
    for ended in block:
        if ended.version not in (guard.baseline, guard.candidate) or not ended.done:
            continue
        pair = watch.pairs.setdefault(ended.worker, Pair())
        pair.weight = ended.weight
        if ended.version == guard.baseline:
            pair.old_jobs += ended.done
            pair.old_ms += ended.busy_ms
            pool.add(ended.done, ended.busy_ms * ended.weight)
        else:
            pair.new_jobs += ended.done
            pair.new_ms += ended.busy_ms
    for worker, pair in list(watch.pairs.items()):
        if pair.new_jobs < VOTE_JOBS:
            continue
        mine_ms = pair.new_ms / pair.new_jobs
        if pair.old_jobs >= pair.new_jobs:
            exceeds = mine_ms > guard.latency_ratio * pair.old_ms / pair.old_jobs
        elif not pair.old_jobs and pool.jobs >= POOL_JOBS_MIN:
            exceeds = mine_ms * pair.weight > guard.latency_ratio * pool.busy_ms / pool.jobs
        else:
            continue
        del watch.pairs[worker]
        for index, chance in enumerate(EXCESSES):
            watch.latency.logs[index] += math.log(2 * chance if exceeds else 2 * (1 - chance))


def _times(odds: float) -> str:
    return f"{odds:,.0f} times" if odds < 1e9 else "a billion times"
