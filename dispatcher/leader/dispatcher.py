"""The dispatcher's loop: look once, decide, apply. Keeps no job in memory: kill it at any point and start another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Event as Signal
from uuid import uuid4

import msgspec
import redis

from dispatcher.clock import Clock
from dispatcher.core.facts.decisions import Plan
from dispatcher.core.facts.snapshot import Snapshot, WorkerView
from dispatcher.errors import FormatMismatch, NotLeader
from dispatcher.leader.leadership import STANDBY_WAIT_S, Leadership
from dispatcher.leader.outage import Outage
from dispatcher.leader.parts import Parts
from dispatcher.leader.planning import StepPlan
from dispatcher.leader.returns.suspects import Others
from dispatcher.leader.sleep import Woken
from dispatcher.store.leader.admit_batch import IngressList
from dispatcher.store.leader.dispatch_store import Applied
from dispatcher.store.leader.look import Look, LookAt

log = logging.getLogger(__name__)


class StepReport(msgspec.Struct, frozen=True):
    """What a step did."""

    leads: bool
    admitted: int = 0
    assigned: int = 0
    promoted: int = 0
    returned: int = 0
    more: bool = False
    """The step stopped at a limit: the next one has work at once."""
    wait_s: float = 0.0
    """If ``more`` is False: the longest sleep before the next step. What makes work meanwhile wakes the :class:`Waker`.
    """
    plan: Plan | None = None


class _Seen(msgspec.Struct, frozen=True):
    """A look, and when it was taken."""

    look: Look
    lists: Sequence[IngressList]
    """The ingress lists that were looked at."""
    asked_ms: int
    """Monotonic time before Redis took the look."""
    heard_ms: int
    """Monotonic time after Redis took the look."""


class Dispatcher:
    """One dispatcher of a cell.

    :meth:`step` does the work; :meth:`run` sleeps between steps. Exception: where a job woke us, ``step`` itself waits
    out ``tick_interval_ms`` once the job is on its way to a worker.
    """

    def __init__(
        self, parts: Parts, leadership: Leadership, outage: Outage, clock: Clock, *, look_at: LookAt, idle_wait_s: float
    ) -> None:
        """``look_at``: how much a look reads; its ``limit`` bounds what a step admits, promotes and assigns.
        ``idle_wait_s``: the longest sleep.
        """
        self.parts = parts
        self._leadership = leadership
        self._outage = outage
        self._clock = clock
        self._look_at = look_at
        self._idle_wait_s = idle_wait_s

    # -- the loop

    def run(self, stop: Signal) -> None:
        """Step until ``stop`` is set, then give up the lead. An outage of Redis, or a bug, is logged and survived.

        Raises :class:`FormatMismatch` where this process must not lead this cell.
        """
        while not stop.is_set():
            try:
                report = self.step()
                self._outage.well()
                self._pause(report, stop)
            except redis.RedisError as exc:
                wait_s = self._outage.failed(exc)
                self.recover()
                stop.wait(wait_s)
            except FormatMismatch:
                self.resign()
                raise
            except Exception:
                # A bug in one step must not end dispatching: no job is in memory, so the next step starts afresh.
                log.exception("a step of the dispatcher failed; going on")
                stop.wait(1.0)
        self.resign()

    def recover(self) -> None:
        """Redis was away: give up the connections to it, and count nobody's silence in the meantime."""
        self.parts.sleep.close()
        self.parts.store.drop_idle_connections()
        self.parts.reaper.restart()

    def resign(self) -> None:
        """Give up the lead at once, so that a standby need not wait for it to expire."""
        self._leadership.resign()
        self.parts.sleep.close()

    def _pause(self, report: StepReport, stop: Signal) -> None:
        if report.more:
            return
        if not report.leads:
            stop.wait(STANDBY_WAIT_S)
            return
        parts = self.parts
        parts.sleep.until_woken(stop, parts.ingress.open_lists(), report.wait_s, workers=len(parts.workers))

    # -- one step

    def step(self) -> StepReport:
        """Look once, decide, apply; safe to call again after any exception. Sleeps only where a job ended the sleep
        before it, which is in :meth:`run`.
        """
        try:
            return self._step()
        except redis.ResponseError as exc:
            if not self.parts.mistyped.heal(exc):
                raise
            return self._step()

    def _step(self) -> StepReport:
        woken = self.parts.sleep.woken()
        if not self._leadership.renew():
            self.parts.sleep.close()
            return StepReport(leads=False)
        try:
            return self._lead(woken)
        except NotLeader:
            self._leadership.lose()
            return StepReport(leads=False)

    def _lead(self, woken: Woken | None) -> StepReport:
        parts, began_ms, limit = self.parts, self._clock.monotonic_ms(), self._look_at["limit"]

        parts.mistyped.step(began_ms)
        seen = self._look(woken, began_ms)
        look = seen.look
        workers = parts.workers.views(look)

        # Before the plan: move, bury and set apart what it must not give out.
        parts.rollouts.step(now_ms=look.now_ms, monotonic_ms=began_ms)
        rerouted = parts.withdrawn.step(look.lanes, workers, began_ms)
        late = parts.late_jobs.step(look.lanes, workers, look.now_ms)
        others = parts.suspects.step(look.lanes, workers, look.paused)

        # Admit, promote, plan and assign. The plan is made while Redis admits.
        parts.ingress.resolve_by(parts.rollouts.splits)
        plan = StepPlan(parts.planner, parts.late_jobs, self._snapshot(look, others))
        is_due = look.next_due_ms is not None and look.next_due_ms <= look.now_ms
        applied = parts.store.apply(
            plan.keep(parts.ingress.read(look, seen.lists)),
            plan.assignments,
            promote=limit if is_due else 0,
            # If a job woke us, rest here, before the bookkeeping below: on a small machine it would take CPU from Redis
            # and from the worker that is about to run that job.
            when_sent=None if woken is None else parts.sleep.rest,
        )

        # After: all that no job waits for.
        parts.residency.assigned(plan.decided.assignments, look.now_ms)
        parts.windows.ticked(self._clock.monotonic_ms() - began_ms)
        self._tell(plan, applied, others)
        returned = self._take_back(seen, workers, others, plan.decided)
        parts.learning.step(look.now_ms, workers)
        parts.health.step(workers, look.now_ms)

        admitted, assigned = sum(applied.admitted), sum(applied.assigned)
        wanted = sum(assign.count for assign in plan.decided.assignments)
        more = (
            bool(applied.promoted or returned or rerouted or late)
            or admitted >= limit
            or admitted < sum(map(len, look.messages.values()))
            or wanted >= limit
            or assigned < wanted
        )
        return StepReport(True, admitted, assigned, applied.promoted, returned, more, self._wait_s(look), plan.decided)

    def _look(self, woken: Woken | None, began_ms: int) -> _Seen:
        """The look that came with the end of the sleep, if it is of the lists that are open now; else a new look."""
        self.parts.unbegun.forget()
        lists = self.parts.ingress.open_lists()
        look, asked_ms = (None, began_ms) if woken is None else (woken.granted.look(lists), woken.asked_ms)
        if look is None:
            look, asked_ms = self.parts.store.look(lists, **self._look_at), began_ms
        if not look.leads:
            raise NotLeader("the lead expired")
        self.parts.unreadable.report(look.unreadable)
        return _Seen(look, lists, asked_ms, heard_ms=self._clock.monotonic_ms())

    def _snapshot(self, look: Look, others: Others) -> Snapshot:
        load_ms = self.parts.residency.load_ms
        return Snapshot(look.now_ms, True, look.paused, others.lanes, others.workers, look.next_due_ms, load_ms, look.leased_ms)

    def _tell(self, plan: StepPlan, applied: Applied, others: Others) -> None:
        """Emit, log and publish what came of the plan."""
        parts, monotonic_ms = self.parts, self._clock.monotonic_ms()
        parts.ingress.report(plan.batches, applied.admitted)
        parts.unreadable.report(f"what is now under {key.decode(errors='backslashreplace') + ':aside'!r}" for key in applied.aside)
        parts.decision_log.step(plan.snapshot, plan.batches, plan.decided, applied, monotonic_ms=monotonic_ms)
        parts.waiting.step(*others.with_suspects(plan.snapshot, plan.decided), monotonic_ms=monotonic_ms)
        parts.late_jobs.report(applied.late)

    def _take_back(self, seen: _Seen, workers: Sequence[WorkerView], others: Others, decided: Plan) -> int:
        """Give back leases of ended workers, and unstarted leases of workers that will not start them. Returns how
        many.
        """
        now_ms = seen.look.now_ms
        reaped = self.parts.reaper.step(workers, now_ms=now_ms, asked_ms=seen.asked_ms, heard_ms=seen.heard_ms)
        assigned = (assign.epoch for assign in decided.assignments)
        return reaped + self.parts.recaller.step(others.workers, assigned, now_ms, self.parts.residency.load_ms)

    def _wait_s(self, look: Look) -> float:
        if look.next_due_ms is None:
            return self._idle_wait_s
        return min(self._idle_wait_s, max(0.0, (look.next_due_ms - look.now_ms) / 1000))


def new_token() -> str:
    """A leader's id: random, so that it can only be compared for equality."""
    return uuid4().hex
