"""Caches of simulated workers, what the best of them could do, and jobs that find their blocks and sessions again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.core.choosing.strategies import strategy
from dispatcher.settings import Settings
from dispatcher.simulation.bounds import bounds_of, pooled_belady_hits, pooled_lru_hits
from dispatcher.simulation.caches import CacheSizes, LruCache
from dispatcher.simulation.report import Report, report
from dispatcher.simulation.traces import ServiceModel, SimJob, cost_distribution, poisson, with_sessions
from dispatcher.simulation.workers import Failure, SimWorker
from dispatcher.simulation.world import World

streams = st.lists(st.lists(st.integers(0, 6), unique=True, max_size=4), max_size=20)
FLEET = [SimWorker(f"w{number}", 4) for number in range(4)]


def simulate(
    jobs: list[SimJob], caches: CacheSizes, *, failures: Sequence[Failure] = (), fleet: Sequence[SimWorker] = FLEET, **how: str
) -> Report:
    chosen = Settings(**how)  # type: ignore[arg-type]
    world = World(jobs, fleet, strategy=strategy(chosen.strategy), settings=chosen, rng=Random(1), failures=failures, caches=caches)
    return report(chosen.strategy, jobs, fleet, world.run(), bounds_of(jobs, fleet, caches))


def conversations(turns: int, *, rate_per_s: float, rng: Random) -> list[SimJob]:
    """Forty at a time, each turn two blocks longer than the one before, all after the same system prompt."""
    model, said = ServiceModel(), {}
    made = []
    for job in with_sessions(
        poisson(rate_per_s=rate_per_s, jobs=turns, cost=cost_distribution("const:1"), rng=rng), sessions=40, turns=12.0, saves=0.0, rng=rng
    ):
        talk = str(job.session)
        said[talk] = [*said.get(talk, ["system"]), f"{talk}.{len(said.get(talk, []))}", f"{talk}.{len(said.get(talk, []))}b"]
        made.append(model.job(job.at_ms, 512 * len(said[talk]), 40, tuple(said[talk])))
    return made


def test_the_least_recently_used_goes_and_the_last_of_a_prefix_before_its_first() -> None:
    """A prefix that does not fit keeps its beginning, which is the part that can hit."""
    cache = LruCache(3)

    assert cache.use("abc") == 0
    assert cache.use("abx") == 2  # c goes
    assert cache.use("abc") == 2  # x goes
    assert cache.use("xab") == 0  # hits count from the first key on
    assert len(cache) == 3
    cache.use("defgh")
    assert cache.use("def") == 3


@given(streams, st.integers(0, 6))
def test_no_cache_has_more_hits_than_belady(stream: list[list[int]], room: int) -> None:
    """Nor more than one that never forgets; and an LRU of any size is never above it."""
    lru, belady = pooled_lru_hits(stream, room), pooled_belady_hits(stream, room)
    endless = pooled_belady_hits(stream, 1_000)

    assert lru.asked == belady.asked == sum(map(len, stream))
    assert lru.hits <= belady.hits <= endless.hits == belady.asked - len({key for keys in stream for key in keys})


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 3), max_size=7), st.integers(0, 2))
def test_belady_is_the_best_of_all_that_could_be_kept(stream: list[int], room: int) -> None:
    """By trying every choice of what to keep after each use."""
    best = {frozenset[int](): 0}
    for key in stream:
        after: dict[frozenset[int], int] = {}
        for kept, hits in best.items():
            have = kept | {key}
            for size in range(min(room, len(have)) + 1):
                for choice in combinations(have, size):
                    chosen = frozenset(choice)
                    after[chosen] = max(after.get(chosen, 0), hits + (key in kept))
        best = after

    assert pooled_belady_hits([[key] for key in stream], room).hits == max(best.values())


def test_a_cached_prompt_takes_no_time() -> None:
    """The second job of two alike has its prompt for nothing; without caches both take as long."""
    jobs = [ServiceModel().job(at_ms, 8_000, 50, tuple(range(16))) for at_ms in (0.0, 10_000.0)]
    fleet = [SimWorker("only", weight=2.0)]

    assert simulate(jobs, CacheSizes(), fleet=fleet).max_s == 1.0
    cached = simulate(jobs, CacheSizes(blocks=100), fleet=fleet)
    assert (cached.max_s, cached.p50_s) == (1.0, 0.5)
    assert (cached.hit_rate, cached.pooled_lru_rate, cached.pooled_belady_rate) == (0.5, 0.5, 0.5)
    assert simulate(jobs, CacheSizes(blocks=4), fleet=fleet).hit_rate == 4 / 32
    assert simulate(jobs, CacheSizes(), fleet=fleet).hit_rate is None


def test_conversations_stay_where_they_are_cached() -> None:
    """At half load: more block hits with stickiness than without, near those of one pooled cache, and below Belady's; evenly enough."""
    jobs = conversations(3_000, rate_per_s=8.0, rng=Random(1))
    caches = CacheSizes(blocks=400)
    sticky, loose = simulate(jobs, caches, sticky="prefer"), simulate(jobs, caches, sticky="off")
    lru, belady = sticky.pooled_lru_rate or 0.0, sticky.pooled_belady_rate or 0.0

    assert (loose.hit_rate or 1.0) < 0.75 * lru
    assert 0.9 * lru < (sticky.hit_rate or 0.0) <= belady
    assert sticky.imbalance < 1.25


def test_sessions_find_their_worker_again() -> None:
    """Nearly always with stickiness, one time in four without; small caches forget them; a dead worker's move, the others' do not."""
    arrivals = poisson(rate_per_s=8.0, jobs=4_000, cost=cost_distribution("exp:1"), rng=Random(1))
    jobs = with_sessions(arrivals, sessions=200, turns=20.0, saves=0.0, rng=Random(2))
    many = CacheSizes(sessions=1_000)

    assert (simulate(jobs, many, sticky="prefer").session_hit_rate or 0.0) > 0.95
    assert (simulate(jobs, many, sticky="prefer", failures=[Failure("w1", 200_000.0)]).session_hit_rate or 0.0) > 0.9
    assert (simulate(jobs, many, sticky="off").session_hit_rate or 1.0) == pytest.approx(0.25, abs=0.05)
    assert 0.0 < (simulate(jobs, CacheSizes(sessions=5), sticky="prefer").session_hit_rate or 0.0) < 0.5


def test_the_shares_of_a_trace_without_prefixes_have_no_rates() -> None:
    """Caches that nobody asks are not 0 % good."""
    jobs = poisson(rate_per_s=4.0, jobs=50, cost=cost_distribution("exp:1"), rng=Random(1))
    made = simulate(jobs, CacheSizes(blocks=10, sessions=10))

    assert (made.hit_rate, made.pooled_lru_rate, made.pooled_belady_rate, made.session_hit_rate) == (None, None, None, None)
    assert Counter(one.jobs > 0 for one in made.workers)[True] == 4
    assert made.imbalance == pytest.approx(1.0, abs=0.8)
