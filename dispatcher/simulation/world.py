"""A cell in virtual time: jobs arrive, lanes fill, the dispatcher's own ``plan`` places jobs, workers run and die.

As in a real cell, the dispatcher does not know the true cost of a job (it gets an estimate, as if nothing were cached),
what a worker has in its caches, nor that a worker has died (it notices silence). Messages, Redis and processes are left
out; instead, handing a job to a worker takes ``handover_ms``.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Final

from dispatcher.core.admission.prefix import NOWHERE, PrefixSlots, slot_of_text
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.protocols import Strategy
from dispatcher.core.facts.decisions import Plan
from dispatcher.core.facts.header import DEFAULT_MODEL
from dispatcher.core.facts.lane import Lane, lane_name, size_class
from dispatcher.core.facts.snapshot import LaneView, Snapshot, WorkerView
from dispatcher.settings import Settings
from dispatcher.settings.rules import policy_of, windows_of
from dispatcher.simulation.caches import CacheSizes, LruCache, ModelPlaces
from dispatcher.simulation.model_memory import ModelMemories
from dispatcher.simulation.outcome import SimOutcome, WorkerAccount
from dispatcher.simulation.traces import SimJob
from dispatcher.simulation.workers import Failure, SimWorker, WorkerLife

INGRESS: Final = "simulated"
TASK: Final = "simulated.job"
NEVER: Final = float("inf")
NO_CACHES: Final = CacheSizes()


class World:
    """One run of a simulated cell; the same arguments give the same outcome."""

    def __init__(
        self,
        jobs: Sequence[SimJob],
        workers: Sequence[SimWorker],
        *,
        strategy: Strategy,
        settings: Settings,
        rng: Random,
        noise: float = 1.0,
        failures: Sequence[Failure] = (),
        handover_ms: float = 0.0,
        tick_ms: float = 0.0,
        caches: CacheSizes = NO_CACHES,
        load_ms: Mapping[str, float] | None = None,
        reports_models: bool = True,
    ) -> None:
        """``rng`` draws ties and estimates.

        ``noise``: an estimate is the true cost times a factor between 1 / noise and noise, log-uniform; 1 means exact.
        ``tick_ms``: rest of the dispatcher after each plan; 0: it plans at every change, which makes a large fleet slow
        to simulate. ``load_ms``: model → how long it takes to load. ``reports_models`` False: workers do not report
        which models they hold.
        """
        self._jobs = jobs
        self._caches = caches
        self._estimates = [max(1, round(job.cost_ms * noise ** (2 * rng.random() - 1))) for job in jobs]
        self._settings = settings
        self._policy = replace(policy_of(settings), strategy=strategy)
        self._rng = rng
        self._state = PolicyState()
        self._windows = windows_of(settings)
        self._handover_ms = handover_ms
        self._tick_ms = tick_ms
        self._rests_until_ms = 0.0
        self._will_wake = False
        self._plans_again_ms = -1.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._now_ms = 0.0
        self._lives: dict[str, WorkerLife] = {}
        self._views: dict[str, WorkerView] = {}
        self._unseen: dict[WorkerLife, None] = {}  # changed since the dispatcher last read them
        self._room = 0
        self._slots = [NOWHERE] * len(jobs)
        self._prefixes = PrefixSlots()
        self._session_at: dict[str, WorkerLife] = {}
        self._lanes: dict[str, deque[int]] = {}
        self._lane_views: dict[str, LaneView] = {}
        self._admitted_ms: dict[int, int] = {}
        self._lanes_of: dict[tuple[int, int, str], tuple[str, Lane]] = {}  # (size class, slot, model) → name, lane
        self._waiting = 0
        self._changed = False
        accounts = {worker.name: WorkerAccount() for worker in workers}
        self.outcome = SimOutcome([float("nan")] * len(jobs), [0] * len(jobs), accounts)
        self._memories = ModelMemories(jobs, load_ms or {}, settings, self.outcome.models, reported=reports_models)
        for worker in workers:
            self._begin(worker)
        for failure in failures:
            self._at(failure.at_ms, self._die, failure)

    def run(self) -> SimOutcome:
        """Run until every job has ended, or nothing can happen any more."""
        jobs, events, outcome = self._jobs, self._events, self.outcome
        number, arrivals = 0, len(jobs)
        sample_ms = max(1.0, jobs[-1].at_ms / 400) if jobs else 1.0
        sampled_ms = -sample_ms
        while number < arrivals or events:
            arrival_ms = jobs[number].at_ms if number < arrivals else NEVER
            now_ms = self._now_ms = min(arrival_ms, events[0][0] if events else NEVER)
            while number < arrivals and jobs[number].at_ms <= now_ms:
                self._admit(number)
                number += 1
            while events and events[0][0] <= now_ms:
                _, _, happen, facts = heapq.heappop(events)
                happen(*facts)
            if self._changed and self._waiting:
                self._place_or_rest()
            if now_ms - sampled_ms >= sample_ms:
                outcome.waiting.append((now_ms, self._waiting))
                sampled_ms = now_ms
        return outcome

    # -- jobs

    def _admit(self, job: int) -> None:
        """Put an arriving job at the end of its lane."""
        facts = self._jobs[job]
        if self._settings.sticky != "off":
            if facts.session is not None:
                self._slots[job] = slot_of_text(facts.session)
            elif facts.prefix:
                self._slots[job] = self._prefixes.slot_of_prefix(facts.prefix)
        self._admitted_ms[job] = int(self._now_ms)
        name, lane = self._lane(job)
        jobs = self._lanes.setdefault(name, deque())
        jobs.append(job)
        self._touch_lane(name, lane, jobs)
        self._waiting += 1
        self._changed = True

    def _return(self, job: int) -> None:
        """Put a dead worker's job back at the head of its lane, where it was before."""
        name, lane = self._lane(job)
        jobs = self._lanes.setdefault(name, deque())
        jobs.appendleft(job)
        self._touch_lane(name, lane, jobs)
        self._waiting += 1
        self._changed = True

    def _lane(self, job: int) -> tuple[str, Lane]:
        size, slot, model = facts = size_class(self._estimates[job]), self._slots[job], self._jobs[job].model
        named = self._lanes_of.get(facts)
        if named is None:
            lane = Lane(INGRESS, TASK, model or DEFAULT_MODEL, 0, size, slot=slot)
            named = self._lanes_of[facts] = lane_name(lane), lane
        return named

    def _touch_lane(self, name: str, lane: Lane, jobs: deque[int]) -> None:
        if jobs:
            head = jobs[0]
            cost_ms, admitted_ms = self._estimates[head], self._admitted_ms[head]
            self._lane_views[name] = LaneView(name, lane, len(jobs), cost_ms, admitted_ms, job=head)
        else:
            del self._lanes[name], self._lane_views[name]

    # -- workers

    def _begin(self, spec: SimWorker) -> None:
        caches = LruCache(self._caches.blocks), LruCache(self._caches.sessions), ModelPlaces(spec.models_max)
        life = WorkerLife(spec, f"e{self._count}", *caches)
        self._count += 1
        self._lives[life.epoch] = life
        self._notice(life)

    def _notice(self, life: WorkerLife) -> None:
        """Note that something of this worker changed: the dispatcher will see it in its next read."""
        self._unseen[life] = None
        self._changed = True

    def _read_workers(self) -> None:
        """Read the workers that changed, and only those: or a plan would cost more the larger the fleet is."""
        for life in self._unseen:
            if life.epoch in self._lives:
                before = self._views.get(life.epoch)
                view = self._views[life.epoch] = self._view(life)
                self._room += view.room - (before.room if before is not None else 0)
        self._unseen.clear()

    def _view(self, life: WorkerLife) -> WorkerView:
        heartbeat_ms = self._settings.heartbeat_s * 1000
        if self._now_ms - life.reported_at_ms >= heartbeat_ms:
            life.reported_done, life.reported_at_ms = life.done, self._now_ms
        spec = life.spec
        resident, loading_ms = self._memories.of(life.epoch, self._now_ms)
        return WorkerView(
            epoch=life.epoch,
            name=spec.name,
            concurrency=spec.concurrency,
            weight=spec.weight,
            models=self._memories.models,
            tasks=_TASKS,
            ingress=_QUEUES,
            leases=life.leases,
            leased_cost_ms=life.leased_cost_ms + round(loading_ms * spec.weight),
            taken=len(life.running),
            window=self._windows.window(
                life.epoch, concurrency=spec.concurrency, done=life.reported_done, now_ms=int(self._now_ms)
            ),
            done=life.done,
            consume_age_ms=round(self._settings.stall_s * 1000) + 1 if life.silent else 0,
            resident=resident,
            loading=self._memories.loading(life.epoch),
            models_max=spec.models_max,
        )

    def _start(self, life: WorkerLife, job: int, there_ms: float) -> None:
        life.running.add(job)
        self.outcome.runs[job] += 1
        if self._jobs[job].model:
            self._enter(life, job, max(self._now_ms, there_ms))
        else:
            self._work(life, job, max(self._now_ms, there_ms))

    def _work(self, life: WorkerLife, job: int, begins_ms: float) -> None:
        work_ms = self._work_ms(life, self._jobs[job])
        self._at(begins_ms + work_ms / life.spec.weight, self._end, life, job, work_ms)

    def _enter(self, life: WorkerLife, job: int, now_ms: float) -> None:
        """Begin a job; it runs once its model is in memory."""
        model = self._jobs[job].model
        ready_ms = self._memories.enter(life.models, model, now_ms)
        if ready_ms is None:
            life.unplaced.append(job)
            return
        for beat_ms in self._memories.beats(now_ms, ready_ms):
            self._at(beat_ms, self._beat)
        self._work(life, job, ready_ms)

    def _leave(self, life: WorkerLife, model: str) -> None:
        """End a job's use of its model; jobs that wait for a place in memory try again."""
        life.models.leave(model)
        for _ in range(len(life.unplaced)):
            self._enter(life, life.unplaced.popleft(), self._now_ms)

    def _beat(self) -> None:
        self._memories.hear({life.epoch: (life.spec.name, life.models) for life in self._lives.values()}, self._now_ms)
        for life in self._lives.values():
            self._notice(life)

    def _work_ms(self, life: WorkerLife, job: SimJob) -> float:
        """A job's work without what this worker's caches save; from now on they hold its blocks and session."""
        blocks, kept = 0, False
        if job.prefix and self._caches.blocks:
            blocks = life.blocks.use(job.prefix)
            self.outcome.blocks.asked += len(job.prefix)
            self.outcome.blocks.hits += blocks
        if job.session is not None and self._caches.sessions:
            kept = life.sessions.use((job.session,)) == 1 and self._session_at.get(job.session) is life
            if job.session in self._session_at:
                self.outcome.sessions.asked += 1
                self.outcome.sessions.hits += kept
            self._session_at[job.session] = life  # what other workers keep of the session is out of date now
        return job.left_ms(blocks, session_kept=kept) if blocks or kept else job.cost_ms

    def _end(self, life: WorkerLife, job: int, work_ms: float) -> None:
        if life.died:
            return
        life.running.remove(job)
        life.leased_cost_ms -= self._estimates[job]
        life.done += 1
        account, outcome = self.outcome.workers[life.spec.name], self.outcome
        account.jobs += 1
        account.work_ms += work_ms
        account.busy_ms += work_ms / life.spec.weight
        outcome.response_ms[job] = self._now_ms - self._jobs[job].at_ms
        outcome.ended_ms = self._now_ms
        if self._jobs[job].model:
            self._leave(life, self._jobs[job].model)
        if life.unbegun:
            self._start(life, *life.unbegun.popleft())
        self._notice(life)

    def _die(self, failure: Failure) -> None:
        for life in list(self._lives.values()):
            if life.spec.name != failure.name or life.died:
                continue
            life.died = True
            self._at(self._now_ms + self._settings.stall_s * 1000, self._fall_silent, life)
            self._at(self._now_ms + self._settings.lease_ttl_s * 1000, self._reap, life)
            if failure.back_ms is not None:
                self._at(self._now_ms + failure.back_ms, self._begin, life.spec)

    def _fall_silent(self, life: WorkerLife) -> None:
        if life.epoch in self._lives:
            life.silent = True
            self._notice(life)  # jobs that wait for this worker have no reason to wait any longer

    def _reap(self, life: WorkerLife) -> None:
        """Put the jobs of a dead worker back in line, the oldest first."""
        self._read_workers()
        self._room -= self._views.pop(life.epoch).room
        del self._lives[life.epoch]
        for job in sorted([*life.running, *(job for job, _ in life.unbegun)], reverse=True):
            self._return(job)
        self._windows.forget(set(self._lives))

    # -- dispatching

    def _place_or_rest(self) -> None:
        if self._now_ms >= self._rests_until_ms:
            self._rests_until_ms = self._now_ms + self._tick_ms
            self._place()
        elif not self._will_wake:
            self._will_wake = True
            self._at(self._rests_until_ms, self._wake)

    def _wake(self) -> None:
        self._will_wake = False

    def _place(self) -> None:
        self._changed = False
        while True:
            self._read_workers()
            if not self._room:
                return
            decided = self._plan()
            self._memories.assigned(decided.assignments, self._now_ms)
            for assign in decided.assignments:
                jobs, life = self._lanes[assign.lane], self._lives[assign.epoch]
                for _ in range(assign.count):
                    self._lease(life, jobs.popleft())
                self._waiting -= assign.count
                self._touch_lane(assign.lane, self._lane_views[assign.lane].lane, jobs)
                self._unseen[life] = None
            if not self._waiting or sum(assign.count for assign in decided.assignments) < self._settings.batch_size:
                self._plan_again_when_a_hold_ends(decided)
                return

    def _plan_again_when_a_hold_ends(self, decided: Plan) -> None:
        """A job that waits for a certain worker may go to another once it has waited long enough.

        Nothing else need happen then, so that moment is an event of its own.
        """
        spans_ms = (self._settings.sticky_wait_s * 1000, self._settings.hold_max_s * 1000)
        for hold in decided.holds:
            if hold.waits_for:
                admitted_ms = self._lane_views[hold.lane].admitted_ms
                ends = [at_ms for span_ms in spans_ms if (at_ms := admitted_ms + span_ms + 1) > self._now_ms]
                if ends and not self._now_ms < self._plans_again_ms <= min(ends):
                    self._plans_again_ms = min(ends)
                    self._at(self._plans_again_ms, self._plan_again)

    def _plan_again(self) -> None:
        self._changed = True

    def _plan(self) -> Plan:
        self.outcome.plans += 1
        return plan(
            Snapshot(
                int(self._now_ms), True, frozenset(), tuple(self._lane_views.values()), tuple(self._views.values()),
                load_ms=self._memories.load_ms,
            ),
            self._state,
            self._policy,
            rng=self._rng,
            jobs_max=self._settings.batch_size,
        )

    def _lease(self, life: WorkerLife, job: int) -> None:
        life.leased_cost_ms += self._estimates[job]
        there_ms = self._now_ms + self._handover_ms
        if len(life.running) < life.spec.concurrency and not life.died:
            self._start(life, job, there_ms)
        else:
            life.unbegun.append((job, there_ms))

    def _at(self, at_ms: float, happen: Callable[..., None], *facts: object) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_ms, self._count, happen, facts))


_TASKS: Final = frozenset({TASK})
_QUEUES: Final = frozenset({INGRESS})
