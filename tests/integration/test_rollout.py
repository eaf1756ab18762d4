"""Aliases in a live dispatcher: changed while it runs, guarded, rolled back; what waits for a withdrawn version goes elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from dispatcher.core.facts.evidence import KindTotals, WorkerTotals
from dispatcher.core.facts.header import job_headers
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.rollout.aliases import POINTS, Rollout
from dispatcher.core.rollout.changes import GuardPlan, back, promote, set_shares
from dispatcher.events import JobsRerouted, RolloutChanged, RolloutRolledBack, RolloutStepped
from dispatcher.leader.rollout import REFRESH_MS
from dispatcher.store.leader.rollout_store import RolloutStore, Stored
from tests.integration.stage import Stage, Stub
from tests.messages import TASK

MODELS = ("chat@1", "chat@2")
GUARD = GuardPlan(step_s=0.0)


class Rollouts:
    """A stage, and an operator beside it."""

    def __init__(self, url: str) -> None:
        self.stage = Stage(url, heartbeat_s=0.0, window_extra=0, window_hide_ms=0.0)
        self.operator = RolloutStore(self.stage.text, self.stage.keys)

    def set(self, shares: dict[str, int], guard: GuardPlan | None = None) -> None:
        self.change(lambda seen: set_shares(seen and seen.rollout, shares, self.operator.now_ms(), guard=guard))

    def change(self, how: Callable[[Stored | None], Rollout]) -> None:
        """As the command line does it; then the time in which the dispatcher must have seen it."""
        seen = self.operator.read().get("chat")
        assert self.operator.change("chat", seen, how(seen))
        self.look()

    def look(self) -> None:
        self.stage.clock.now_ms += REFRESH_MS
        self.stage.steps()

    def stored(self) -> Rollout:
        return self.operator.read()["chat"].rollout

    def send(self, count: int, model: str = "chat", **options: Any) -> list[str]:
        return self.stage.send(count, headers=job_headers(model=model), **options)

    def waiting(self) -> Counter[str]:
        """How many jobs wait for which version."""
        return Counter(parse_lane(entry.lane).model for entry in self.stage.waiting())

    def tell(self, worker: Stub, **ended: tuple[int, int]) -> None:
        """The worker's beat: (done, failed) of each version since its life began, 10 ms a job. A step learns of it, the next
        acts.
        """
        kinds = [KindTotals(TASK, f"chat@{name[1:]}", done, failed, busy_ms=done * 10) for name, (done, failed) in ended.items()]
        worker.store.heartbeat({"done": 0, "consume_age_ms": 0}, msgspec.json.encode(WorkerTotals(kinds)))
        self.stage.step()
        self.stage.step()

    def events(self, kind: type) -> list[Any]:
        return [event for event in self.stage.events if isinstance(event, kind)]


@pytest.fixture
def rollouts(redis_url: str) -> Iterator[Rollouts]:
    made = Rollouts(redis_url)
    yield made
    made.stage.close()


def test_a_change_is_heeded_without_a_restart(rollouts: Rollouts) -> None:
    """Before, the name is a model like any other; then it is what the operator says, and again what he says next."""
    rollouts.stage.steps()
    rollouts.send(1)
    rollouts.stage.steps()
    assert rollouts.waiting() == {"chat": 1}
    rollouts.set({"chat@1": POINTS})
    rollouts.send(20)
    rollouts.stage.steps()
    rollouts.set({"chat@2": POINTS})
    rollouts.send(20)
    rollouts.stage.steps()
    assert rollouts.waiting() == {"chat": 1, "chat@1": 20, "chat@2": 20}
    assert rollouts.events(RolloutChanged) == [RolloutChanged("chat", ("chat@1 100 %",)), RolloutChanged("chat", ("chat@2 100 %",))]


def test_each_version_runs_where_it_is_served(rollouts: Rollouts) -> None:
    """Two workers, a version each: what each has run is what its version's users sent, the share of them."""
    workers = [rollouts.stage.worker(f"w{i}", models=(model,), concurrency=100) for i, model in enumerate(MODELS)]
    rollouts.set({"chat@1": 5000, "chat@2": 5000})
    jobs = rollouts.send(60)
    rollouts.stage.steps()
    ran = [worker.run_all() for worker in workers]
    assert sorted([*ran[0], *ran[1]]) == sorted(jobs)
    assert all(len(one) > 10 for one in ran)


def test_a_new_leader_resolves_before_it_admits(rollouts: Rollouts) -> None:
    """No job of the first look is left under the alias."""
    rollouts.set({"chat@1": 5000, "chat@2": 5000})
    rollouts.send(20)
    rollouts.stage.dispatcher.resign()
    rollouts.stage.dispatcher = rollouts.stage.make_dispatcher("leader-2")
    rollouts.stage.steps()
    assert set(rollouts.waiting()) == set(MODELS)


def test_a_version_that_nobody_serves_or_served(rollouts: Rollouts) -> None:
    """Its jobs are dead letters at once, as those of any unknown model."""
    rollouts.stage.worker(models=("chat@1",))
    rollouts.stage.steps()
    rollouts.set({"chat@2": POINTS})
    (job,) = rollouts.send(1)
    rollouts.stage.steps()
    assert rollouts.stage.reasons() == {job: "unknown_model"}


def test_back_moves_what_waits_and_leaves_what_was_asked_for_by_name(rollouts: Rollouts) -> None:
    """Jobs of the alias go to the old version in their order, before what came later; those that named the new one wait on for it."""
    rollouts.set({"chat@1": POINTS})
    late = rollouts.send(1)
    rollouts.stage.steps()
    rollouts.set({"chat@2": POINTS})
    jobs = rollouts.send(150)
    named = rollouts.send(120, model="chat@2")
    moved = jobs + rollouts.send(30)
    rollouts.stage.steps()
    assert rollouts.waiting() == {"chat@1": 1, "chat@2": 300}
    rollouts.change(lambda seen: back(seen.rollout, 1))  # type: ignore[union-attr]
    assert rollouts.waiting() == {"chat@1": 181, "chat@2": 120}
    assert sum(event.count for event in rollouts.events(JobsRerouted)) == 180

    old = rollouts.stage.worker("old", models=("chat@1",), concurrency=200)
    new = rollouts.stage.worker("new", models=("chat@2",), concurrency=200)
    rollouts.stage.steps()
    assert old.run_all() == moved + late
    assert new.run_all() == named


def test_what_a_worker_holds_and_has_not_begun_is_taken_back(rollouts: Rollouts) -> None:
    """It goes to the old version too; what runs is finished."""
    rollouts.set({"chat@1": POINTS})
    rollouts.set({"chat@2": POINTS})
    new = rollouts.stage.worker("new", models=("chat@2",), concurrency=3)
    jobs = rollouts.send(3)
    rollouts.stage.steps()
    running = new.take()
    assert running is not None
    rollouts.change(lambda seen: back(seen.rollout, 1))  # type: ignore[union-attr]
    rollouts.look()
    assert rollouts.waiting() == {"chat@1": 2}
    assert list(new.leases()) == [running.lease_id]
    old = rollouts.stage.worker("old", models=("chat@1",), concurrency=3)
    rollouts.stage.steps()
    assert old.run_all() == jobs[1:]


def test_a_blue_green_switch_leaves_what_waits(rollouts: Rollouts) -> None:
    """The old version is no worse: what waits for it is run by it, while its workers are there."""
    rollouts.set({"chat@1": POINTS})
    rollouts.send(5)
    rollouts.stage.steps()
    rollouts.change(lambda seen: promote(set_shares(seen.rollout, {"chat@2": 1}, 1), "chat@2", 2))  # type: ignore[union-attr]
    rollouts.send(5)
    rollouts.stage.steps()
    assert rollouts.waiting() == {"chat@1": 5, "chat@2": 5}


def test_a_job_that_is_due_later_does_not_meet_a_withdrawn_version(rollouts: Rollouts) -> None:
    """Admitted under it, due after it was withdrawn."""
    rollouts.set({"chat@1": POINTS})
    rollouts.set({"chat@2": POINTS})
    rollouts.send(1, eta=datetime.now(UTC) + timedelta(seconds=3600))
    rollouts.stage.steps()
    rollouts.change(lambda seen: back(seen.rollout, 1))  # type: ignore[union-attr]
    (entry,) = rollouts.stage.text.zrange(rollouts.stage.keys.scheduled, 0, -1)
    rollouts.stage.text.zadd(rollouts.stage.keys.scheduled, {entry: 1})
    rollouts.stage.steps()
    for _ in range(8):
        rollouts.look()
    assert rollouts.waiting() == {"chat@1": 1}


# -- guards


def test_a_canary_that_fails_is_rolled_back_by_itself(rollouts: Rollouts) -> None:
    """And withdrawn: its waiting jobs go to the old version; the reason is told, and kept."""
    worker = rollouts.stage.worker(models=MODELS)
    rollouts.tell(worker, v1=(0, 0))
    rollouts.set({"chat@1": POINTS})
    rollouts.set({"chat@2": 500}, GUARD)
    rollouts.tell(worker, v1=(400, 0), v2=(9, 1))
    assert rollouts.stored().guard is not None
    rollouts.send(1)
    rollouts.stage.steps()
    assert rollouts.stage.text.hlen(rollouts.stage.keys.leases(worker.epoch)) == 1  # it is busy: what follows waits
    rollouts.send(200)
    rollouts.stage.steps()
    waited = rollouts.waiting()
    assert waited["chat@2"]
    rollouts.tell(worker, v1=(800, 2), v2=(30, 10))
    (event,) = rollouts.events(RolloutRolledBack)
    assert (event.alias, event.version, event.to) == ("chat", "chat@2", "chat@1")
    assert "10 of 40 runs failed, of chat@1 2 of 802" in event.reason
    assert rollouts.stored().shares() == {"chat@1": POINTS}
    assert event.reason in rollouts.stored().outcome
    rollouts.stage.steps()
    assert rollouts.waiting() == {"chat@1": waited.total()}
    rollouts.send(50)
    rollouts.stage.steps()
    assert rollouts.waiting() == {"chat@1": waited.total() + 50}


def test_a_canary_that_is_no_worse_goes_all_the_way(rollouts: Rollouts) -> None:
    """A step for each fifty jobs; at the whole line the guard is done."""
    worker = rollouts.stage.worker(models=MODELS)
    rollouts.tell(worker, v1=(0, 0))
    rollouts.set({"chat@1": POINTS})
    rollouts.set({"chat@2": 500}, GUARD)
    for stage in range(1, 4):
        rollouts.tell(worker, v1=(stage * 500, 0), v2=(stage * 50, 0))
        rollouts.tell(worker, v1=(stage * 500 + 10, 0), v2=(stage * 50, 0))
    assert [event.share for event in rollouts.events(RolloutStepped)] == ["20 %", "50 %", "100 %"]
    assert rollouts.stored().shares() == {"chat@2": POINTS}
    assert rollouts.stored().guard is None
    rollouts.send(20)
    rollouts.stage.steps()
    assert set(rollouts.waiting()) <= {"chat@2"}


def test_a_new_leader_knows_what_the_guard_has_seen(rollouts: Rollouts) -> None:
    """Half of the evidence before a takeover and half after it are enough."""
    worker = rollouts.stage.worker(models=MODELS)
    rollouts.tell(worker, v1=(0, 0))
    rollouts.set({"chat@1": POINTS})
    rollouts.set({"chat@2": 500}, GUARD)
    rollouts.tell(worker, v1=(20, 0))
    rollouts.tell(worker, v1=(400, 0), v2=(20, 2))
    saved_by = rollouts.stage.keys.policy
    rollouts.stage.dispatcher.parts.learning._time_to_save.restart()
    rollouts.tell(worker, v1=(401, 0), v2=(20, 2))
    assert b'"failed":2' in (rollouts.stage.client.hget(saved_by, "rollouts") or b"")
    rollouts.stage.dispatcher.resign()
    rollouts.stage.dispatcher = rollouts.stage.make_dispatcher("leader-2")
    rollouts.stage.steps()
    assert not rollouts.events(RolloutRolledBack)
    rollouts.tell(worker, v1=(600, 0), v2=(30, 5))
    (event,) = rollouts.events(RolloutRolledBack)
    assert "5 of 35 runs failed" in event.reason


def test_what_an_operator_says_wins(rollouts: Rollouts) -> None:
    """He changes the alias in the moment in which the guard would: his word stands, and the guard looks again."""
    worker = rollouts.stage.worker(models=MODELS)
    rollouts.tell(worker, v1=(0, 0))
    rollouts.set({"chat@1": POINTS})
    rollouts.set({"chat@2": 500}, GUARD)
    seen = rollouts.operator.read()["chat"]
    assert rollouts.operator.change("chat", seen, set_shares(seen.rollout, {"chat@2": 5000}, 2))
    rollouts.tell(worker, v1=(20, 0))
    rollouts.tell(worker, v1=(800, 0), v2=(0, 50))
    assert rollouts.stored().shares() == {"chat@1": 5000, "chat@2": 5000}
    rollouts.look()
    assert not rollouts.events(RolloutRolledBack)
    assert rollouts.events(RolloutChanged)[-1] == RolloutChanged("chat", ("chat@1 50 %", "chat@2 50 %"))
