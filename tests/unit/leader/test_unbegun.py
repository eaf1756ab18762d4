"""What workers have not begun: read once a step, given back within one call's bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from dispatcher.core.facts.evidence import PROBE_TASK
from dispatcher.core.facts.lane import Lane, lane_name
from dispatcher.core.returns.ending import GiveBack
from dispatcher.leader.returns.unbegun import UnbegunJobs
from dispatcher.store.frame import Entry
from dispatcher.store.giveback import GIVEBACK_MAX

LANE = lane_name(Lane("dispatch", "demo.job", "default", 0, 5))
PROBE_LANE = lane_name(Lane("dispatch", PROBE_TASK, "default", 0, 0))


class FakeStore:
    """Redis' side: one worker's leases, newest first."""

    def __init__(self, leases: list[tuple[str, Entry, bool]]) -> None:
        self.held = leases
        self.reads = 0
        self.calls: list[Sequence[GiveBack]] = []

    def leases(self, epoch: str) -> list[tuple[str, Entry, bool]]:
        self.reads += 1
        return list(self.held)

    def giveback(self, epoch: str, leases: Sequence[GiveBack]) -> int:
        self.calls.append(leases)
        gone = {lease.lease_id for lease in leases}
        self.held = [lease for lease in self.held if lease[0] not in gone]
        return len(gone)


def lease(number: int, lane: str = LANE, *, taken: bool = False) -> tuple[str, Entry, bool]:
    return f"w.{number}", Entry(f"{number:016d}", 0, 10, 0, 0, 0, 0, 0, lane), taken


def make(*leases: tuple[str, Entry, bool]) -> tuple[UnbegunJobs, FakeStore]:
    store = FakeStore(list(leases))
    return UnbegunJobs(cast("Any", store)), store


def test_a_worker_is_read_once_a_step() -> None:
    """Whoever asks in the same step sees what an earlier part has left; the next step reads anew."""
    unbegun, store = make(lease(3), lease(2), lease(1))
    first = unbegun.of("w")
    assert unbegun.give_back("w", first[:1]) == 1
    assert [job.lease_id for job in unbegun.of("w")] == ["w.2", "w.1"]
    assert store.reads == 1
    unbegun.forget()
    assert [job.lease_id for job in unbegun.of("w")] == ["w.2", "w.1"]
    assert store.reads == 2


def test_begun_jobs_probes_and_lanes_that_nobody_can_read_are_left_out() -> None:
    """A probe was given to just this worker."""
    unbegun, _ = make(lease(4, taken=True), lease(3, PROBE_LANE), lease(2, "no lane"), lease(1))
    assert [job.lease_id for job in unbegun.of("w")] == ["w.1"]


@pytest.mark.parametrize("end", ["give_back", "bury_late"])
def test_one_call_ends_so_many_leases_and_no_more(end: str) -> None:
    """The newest: what is older comes to the head of its lane with a later step. Nothing to end is no call."""
    unbegun, store = make(*(lease(number) for number in range(GIVEBACK_MAX + 7, 0, -1)))
    assert getattr(unbegun, end)("w", unbegun.of("w")) == GIVEBACK_MAX
    assert [job.lease_id for job in unbegun.of("w")] == [f"w.{number}" for number in range(7, 0, -1)]
    assert getattr(unbegun, end)("w", []) == 0
    assert [len(call) for call in store.calls] == [GIVEBACK_MAX]
