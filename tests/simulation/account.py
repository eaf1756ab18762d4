"""The observer outside: what was published, what ran where, and what must hold of Redis after every event."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.health.liveness import JITTER_MS
from dispatcher.store.frame import FRAME_BYTES, Entry
from dispatcher.store.keys import Keys
from tests.simulation.server import Server

CLOCK_SKEW = 0.1
"""A process' clock runs by so much faster or slower at most."""
RECKONING_MS = 5_000
"""A worker reckons when it took a job, from its last beat on; Redis says what is late."""
UNHEARD_MS = 1_000
"""A leader that was held up for no longer than that does not know of an outage that came and went meanwhile."""
PROBE = b'"dispatcher.probe"'


class Broken(BaseException):
    """A promise does not hold. Not an Exception: production code that survives any of those must not survive this."""


@dataclass
class Job:
    """A message that was published. ``reasons``: why it may be a dead letter."""

    raw: bytes
    task: str = ""
    model: str = "default"
    due_ms: int = 0
    deadline: bool = False
    at_most_once: bool = False
    reasons: frozenset[str] = frozenset()
    copies: int = 1
    gone: int = 0
    """How many copies may have left Redis: their runs ended, somebody else consumed them, or a later turn was there."""


@dataclass
class Run:
    """One time that a worker's pool began a job. ``state``: running, finished, returned (its worker gave it back), killed."""

    job: Job
    worker: Any
    epoch: str
    lease_id: str
    state: str = "running"
    is_forgiven: bool = False
    """An operator sent the job back since."""


@dataclass
class Account:
    """``now_ms``: of Redis' clock; ``true_ms``: of time itself; ``heard_ms``: the same, outages left out; ``windows``: the largest that any
    leader went by.
    """

    server: Server
    keys: Keys
    lists: tuple[str, ...]
    lease_ttl_ms: int
    now_ms: Callable[[], int]
    true_ms: Callable[[], int]
    heard_ms: Callable[[], int]
    windows: dict[str, int]
    jobs: dict[bytes, Job] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    runs_of: dict[bytes, list[Run]] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    _beats: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    _frozen: dict[str, set[bytes]] = field(default_factory=dict)
    _leases: dict[str, int] = field(default_factory=dict)
    _seen_reasons: set[bytes] = field(default_factory=set)
    _latest_ms: int = 0
    """The latest that Redis' clock has shown before it was set."""
    is_looked_at: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    # -- what happens

    def published(self, job: Job) -> None:
        known = self.jobs.setdefault(job.raw, job)
        if known is not job:
            known.copies += 1
        self.counts["published"] += 1

    def began(self, worker: Any, lease_id: str, message: bytes, entry: Entry) -> Run | None:
        """A pool begins a job; ``None`` for a probe, of which there is no account."""
        if PROBE in message:
            return None
        job = self.jobs.get(message)
        self.demand(job is not None, "a job began that nobody published")
        assert job is not None
        self.demand(lease_id not in self.runs, f"lease {lease_id} began twice")
        lane = parse_lane(entry.lane)
        self.demand(lane.task == job.task and lane.model == job.model, "a job began in another's lane")
        self.demand(job.task in worker.registration.tasks, "a job began at a worker without its task")
        self.demand(job.model == "default" or job.model in worker.registration.models, "a job began at a worker without its model")
        self.demand(job.due_ms <= max(self.now_ms(), self._latest_ms), "a job began before it was due")
        taken_ms = self.server.hash(self.keys.taken(worker.epoch)).get(lease_id.encode())
        if entry.deadline_ms and taken_ms is not None:
            self.demand(int(taken_ms) < max(entry.deadline_ms, self._latest_ms) + RECKONING_MS, "a job began after its deadline")
        others = self.runs_of.setdefault(message, [])
        live = [run for run in others if self._counts(run)]
        if len(live) >= job.copies:
            raise Broken(f"a job began at {worker.name} that {[f'{run.worker.name}: {run.state}' for run in live]} had already")
        if job.at_most_once:
            before = [run for run in others if run.state != "rejected" and not run.is_forgiven]
            self.demand(len(before) < job.copies, "a job of an at-most-once task began again")
        run = Run(job, worker, worker.epoch, lease_id)
        others.append(run)
        self.runs[lease_id] = run
        self.counts["runs"] += 1
        self.counts["runs again"] += len(others) > job.copies
        return run

    def _counts(self, run: Run) -> bool:
        """Whether this run is one after which there must be no other: its worker lives in Redis' eyes, or left in order."""
        if run.state == "running":
            return run.epoch not in self.ended
        if run.is_forgiven:
            return False
        how = self.ended.get(run.epoch)
        return run.state == "finished" and (how == "goodbye" or (how is None and not run.worker.is_dead))

    def finished(self, run: Run) -> None:
        run.state = "finished"
        run.job.gone += 1

    def stolen(self, raw: bytes) -> None:
        self.jobs[raw].gone += 1

    def must_know(self, raw: bytes) -> bool:
        """Whether this message, which a worker is given, has certainly begun before. Of copies, nobody knows which is which."""
        return self.jobs[raw].copies == 1 and any(not run.is_forgiven for run in self.runs_of.get(raw, ()))

    def must_pass_over(self, raw: bytes) -> bool:
        """Whether a retry of the same task has begun, so that this earlier try is not to run again. Which of them came later is told by
        Redis' clock.
        """
        return not self._latest_ms and self.must_know(raw) and any(later in self.runs_of for later in self._later_turns(raw))

    def passed_over(self, raw: bytes) -> None:
        """A worker that was given it dropped it: a retry of the same task is there."""
        self.demand(any(self._later_turns(raw)), f"{name_of(raw)} was dropped for a later turn, and there is none")
        self.jobs[raw].gone += 1

    def _later_turns(self, raw: bytes) -> Iterator[bytes]:
        mine = json.loads(raw)["headers"]
        for other in self.jobs:
            if mine["id"].encode() in other:
                headers = json.loads(other)["headers"]
                if headers["id"] == mine["id"] and headers["retries"] > mine["retries"]:
                    yield other

    def clock_is_set(self) -> None:
        """Redis' clock will be set; what was due by then was due."""
        self._latest_ms = max(self._latest_ms, self.now_ms())

    def lost_worker(self, worker: Any) -> None:
        """Killed, with all that it ran."""
        for run in self.runs.values():
            if run.worker is worker and run.state == "running":
                run.state = "killed"
                self.counts["killed runs"] += 1

    # -- what must hold

    def demand(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Broken(otherwise)

    def look_at_lives(self, epochs: list[str]) -> None:
        """After each command: nobody is declared dead who beat within the lease's time; a dead epoch is given nothing."""
        for epoch in epochs:
            if epoch in self.ended:
                leases = set(self.server.hash(self.keys.leases(epoch)))
                self.demand(leases <= self._frozen[epoch], f"dead epoch {epoch} was leased a job")
                self._frozen[epoch] = leases
                continue
            expires_at = self.server.expires_at(self.keys.alive(epoch))
            before = self._beats.get(epoch)
            if expires_at is not None:
                # A clock that is set back can give a beat the date of the one before; then that is all that anybody sees.
                if before is None or abs(before[0] - expires_at) * 1000 > JITTER_MS:
                    self._beats[epoch] = (expires_at, self.true_ms(), self.heard_ms())
            elif before is not None:
                self.ended[epoch] = (self.server.value(self.keys.dead(epoch)) or b"").decode()
                self._frozen[epoch] = set(self.server.hash(self.keys.leases(epoch)))
                silent_ms, heard_ms = self.true_ms() - before[1], self.heard_ms() - before[2]
                if self.ended[epoch] == "silent":
                    self.counts["declared dead"] += 1
                    least_ms = self.lease_ttl_ms / (1 + CLOCK_SKEW) - 100
                    enough = silent_ms >= least_ms and heard_ms >= least_ms - UNHEARD_MS
                    self.demand(enough, f"{epoch} was declared dead {silent_ms} ms after a beat; Redis was there for {heard_ms} of them")

    def look_at_redis(self) -> None:
        """Each message once in the ingress or in keeping, unless it ended; each job in keeping in exactly one place."""
        if self.is_looked_at:
            return
        self.is_looked_at = True
        server, keys = self.server, self.keys
        messages = dict(server.hash(keys.messages).items())
        kept = Counter(raw for key in self.lists for raw in server.list(key))
        kept.update(raw for raw in messages.values() if PROBE not in raw)
        for raw, job in self.jobs.items():
            count = kept.pop(raw, 0)
            if count < job.copies - job.gone:
                raise Broken(f"lost: {name_of(raw)} ({count} of {job.copies} copies, {job.gone} ended)")
            if count > job.copies:
                raise Broken(f"{name_of(raw)} is there {count} times and was sent {job.copies} times")
        self.demand(not kept, f"unheard-of messages: {list(kept)[:2]}")

        lane_keys, lease_keys = server.keys(keys.lane("")), server.keys(keys.leases(""))
        waiting = {key: server.list(key) for key in lane_keys}
        leases = {key: server.hash(key) for key in lease_keys}
        scheduled, dead = server.members(keys.scheduled), server.members(keys.dead_letters)
        places = Counter(frame[:16] for frames in waiting.values() for frame in frames)
        places.update(entry[:16] for entry in scheduled)
        places.update(entry[:16] for one in leases.values() for entry in one.values())
        places.update(dead)
        twice = [job for job, count in places.items() if count > 1]
        self.demand(not twice, f"in two places: {twice}")
        self.demand(set(places) == set(messages), "a job without its message, or a message without a job")
        named = {keys.lane(name.decode()) for name in server.members(keys.lanes)}
        self.demand(named == set(lane_keys), f"lanes that no snapshot sees, or that are empty: {named ^ set(lane_keys)}")
        for key, frames in waiting.items():
            lane = parse_lane(key.removeprefix(keys.lane("")))
            for frame in frames:
                self._in_its_lane(lane, messages[frame[:16]])
        for entry in (*scheduled, *(entry for one in leases.values() for entry in one.values())):
            self._in_its_lane(parse_lane(entry[FRAME_BYTES:].decode()), messages[entry[:16]])
        reasons = server.hash(keys.dead_reasons)
        self.demand(set(reasons) == dead >= server.members(keys.unsettled), "a dead letter without a reason, or the reverse")
        for number in dead:
            self._may_be_dead(messages[number], reasons[number])
        self._look_at_windows(leases)

    def _in_its_lane(self, lane: Any, raw: bytes) -> None:
        if (job := self.jobs.get(raw)) is not None and lane.task != job.task:
            raise Broken(f"{name_of(raw)} is in the lane of {lane.task}")

    def _may_be_dead(self, raw: bytes, record: bytes) -> None:
        if record in self._seen_reasons:
            return
        self._seen_reasons.add(record)
        said = json.loads(record)
        reason = said["reason"]
        runs = self.runs_of.get(raw, [])
        allowed = set(self.jobs[raw].reasons)
        if any(run.state in ("killed", "returned") or run.worker.is_dead or run.epoch in self.ended for run in runs):
            allowed |= {"worker_died", "process_died"}
        if any(attempt["epoch"] in self.ended for attempt in said.get("story", ())):
            allowed.add("worker_died")  # between its take and its pool
        if self.jobs[raw].at_most_once:
            allowed.add("at_most_once")
        self.demand(reason in allowed, f"{name_of(raw)} is dead of {reason} and may be of {sorted(allowed)}: {record!r}")

    def _look_at_windows(self, leases: dict[str, dict[bytes, bytes]]) -> None:
        for key, one in leases.items():
            if len(one) > 1 and any(b"/alone=1" in entry for entry in one.values()):
                raise Broken(f"a suspect is not alone in {key}: {sorted(one.values())}")
        counts = {key.rpartition(":")[2]: len(one) for key, one in leases.items()}
        for epoch, count in counts.items():
            most = max(1, self.windows.get(epoch, 0))
            self.demand(count <= max(most, self._leases.get(epoch, 0)), f"{epoch} holds {count} leases, its window is {most} at most")
        self._leases = counts

    def left(self) -> dict[str, int]:
        """What is still to be done, by place; empty when nothing is."""
        server, keys = self.server, self.keys
        found = {key: len(server.list(key)) for key in (*self.lists, *server.keys(keys.lane("")))}
        found |= {key: len(server.hash(key)) for prefix in (keys.leases(""), keys.taken("")) for key in server.keys(prefix)}
        found |= {key: len(server.list(key)) for key in server.keys(keys.worker_queue(""))}
        found |= {keys.scheduled: len(server.members(keys.scheduled)), keys.unsettled: len(server.members(keys.unsettled))}
        return {key: count for key, count in found.items() if count}


def name_of(raw: bytes) -> str:
    """A message's task id, for a failure's text."""
    if PROBE in raw:
        return "a probe"
    try:
        return str(json.loads(raw)["headers"]["id"])
    except (ValueError, LookupError, TypeError):
        return repr(raw[:60])
