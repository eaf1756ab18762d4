"""Jobs that a worker was given and has not begun go where they can begin at once, and never to and fro."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.core.choosing.filters import standard_filters
from dispatcher.core.facts.lane import Lane
from dispatcher.core.facts.snapshot import WorkerView
from dispatcher.core.returns.recall import FreeSlots, RecallRule, Unstarted, is_crowded, recalled
from tests.unit.facts.snapshots import STALL_MS, worker_view

FILTERS = standard_filters(stall_ms=STALL_MS)
RULE = RecallRule(after_ms=1_000, times_max=3)


def lane(**facts: object) -> Lane:
    return Lane(**({"ingress": "dispatch", "task": "t.one", "model": "default", "step": 0, "size_class": 10} | facts))  # type: ignore[arg-type]


def crowded(epoch: str = "full", **facts: object) -> WorkerView:
    return worker_view(epoch, **({"concurrency": 2, "leases": 4, "taken": 2, "window": 4, "leased_cost_ms": 8_000} | facts))


def job(lease_id: str = "1", *, waited_ms: int = 2_000, recalls: int = 0, cost_ms: int = 1_000, **facts: object) -> Unstarted:
    return Unstarted(lease_id, lane(**facts), cost_ms, waited_ms, recalls)


def taken_back(*jobs: Unstarted, others: tuple[WorkerView, ...], given_jobs: frozenset[str] = frozenset()) -> list[str]:
    full = crowded()
    return recalled(full, jobs, FreeSlots.of((full, *others), given_jobs, FILTERS), RULE)


def test_it_goes_where_it_can_begin_at_once() -> None:
    """One job for each free slot, those that have waited longest first."""
    free = worker_view("free", concurrency=2, leases=1, taken=1)

    assert taken_back(job("1", waited_ms=2_000), job("2", waited_ms=3_000), others=(free,)) == ["2"]


def test_it_stays_where_its_model_would_have_to_be_loaded_elsewhere() -> None:
    """Unless that, and the load, is still twice as soon."""
    free = worker_view("free", concurrency=2, resident=frozenset(), models=frozenset({"chat"}))
    full, chat = crowded(), job(model="chat")

    def goes(load_ms: int) -> bool:
        return recalled(full, [chat], FreeSlots.of((full, free), frozenset(), FILTERS, {"chat": load_ms}), RULE) == ["1"]

    assert goes(1_000)  # 4 s from now where it is
    assert not goes(1_001)
    assert taken_back(chat, others=(free,)) == ["1"]


def test_it_stays_where_nobody_is_free() -> None:
    """A worker whose slots are taken could only let it wait as well; one that was just given jobs is not free any more."""
    free = worker_view("free", concurrency=2, leases=1, taken=1)

    assert taken_back(job(), others=(crowded("other"),)) == []
    assert taken_back(job(), others=(free,), given_jobs=frozenset({"free"})) == []
    assert taken_back(job(), others=()) == []


def test_it_stays_until_it_has_waited() -> None:
    """And where it has gone back often enough."""
    free = worker_view("free", concurrency=4)

    assert taken_back(job(waited_ms=999), others=(free,)) == []
    assert taken_back(job("1", recalls=3), job("2", recalls=2), others=(free,)) == ["2"]


def test_it_stays_where_the_other_may_not_have_it() -> None:
    """The filters of the plan decide."""
    for other in (
        worker_view("free", ejected="faulty"),
        worker_view("free", draining="exit"),
        worker_view("free", tasks=frozenset()),
        worker_view("free", consume_age_ms=60_000),
    ):
        assert taken_back(job(), others=(other,)) == []
    assert taken_back(job(requires=(("region", ("eu",)),)), others=(worker_view("free"),)) == []
    assert taken_back(job(slot=3), others=(worker_view("free"),)) == [], "a session's home is here"


def test_it_stays_where_it_would_be_done_about_as_soon() -> None:
    """4 s until the crowded worker is done with all it owes: one that takes longer than half of that gains too little."""
    assert taken_back(job(cost_ms=1_000), others=(worker_view("slow", weight=0.49),)) == []
    assert taken_back(job(cost_ms=1_000), others=(worker_view("slow", weight=0.51),)) == ["1"]


def test_who_does_not_begin_what_it_has_is_crowded_and_not_free() -> None:
    """Its slots may be free, and its loop stuck."""
    stuck = crowded(taken=0, leases=1)

    assert is_crowded(crowded())
    assert is_crowded(stuck)
    assert not is_crowded(crowded(leases=2))
    assert not is_crowded(crowded(ended="silent"))
    assert taken_back(job(), others=(stuck,)) == []


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(0, 4))
def test_no_job_goes_to_and_fro(seed: int, workers: int, times_max: int) -> None:
    """SAFETY: whatever becomes free, and however slow it turns out to be, a job goes back at most ``times_max`` times."""
    rng, rule = Random(seed), RecallRule(1_000, times_max)
    where = {f"j{i}": rng.randrange(workers) for i in range(12)}
    went: Counter[str] = Counter()
    for _ in range(30):
        busy = [rng.random() < 0.5 for _ in range(workers)]
        views = [
            worker_view(
                f"e{i}", concurrency=2, window=10, weight=rng.choice([0.2, 1.0, 5.0]), taken=2 if busy[i] else 0,
                leases=(2 if busy[i] else 0) + (sum(at == i for at in where.values()) if busy[i] else 0), leased_cost_ms=20_000,
            )
            for i in range(workers)
        ]  # fmt: skip
        free = FreeSlots.of(views, frozenset(), FILTERS)
        for index, view in enumerate(views):
            if is_crowded(view):
                there = [job(name, recalls=went[name], waited_ms=rng.choice([500, 5_000])) for name, at in where.items() if at == index]
                for name in recalled(view, there, free, rule):
                    went[name] += 1
                    where[name] = rng.randrange(workers)  # the plan may think of another
    assert max(went.values(), default=0) <= times_max
