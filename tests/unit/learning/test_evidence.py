"""What workers tell, and how the leader reads it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from dispatcher.core.facts.evidence import Delta, KindTotals, WorkerReport, WorkerTotals, deltas
from dispatcher.errors import NotLeader
from dispatcher.leader.learning import Learning
from tests.unit.facts.snapshots import worker_view


class FakeStore:
    """Redis' side."""

    def __init__(self) -> None:
        self.told: dict[str, bytes] = {}
        self.saved: dict[str, bytes] = {}
        self.saves = 0
        self.leads = True

    def tell(self, epoch: str, *kinds: KindTotals, failures_in_row: int = 0) -> None:
        self.told[epoch] = msgspec.json.encode(WorkerTotals(list(kinds), failures_in_row))

    def totals(self) -> dict[str, bytes]:
        return dict(self.told)

    def load(self) -> dict[str, bytes]:
        return dict(self.saved)

    def save(self, states: dict[str, bytes]) -> None:
        if not self.leads:
            raise NotLeader("another leads")
        self.saves += bool(states)
        self.saved |= states


class Counter:
    """Learns how many jobs were done."""

    def __init__(self) -> None:
        self.done = 0
        self.seen: list[tuple[list[Delta], list[WorkerReport]]] = []

    def observe(self, deltas: Sequence[Delta], reports: Sequence[WorkerReport], now_ms: int) -> None:
        self.seen.append((list(deltas), list(reports)))
        self.done += sum(delta.done for delta in deltas)

    def dump(self) -> bytes:
        return msgspec.json.encode(self.done)

    def load(self, state: bytes) -> None:
        self.done = msgspec.json.decode(state, type=int)


def make(store: FakeStore) -> tuple[Learning, Counter]:
    counter = Counter()
    evidence = Learning(store, {"count": counter}, interval_ms=1_000)
    evidence.restart()
    return evidence, counter


WORKERS = (worker_view(epoch="e1", name="w1"), worker_view(epoch="e2", name="w2"))


def test_each_job_is_learned_from_once() -> None:
    """Totals that have not changed bring nothing; those that grew bring the difference."""
    store = FakeStore()
    evidence, counter = make(store)
    store.tell("e1", KindTotals("t", "m", done=3, busy_ms=300, cost_ms=3_000))
    evidence.step(10_000, WORKERS)
    evidence.step(11_000, WORKERS)
    store.tell("e1", KindTotals("t", "m", done=5, busy_ms=450, cost_ms=5_000, failed=1))
    evidence.step(12_000, WORKERS)

    assert [one for one, _ in counter.seen] == [
        [Delta("e1", "w1", "t", "m", 3, 0, 300, 3_000)],
        [],
        [Delta("e1", "w1", "t", "m", 2, 1, 150, 2_000)],
    ]
    assert [[one.name for one in told] for _, told in counter.seen] == [["w1"]] * 3


def test_it_reads_at_most_once_in_an_interval() -> None:
    """However often the dispatcher ticks."""
    evidence, counter = make(FakeStore())
    for now_ms in range(10_000, 12_000, 100):
        evidence.step(now_ms, WORKERS)

    assert len(counter.seen) == 2


def test_a_successor_goes_on_and_learns_nothing_twice() -> None:
    """It starts from the state that was saved, and takes the totals it finds first as known; a life that begins later counts in full."""
    store = FakeStore()
    first, _ = make(store)
    store.tell("e1", KindTotals("t", "m", done=3))
    first.step(10_000, WORKERS)
    second, counter = make(store)
    second.step(20_000, WORKERS)
    store.tell("e1", KindTotals("t", "m", done=4))
    store.tell("e2", KindTotals("t", "m", done=10))
    second.step(21_000, WORKERS)

    assert counter.done == 3 + 1 + 10


def test_what_was_told_before_anybody_learned_counts() -> None:
    """The first leader of a cell learns from all that its workers have done so far."""
    store = FakeStore()
    store.tell("e1", KindTotals("t", "m", done=3))
    evidence, counter = make(store)
    evidence.step(10_000, WORKERS)

    assert counter.done == 3


def test_only_what_changed_is_saved() -> None:
    """A quiet cell writes nothing."""
    store = FakeStore()
    evidence, _ = make(store)
    for now_ms in range(10_000, 15_000, 1_000):
        evidence.step(now_ms, WORKERS)

    assert store.saves == 1


def test_a_leader_that_was_replaced_hears_it() -> None:
    """NotLeader passes, as from every other transition."""
    store = FakeStore()
    store.leads = False
    evidence, _ = make(store)

    with pytest.raises(NotLeader):
        evidence.step(10_000, WORKERS)


@pytest.mark.parametrize("told", [b"", b"[]", b'{"kinds":[{"done":"x"}]}'])
def test_what_cannot_be_read_is_left_out(told: bytes) -> None:
    """One worker of another version does not stop the others' evidence."""
    store = FakeStore()
    evidence, counter = make(store)
    store.told["e1"] = told
    store.tell("e2", KindTotals("t", "m", done=2))
    evidence.step(10_000, WORKERS)

    assert counter.done == 2


def test_a_state_that_cannot_be_read_is_learned_anew() -> None:
    """After a change of version, say."""
    store = FakeStore()
    store.saved = {"count": b'"many"', "other": b"{}"}
    _, counter = make(store)

    assert counter.done == 0


def test_a_worker_that_is_gone_is_not_told_of() -> None:
    """Its totals may stay in Redis until its leases are settled."""
    store = FakeStore()
    evidence, counter = make(store)
    store.tell("gone", KindTotals("t", "m", done=2))
    store.tell("e2", KindTotals("t", "m", done=2))
    evidence.step(10_000, (WORKERS[0], worker_view(epoch="e2", ended="silent")))

    assert counter.seen == [([], [])]


def test_totals_that_fell_bring_nothing() -> None:
    """Redis lost its last writes: what comes after is compared with what it has now."""
    before = WorkerTotals([KindTotals("t", "m", done=9, busy_ms=900)])
    after = WorkerTotals([KindTotals("t", "m", done=5, busy_ms=500)])

    assert list(deltas("e", "w", before, after)) == []
