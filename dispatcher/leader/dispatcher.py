"""The dispatcher's loop: look once, decide, apply. Keeps no job in memory: kill it at any point and start another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from math import ceil
from random import Random
from threading import Event as Signal
from uuid import uuid4

import msgspec
import redis

from dispatcher.clock import Clock
from dispatcher.core.admission.rules import Admission, Refused
from dispatcher.core.choosing.plan import PolicyState, plan
from dispatcher.core.choosing.recorded import Recorder
from dispatcher.core.choosing.window import Windows
from dispatcher.core.facts.decisions import Assign, Plan
from dispatcher.core.facts.evidence import Subscriber
from dispatcher.core.facts.message import JSON_CONTENT
from dispatcher.core.facts.snapshot import Snapshot, WorkerView, is_paused
from dispatcher.core.learning.costs import Costs
from dispatcher.core.learning.residency import Residency
from dispatcher.core.learning.speeds import Speeds
from dispatcher.errors import NotLeader
from dispatcher.events import Event, JobsRefused, UnknownHeaderField, Unreadable, WorkerRegistered
from dispatcher.leader.health.watch import HealthWatch
from dispatcher.leader.leadership import STANDBY_WAIT_S, Leadership
from dispatcher.leader.learning import Evidence
from dispatcher.leader.outage import Outage
from dispatcher.leader.returns.deadlines import LateJobs
from dispatcher.leader.returns.reap import Reaper
from dispatcher.leader.returns.recall import Recaller
from dispatcher.leader.returns.suspects import Suspects
from dispatcher.leader.rollout import Rollouts
from dispatcher.leader.telling.decision_log import DecisionLog
from dispatcher.leader.telling.waiting import Teller
from dispatcher.leader.wake import Waker
from dispatcher.settings import Settings
from dispatcher.settings.rules import policy_of
from dispatcher.store.leader.admit_batch import AdmitBatch, IngressList
from dispatcher.store.leader.dispatch_store import DispatchStore
from dispatcher.store.leader.look import Granted, Look, LookAt, LookWish, WorkerRow
from dispatcher.store.leader.rollout_store import SUBJECT
from dispatcher.store.leader.views import arrivals, lost_worker_view, worker_view
from dispatcher.store.registration import Registration

log = logging.getLogger(__name__)

ADMIT_BATCH = 250

DECIDE_SHARE = 4
"""A step reads messages for such a part of ``leader_ttl_s`` at most. Some take long (above all compressed ones), and a leader that loses
the lead over them admits none; nor would the next.
"""

WISH_WORKERS_MAX = 64
"""In a larger fleet a look costs Redis more than the round trip that a wish saves, and not every one is of use."""


class StepReport(msgspec.Struct, frozen=True):
    """What a step did. ``more``: it stopped at a limit, so the next one has work. ``wait_s``: else, how long to sleep at most; all that
    makes work in the meantime wakes the :class:`Waker`.
    """

    leads: bool
    admitted: int = 0
    assigned: int = 0
    promoted: int = 0
    returned: int = 0
    more: bool = False
    wait_s: float = 0.0
    plan: Plan | None = None


class Dispatcher:
    """One dispatcher of a cell. :meth:`step` does the work and :meth:`run` sleeps, but for the rest of a step that a job woke up."""

    def __init__(
        self,
        store: DispatchStore,
        settings: Settings,
        *,
        admission: Admission,
        clock: Clock,
        rng: Random,
        emit: Callable[[Event], None],
        waker: Waker | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._admission = admission
        self._clock = clock
        self._rng = rng
        self._emit = emit
        self._waker = waker
        self._windows = Windows(settings.window_extra, settings.window_hide_ms, idle=settings.window_idle)
        self._policy = policy_of(settings)
        self._plan = plan if recorder is None else recorder.plan
        self._state = PolicyState()
        self._reaper = Reaper(store, settings, emit)
        self._suspects = Suspects(store, self._policy.filters, emit)
        self._begin_reign()
        self._rollouts = Rollouts(store, admission.routes, emit)
        self._speeds = Speeds(prior_jobs=settings.speed_prior_jobs, measured=settings.measure_speed)
        costs = Costs(self._speeds)
        if settings.learn_costs:
            admission.costs = costs.seconds
        self._residency = Residency(settings.load_prior_ms())
        self._recaller = Recaller(store, settings, self._policy.filters, emit)
        self._health = HealthWatch(store, settings, emit, probes=JSON_CONTENT in admission.accept_content)
        learners: dict[str, Subscriber] = {
            "speeds": self._speeds, "costs": costs, "residency": self._residency, "health": self._health.learner, SUBJECT: self._rollouts,
            "accounts": self._state.accounts,
        }  # fmt: skip
        self._evidence = Evidence(store.policy(), learners, interval_ms=round(settings.heartbeat_s * 1000))
        self._registrations: dict[str, Registration] = {}
        self._queues: set[str] = set(settings.ingress_queues)
        self._models: set[str] = set(settings.models)
        self._ingress: list[IngressList] = []
        self._rested_at_ms = 0
        self._look_at = LookAt(
            limit=settings.batch_size, message_bytes_max=settings.message_bytes_max, by_lane=bool(self._policy.caps)
        )
        self._wish: LookWish | None = None
        self._granted: Granted | None = None
        self._waits_since_ms = 0
        self._paused: frozenset[str] = frozenset()
        self._warned_fields: set[str] = set()
        self._passed_over: set[str] = set()
        ttl_ms = round(settings.leader_ttl_s * 1000)
        self._leadership = Leadership(store, ttl_ms=ttl_ms, clock=clock, emit=emit, begin=self._succeed)
        self._set_ingress()

    # -- the loop

    def run(self, stop: Signal) -> None:
        """Step until ``stop`` is set, then give up the lead. An outage of Redis, or a bug, is logged and survived."""
        outage = Outage(self._clock, self._emit)
        while not stop.is_set():
            try:
                report = self.step()
                outage.well()
                self._pause(report, stop)
            except redis.RedisError as exc:
                wait_s = outage.failed(exc)
                if self._waker is not None:
                    self._waker.close()
                self._store.drop_idle_connections()
                self._reaper.liveness.restart()
                stop.wait(wait_s)
            except Exception:
                # A bug in one step must not end dispatching: nothing is in memory, so the next step starts afresh.
                log.exception("a step of the dispatcher failed; going on")
                stop.wait(1.0)
        self.resign()

    def resign(self) -> None:
        """Give up the lead at once, so that a standby need not wait for it to expire."""
        self._leadership.resign()
        self._close_waker()

    def _pause(self, report: StepReport, stop: Signal) -> None:
        if report.more:
            return
        if not report.leads:
            stop.wait(STANDBY_WAIT_S)
            return
        if self._waker is None:
            stop.wait(report.wait_s)
        else:
            # What a paused queue holds must not wake us: it would at once, and again.
            ingress = self._unpaused()
            if len(self._registrations) > WISH_WORKERS_MAX:
                self._wish = None
            elif self._wish is None or self._wish.ingress != tuple(ingress):
                self._wish = self._store.wish(ingress, **self._look_at)
            self._waits_since_ms = self._clock.monotonic_ms()
            self._granted = self._waker.wait([one.key for one in ingress], report.wait_s, self._wish)
        # Under a stream of small arrivals every look would find one job; a rest makes the next batch larger. After a quiet time the
        # rest is over already.
        if self._rest():
            self._granted = None
        self._rested_at_ms = self._clock.monotonic_ms()

    def _rest(self) -> bool:
        """Sleep until the shortest time between two ticks is over; whether it was not."""
        rest_ms = self._rested_at_ms + self._settings.tick_interval_ms - self._clock.monotonic_ms()
        if rest_ms <= 0:
            return False
        self._clock.sleep(rest_ms / 1000)
        return True

    # -- one step

    def step(self) -> StepReport:
        """Look once, decide, apply; safe to call again after any exception. Called by anything but :meth:`run`, it never sleeps."""
        granted, self._granted = self._granted, None
        if not self._leadership.renew():
            self._close_waker()
            return StepReport(leads=False)
        try:
            return self._lead(granted)
        except NotLeader:
            self._leadership.lose()
            return StepReport(leads=False)

    def _lead(self, granted: Granted | None) -> StepReport:
        settings = self._settings
        began_ms = self._clock.monotonic_ms()
        ingress = self._unpaused()  # as of the last look: the backlog of a paused queue must not use up this one
        look, asked_ms = None if granted is None else granted.look(ingress), self._waits_since_ms
        if look is None:
            look, asked_ms = self._store.look(ingress, **self._look_at), began_ms
        heard_ms = self._clock.monotonic_ms()
        if not look.leads:
            raise NotLeader("the lead expired")
        self._paused = look.paused
        workers = self._workers(look)
        rerouted = self._rollouts.step(look.lanes, workers, now_ms=look.now_ms, monotonic_ms=began_ms)
        self._admission.splits = self._rollouts.splits
        late = self._late.step(look.lanes, workers, look.now_ms)
        others = self._suspects.step(look.lanes, workers, look.paused)
        snapshot = Snapshot(
            look.now_ms, True, look.paused, others.lanes, others.workers, look.next_due_ms, self._residency.load_ms, look.leased_ms
        )
        batches: list[AdmitBatch] = []
        planned, decided = snapshot, Plan((), ())

        def decide() -> Iterator[AdmitBatch]:
            for batch in self._decide(look, ingress):
                batches.append(batch)
                yield batch

        def place() -> tuple[Assign, ...]:
            nonlocal decided, planned
            planned = snapshot.with_arrivals(arrivals(batches, look.now_ms))
            self._late.saw(planned.lanes)
            decided = self._plan(planned, self._state, self._policy, rng=self._rng, jobs_max=settings.batch_size)
            return decided.assignments

        due = look.next_due_ms is not None and look.next_due_ms <= look.now_ms
        # Woken by a job, it rests here: what is left to do would keep the processors from Redis and the worker, for whom the job waits.
        when_sent = None if granted is None else self._rest
        applied = self._store.apply(decide(), place, promote=settings.batch_size if due else 0, when_sent=when_sent)
        self._residency.assigned(decided.assignments, look.now_ms)
        self._windows.ticked(self._clock.monotonic_ms() - began_ms)
        self._report_refusals(batches, applied.admitted)
        self._pass_over(f"what is now under {key.decode(errors='backslashreplace') + ':aside'!r}" for key in applied.aside)
        self._decisions.step(planned, batches, decided, applied, monotonic_ms=self._clock.monotonic_ms())
        self._teller.step(*others.told(planned, decided), monotonic_ms=self._clock.monotonic_ms())
        self._late.tell(applied.late)
        returned = self._reaper.step(workers, now_ms=look.now_ms, asked_ms=asked_ms, heard_ms=heard_ms)
        given = (one.epoch for one in decided.assignments)
        returned += self._recaller.step(others.workers, given, look.now_ms, self._residency.load_ms)
        self._evidence.step(look.now_ms, workers)
        self._health.step(workers, look.now_ms)
        wait_s = settings.idle_wait_s
        if look.next_due_ms is not None:
            wait_s = min(wait_s, max(0.0, (look.next_due_ms - look.now_ms) / 1000))
        admitted, assigned = sum(applied.admitted), sum(applied.assigned)
        wanted = sum(one.count for one in decided.assignments)
        return StepReport(
            leads=True,
            admitted=admitted,
            assigned=assigned,
            promoted=applied.promoted,
            returned=returned,
            more=bool(applied.promoted or returned or rerouted or late)
            or admitted >= settings.batch_size
            or admitted < sum(map(len, look.messages.values()))
            or wanted >= settings.batch_size
            or assigned < wanted,
            wait_s=wait_s,
            plan=decided,
        )

    # -- leading

    def _succeed(self) -> None:
        """The lead was gained: go on from what is in Redis, and forget what was true in an earlier lead."""
        self._begin_reign()
        self._reaper.liveness.restart()
        self._suspects.restart()
        self._learn_queues()
        self._rollouts.restart()
        self._evidence.load()

    def _begin_reign(self) -> None:
        self._late = LateJobs(self._store, self._emit)
        self._decisions = DecisionLog(self._store, kept=self._settings.decisions_kept, policy=self._policy)
        self._teller = Teller(self._store, self._settings, self._policy.filters, self._emit)

    def _close_waker(self) -> None:
        """A blocking command left open would take words that are meant for the leader."""
        if self._waker is not None:
            self._waker.close()

    def _learn_queues(self) -> None:
        """What workers before this leader's time have named."""
        self._queues |= self._store.ingress_queues()
        self._models |= self._store.models()
        self._set_ingress()

    def _set_ingress(self) -> None:
        """All lists to admit from, priority-major as kombu's: every queue's first step before any queue's second."""
        keys = self._store.keys
        self._ingress = [
            IngressList(key, queue, step)
            for at, step in enumerate(keys.priority_steps)
            for queue in sorted(self._queues)
            for key in (keys.ingress(queue)[at],)
        ]
        self._admission.known_models = frozenset(self._models) or None

    # -- deciding

    def _decide(self, look: Look, ingress: list[IngressList]) -> Iterator[AdmitBatch]:
        """What to do with each message, in batches small enough that Redis moves one while the next is decided about; as far as it comes in
        time, and with one at least.
        """
        until_ms = self._clock.monotonic_ms() + round(1000 * self._settings.leader_ttl_s / DECIDE_SHARE)

        def is_enough() -> bool:
            return self._clock.monotonic_ms() >= until_ms

        for index, messages in look.messages.items():
            source = ingress[index]
            if self._is_paused(source):
                continue  # its jobs stay plain Celery messages: what `release` returned must not be fetched again
            for at in range(0, len(messages), ADMIT_BATCH):
                part = messages[at : at + ADMIT_BATCH]
                decisions = self._admission.read_all(part, ingress=source.queue, step=source.step, now_ms=look.now_ms, is_enough=is_enough)
                yield AdmitBatch(source, part[: len(decisions)], decisions)
                if is_enough():
                    return

    def _unpaused(self) -> list[IngressList]:
        return [one for one in self._ingress if not self._is_paused(one)] if self._paused else self._ingress

    def _is_paused(self, source: IngressList) -> bool:
        return is_paused(source.queue, self._paused)

    def _workers(self, look: Look) -> tuple[WorkerView, ...]:
        rows = look.workers
        unknown = [row.epoch for row in rows if row.epoch not in self._registrations]
        if unknown:
            for epoch, registration in self._store.registrations(unknown).items():
                self._registrations[epoch] = registration
                self._emit(WorkerRegistered(registration.name, epoch, registration.concurrency, registration.weight))
                self._queues.update(registration.ingress)
                self._models.update(registration.models)
            self._set_ingress()
            lost = [row.epoch for row in rows if row.epoch not in self._registrations and not row.ended]
            self._pass_over([f"the registration of worker {epoch}" for epoch in lost])
        self._pass_over(look.unreadable)
        if len(self._registrations) > len(rows):
            alive = {row.epoch for row in rows}
            self._registrations = {e: r for e, r in self._registrations.items() if e in alive}
            self._windows.forget(alive)
        return tuple(self._view(row, look.now_ms) for row in rows)

    def _pass_over(self, unreadable: Iterable[str]) -> None:
        for what in unreadable:
            if what not in self._passed_over:
                self._passed_over.add(what)
                self._emit(Unreadable(what))

    def _view(self, row: WorkerRow, now_ms: int) -> WorkerView:
        registration = self._registrations.get(row.epoch)
        if registration is None:
            return lost_worker_view(row)
        window = self._windows.window(row.epoch, concurrency=registration.concurrency, done=row.done, now_ms=now_ms)
        resident, loading_ms = self._residency.of(row.epoch, now_ms, registration.resident)
        if loading_ms:  # it owes that time too, before it begins with the next job
            row = row._replace(leased_cost_ms=row.leased_cost_ms + round(loading_ms * registration.weight))
        ejected, warmth = self._health.standing(row.epoch, now_ms)
        return worker_view(
            row, registration, window=ceil(window * warmth), speeds=self._speeds.of(registration.name), resident=resident,
            loading=self._residency.loading(row.epoch), ejected=ejected, warmth=warmth,
        )  # fmt: skip

    def _report_refusals(self, batches: list[AdmitBatch], admitted: list[int]) -> None:
        refused: dict[str, int] = {}
        for batch, count in zip(batches, admitted, strict=True):
            for decision in batch.decisions[:count]:
                if isinstance(decision, Refused):
                    refused[decision.reason] = refused.get(decision.reason, 0) + 1
        for reason, count in refused.items():
            self._emit(JobsRefused(count, reason))
        for name in self._admission.unknown_fields.keys() - self._warned_fields:
            self._warned_fields.add(name)
            self._emit(UnknownHeaderField(name))


def new_token() -> str:
    """A leader's id: random, so that it can only be compared for equality."""
    return uuid4().hex
